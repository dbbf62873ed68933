"""ViViT: tubelets of a clip as tokens, and four ways to let them attend.

    video (B, 3, T, H, W) -- t x P x P tubelets, linear --> (B, n_t, n_h, n_w, D) + positions

    model 1  space-time attention       [class; all tokens] -- encoder --> class token
    model 2  factorised encoder         each n_t: [class; its tokens] -- spatial encoder --> (B, n_t, D)
                                        [class; those] + positions -- temporal encoder --> class token
    model 3  factorised self-attention  block: attention in space, attention in time, MLP; mean of all tokens
    model 4  factorised dot product     block: half of the heads look in space, half in time, MLP; mean of all tokens

    -- LN -- linear --> logits (B, num_classes)

Source: Arnab et al., "ViViT: A Video Vision Transformer", ICCV 2021 (arXiv 2103.15691), section 3. Pre-LN, eps 1e-6
and the tanh form of GELU, as in the authors' JAX code. Book: chapter 10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minirsa.layers.attention import (
    MultiHeadAttention,
    check_heads,
    initialize_linear,
    scaled_dot_product_attention,
)
from minirsa.layers.transformer import EncoderLayer, FeedForward, StochasticDepth
from minirsa.models.timesformer import Grid, group, ungroup
from minirsa.models.vit import EPS, fit_positions, from_timm
from minirsa.models.weights import load_exactly, read_tensors, rename

VARIANTS = {
    1: "space-time attention",
    2: "factorised encoder",
    3: "factorised self-attention",
    4: "factorised dot product",
}


def tubelets(video: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Cut a clip into t x P x P boxes: (B, C, T, H, W) -> (B, n_t, n_h, n_w, C t P P), channels first in each.

    A linear map of these is a 3-D convolution whose kernel is its stride. What does not fill a box at the end of the
    clip is left out: n_t = floor(T / t), and so on. Raises ValueError for a clip smaller than one tubelet. Source:
    Arnab et al. 2021, section 3.2. Book: chapter 10, "Tubelets".
    """
    if video.ndim != 5 or min(size) < 1 or 0 in video.shape or any(a < b for a, b in zip(video.shape[2:], size)):
        raise ValueError(f"expected a clip (B, C, T, H, W) of at least {tuple(size)}, got {tuple(video.shape)}")
    (t, p, q), (nt, nh, nw) = size, [side // length for side, length in zip(video.shape[2:], size)]
    x = video[:, :, : nt * t, : nh * p, : nw * q]
    x = x.unflatten(4, (nw, q)).unflatten(3, (nh, p)).unflatten(2, (nt, t))  # (B, C, nt, t, nh, p, nw, q)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


@torch.no_grad()
def initialize_tubelets(weight: Tensor, image_weight: Tensor, method: str) -> None:
    """Fill a tubelet embedding (D, C, t, P, P) from an image's patch embedding (D, C, P, P), in place.

    "inflate": the same in every frame, divided by t, so that a clip of equal frames gives what the image gave;
    "central": zero but for frame t // 2, so that every clip does what its middle frames' images did. Raises ValueError
    for another method or for shapes that do not fit. Source: Arnab et al. 2021, equations 8 and 9 (section 3.4).
    Book: chapter 10, "Starting from an image model".
    """
    if weight.ndim != 5 or image_weight.shape != weight.shape[:2] + weight.shape[3:]:
        raise ValueError(
            f"expected an image embedding (D, C, P, P) for {tuple(weight.shape)}, got {tuple(image_weight.shape)}"
        )
    if method == "inflate":
        weight.copy_(image_weight[:, :, None] / weight.shape[2])
    elif method == "central":
        weight.zero_()
        weight[:, :, weight.shape[2] // 2] = image_weight
    else:
        raise ValueError(f'expected method "inflate" or "central", got {method!r}')


class FactorisedSelfAttentionLayer(nn.Module):
    """Model 3's block: attention in space, then in time, then an MLP: (B, n_t, n_h, n_w, D) -> the same shape.

    Each with a norm before and a residual sum behind; the temporal attention's last projection starts at zero, so
    that the block begins as an image model's. Source: Arnab et al. 2021, equations 4 to 6. Book: chapter 10, "Model 3".
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, activation: str, dropout: float, stochastic_depth: float
    ):
        super().__init__()
        self.space_norm = nn.LayerNorm(width, eps=EPS)
        self.space_attention = MultiHeadAttention(width, heads)
        self.time_norm = nn.LayerNorm(width, eps=EPS)
        self.time_attention = MultiHeadAttention(width, heads)
        nn.init.zeros_(self.time_attention.output.weight)
        self.feed_forward_norm = nn.LayerNorm(width, eps=EPS)
        self.feed_forward = FeedForward(width, hidden, activation=activation)
        self.dropout = nn.Dropout(dropout)
        self.stochastic_depth = StochasticDepth(1.0 - stochastic_depth)

    def forward(self, x: Tensor, return_weights: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Output, and with return_weights {"space": (B, n_t, heads, N, N), "time": (B, N, heads, n_t, n_t)}."""
        grid, kept = tuple(x.shape[1:4]), {}
        for axis, norm, attention in (
            ("space", self.space_norm, self.space_attention),
            ("time", self.time_norm, self.time_attention),
        ):
            groups = group(norm(x), axis)  # (B, groups, n, D)
            y = attention(groups.flatten(0, 1), return_weights=return_weights)
            if return_weights:
                y, weights = y
                kept[axis] = weights.unflatten(0, groups.shape[:2])
            y = ungroup(y.unflatten(0, groups.shape[:2]), axis, grid)
            x = x + self.stochastic_depth(self.dropout(y))
        y = self.feed_forward(self.feed_forward_norm(x))
        return x + self.stochastic_depth(self.dropout(y)), kept


class FactorisedDotProductAttention(nn.Module):
    """Model 4's attention: half of the heads look at their frame, half at their place in all frames.

    (B, n_t, n_h, n_w, D) -> the same shape; Y = Concat(Y_s, Y_t) W_O. As many parameters as one attention. Raises
    ValueError for an odd number of heads. Source: Arnab et al. 2021, section 3.3, model 4. Book: chapter 10, "Model 4".
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        check_heads(width, heads)
        if heads % 2:
            raise ValueError(f"expected an even number of heads, half for space and half for time, got {heads}")
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.apply(initialize_linear)

    def forward(self, x: Tensor, *, return_weights: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Output, and with return_weights {"space": (B, n_t, heads / 2, N, N), "time": (B, N, heads / 2, n_t, n_t)}."""
        grid, kept, outputs = tuple(x.shape[1:4]), {}, []
        halves = zip(*(layer(x).chunk(2, -1) for layer in (self.query, self.key, self.value)))
        for axis, parts in zip(("space", "time"), halves):
            split = [group(part, axis).unflatten(-1, (self.heads // 2, -1)).transpose(-2, -3) for part in parts]
            y = scaled_dot_product_attention(*split, return_weights=return_weights)  # (B, groups, heads / 2, n, d)
            if return_weights:
                y, kept[axis] = y
            outputs.append(ungroup(y.transpose(-2, -3).flatten(-2), axis, grid))
        return self.output(torch.cat(outputs, -1)), kept


class FactorisedDotProductLayer(nn.Module):
    """Model 4's block: `FactorisedDotProductAttention`, then an MLP, pre-LN: (B, n_t, n_h, n_w, D) -> the same."""

    def __init__(
        self, width: int, heads: int, hidden: int, *, activation: str, dropout: float, stochastic_depth: float
    ):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=EPS)
        self.attention = FactorisedDotProductAttention(width, heads)
        self.feed_forward_norm = nn.LayerNorm(width, eps=EPS)
        self.feed_forward = FeedForward(width, hidden, activation=activation)
        self.dropout = nn.Dropout(dropout)
        self.stochastic_depth = StochasticDepth(1.0 - stochastic_depth)

    def forward(self, x: Tensor, return_weights: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Output, and the weights as `FactorisedDotProductAttention` gives them."""
        y, kept = self.attention(self.attention_norm(x), return_weights=return_weights)
        x = x + self.stochastic_depth(self.dropout(y))
        y = self.feed_forward(self.feed_forward_norm(x))
        return x + self.stochastic_depth(self.dropout(y)), kept


class ViViT(nn.Module):
    """Videos to logits: (B, 3, T, H, W) -> (B, num_classes).

    Args:
        variant: 1 to 4, the paper's model (see the top of this file).
        num_classes, num_frames, image_size: what the positions are made for; forward takes any clip of at least one
            tubelet and interpolates the positions (linearly in time and space).
        tubelet: (t, P, P).
        width, depth, heads, hidden: D, number of blocks, heads, channels inside the MLP.
        temporal_depth: blocks of model 2's temporal encoder.
        activation: of the MLPs; "gelu" for weights of an image model that has the exact GELU.
        dropout: on each sublayer's output. stochastic_depth: of the last block, growing linearly from 0 (the paper's
            regulariser for small datasets, up to 0.3).
        checkpointing: keep only the blocks' inputs for the backward pass and compute the rest again.

    Raises ValueError for options and videos that do not fit. Source: Arnab et al. 2021, section 3. Book: chapter 10.
    """

    def __init__(
        self,
        *,
        variant: int = 1,
        num_classes: int = 400,
        num_frames: int = 32,
        image_size: int | tuple[int, int] = 224,
        tubelet: tuple[int, int, int] = (2, 16, 16),
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        temporal_depth: int = 4,
        activation: str = "gelu_tanh",
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        checkpointing: bool = False,
    ):
        super().__init__()
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        self.tubelet = tuple(tubelet)
        if variant not in VARIANTS:
            raise ValueError(f"expected variant among {sorted(VARIANTS)}, got {variant!r}")
        if len(self.tubelet) != 3 or min(self.tubelet) < 1 or len(size) != 2:
            raise ValueError(f"expected a tubelet (t, P, P) and an image size, got {tubelet} and {image_size}")
        self.grid: Grid = tuple(a // b for a, b in zip((num_frames, *size), self.tubelet))
        if min(*self.grid, num_classes, depth, temporal_depth) < 1:
            raise ValueError(
                "expected a clip of at least one tubelet, and num_classes and depths from 1, got "
                f"{num_frames} x {size}, {num_classes}, {depth} and {temporal_depth}"
            )
        self.variant, self.width, self.checkpointing = variant, width, checkpointing
        self.embedding = nn.Conv3d(3, width, self.tubelet, self.tubelet)
        nn.init.trunc_normal_(self.embedding.weight, std=self.embedding.weight[0].numel() ** -0.5)
        nn.init.zeros_(self.embedding.bias)
        frames, rows, columns = self.grid
        places = rows * columns if variant == 2 else frames * rows * columns
        self.positions = _positions(places, width)
        has_class = variant in (1, 2)
        self.class_token = nn.Parameter(torch.zeros(width)) if has_class else None
        self.class_position = _positions(width) if has_class else None
        self.dropout = nn.Dropout(dropout)
        rates = [stochastic_depth * i / max(depth - 1, 1) for i in range(depth)]
        plain = {"norm": "pre", "eps": EPS, "activation": activation}
        layer = {1: EncoderLayer, 2: EncoderLayer, 3: FactorisedSelfAttentionLayer, 4: FactorisedDotProductLayer}
        options = plain if has_class else {"activation": activation}
        self.layers = nn.ModuleList(
            layer[variant](width, heads, hidden, dropout=dropout, stochastic_depth=rate, **options) for rate in rates
        )
        self.norm = nn.LayerNorm(width, eps=EPS)
        if variant == 2:
            self.time_token = nn.Parameter(torch.zeros(width))
            self.time_token_position = _positions(width)
            self.time_positions = _positions(frames, width)
            self.time_layers = nn.ModuleList(
                EncoderLayer(width, heads, hidden, dropout=dropout, **plain) for _ in range(temporal_depth)
            )
            self.time_norm = nn.LayerNorm(width, eps=EPS)
        self.head = nn.Linear(width, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def embed(self, video: Tensor) -> Tensor:
        """Tokens with their positions: (B, 3, T, H, W) -> (B, n_t, n_h, n_w, D)."""
        if video.ndim != 5 or video.shape[1] != 3 or 0 in video.shape:
            raise ValueError(f"expected a video (B, 3, T, H, W) without empty axes, got {tuple(video.shape)}")
        if any(a < b for a, b in zip(video.shape[2:], self.tubelet)):
            raise ValueError(f"expected a clip of at least one tubelet {self.tubelet}, got {tuple(video.shape[2:])}")
        x = self.embedding(video).permute(0, 2, 3, 4, 1)
        old = (1, *self.grid[1:]) if self.variant == 2 else self.grid
        new = (1, *x.shape[2:4]) if self.variant == 2 else tuple(x.shape[1:4])
        return self.dropout(x + resize_positions(self.positions, old, new).unflatten(0, new))

    def features(
        self, video: Tensor, *, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, list[dict[str, Tensor]]]:
        """What the head reads: (B, 3, T, H, W) -> (B, D)."""
        x, kept = self.embed(video), []
        if self.variant == 1:
            x = _with_token(x.flatten(1, 3), self.dropout(self.class_token + self.class_position))
            x = self._encode(self.layers, x, "all", kept, return_weights)
            y = self.norm(x[:, 0])
        elif self.variant == 2:
            batch, frames = x.shape[:2]
            x = _with_token(x.flatten(2, 3).flatten(0, 1), self.dropout(self.class_token + self.class_position))
            x = self._encode(self.layers, x, "space", kept, return_weights)
            for weights in kept:
                weights["space"] = weights["space"].unflatten(0, (batch, frames))
            x = self.norm(x[:, 0]).unflatten(0, (batch, frames))  # (B, n_t, D): late fusion begins
            x = x + resize_positions(self.time_positions, (self.grid[0], 1, 1), (frames, 1, 1))
            x = _with_token(x, self.time_token + self.time_token_position)
            x = self._encode(self.time_layers, x, "time", kept, return_weights)
            y = self.time_norm(x[:, 0])
        else:
            for layer in self.layers:
                x, weights = self._run(layer, x, return_weights)
                kept.append(weights)
            y = self.norm(x).mean((1, 2, 3))
        return (y, kept) if return_weights else y

    def forward(
        self, video: Tensor, *, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, list[dict[str, Tensor]]]:
        """Logits (B, num_classes); with return_weights also the attention of each layer.

        Model 1: {"all": (B, heads, n, n)}; 2: {"space": (B, n_t, heads, n, n)}, then {"time": (B, heads, n, n)}, class
        tokens first; 3 and 4: {"space": (B, n_t, heads, N, N), "time": (B, N, heads, n_t, n_t)}.
        """
        if return_weights:
            y, weights = self.features(video, return_weights=True)
            return self.head(y), weights
        return self.head(self.features(video))

    def _encode(
        self, layers: nn.ModuleList, x: Tensor, name: str, kept: list[dict[str, Tensor]], return_weights: bool
    ) -> Tensor:
        """Plain encoder layers; their weights are appended to `kept`."""
        for layer in layers:
            if return_weights:
                x, weights = layer(x, return_weights=True)
                kept.append({name: weights})
            else:
                x = self._run(layer, x)
        return x

    def _run(self, layer: nn.Module, *inputs):
        if self.checkpointing and self.training:
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


def resize_positions(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Positions of a grid at another one, linear in time and space: (n_t n_h n_w, D) -> (n_t' n_h' n_w', D).

    Raises ValueError if the table has not as many rows as the old grid has places.
    """
    if table.ndim != 2 or len(table) != old[0] * old[1] * old[2]:
        raise ValueError(f"expected positions of a grid {tuple(old)}, got {tuple(table.shape)}")
    if tuple(old) == tuple(new):
        return table
    grid = table.T.unflatten(1, tuple(old))[None]
    return F.interpolate(grid, size=tuple(new), mode="trilinear")[0].flatten(1).T


def vivit_base(
    num_classes: int = 400,
    num_frames: int = 32,
    image_size: int | tuple[int, int] = 224,
    *,
    variant: int = 1,
    **options,
) -> ViViT:
    """ViViT-B/16x2: 88,954,000, 115,062,928, 117,319,312 and 88,952,464 parameters for models 1 to 4."""
    return ViViT(variant=variant, num_classes=num_classes, num_frames=num_frames, image_size=image_size, **options)


def load_vit(model: ViViT, tensors: Mapping[str, Tensor], *, method: str = "central") -> ViViT:
    """Start from a ViT: `tensors` is the state dict of a `VisionTransformer` of the same width, depth and patches.

    Tubelets by `initialize_tubelets`, image positions repeated in time, spatial attention copied. Model 3's temporal
    attention gets the spatial one's query, key and value, and keeps its zero projection; model 2's temporal encoder
    and the head stay as they are. A class token that the model has not is left out. Raises ValueError naming what does
    not fit. Source: Arnab et al. 2021, section 3.4. Book: chapter 10, "Starting from an image model".
    """
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    names = {"embedding.bias": "patch_embedding.bias", "image": "patch_embedding.weight", "places": "positions.table"}
    names |= {f"norm.{kind}": f"encoder.norm.{kind}" for kind in ("weight", "bias")}
    names |= {name: name for name in ("class_token", "class_position") if model.class_token is not None}
    attention, norm = ("space_attention", "space_norm") if model.variant == 3 else ("attention", "attention_norm")
    copies = {}
    for index, layer in enumerate(model.layers):
        for name in layer.state_dict():
            theirs = name.replace(f"{attention}.", "attention.", 1).replace(f"{norm}.", "attention_norm.", 1)
            if name.startswith("time_"):
                theirs = name.replace("time_attention.", "attention.", 1).replace("time_norm.", "attention_norm.", 1)
                if not name.startswith("time_attention.output."):
                    copies[f"layers.{index}.{name}"] = f"encoder.layers.{index}.{theirs}"
            else:
                names[f"layers.{index}.{name}"] = f"encoder.layers.{index}.{theirs}"
    dropped = () if model.class_token is not None else ("class_token", "class_position")
    renamed = rename(tensors, names, dropped=dropped)
    renamed |= {ours: tensors[theirs] for ours, theirs in copies.items()}
    image = renamed.pop("image")
    renamed["embedding.weight"] = torch.empty_like(model.embedding.weight)
    initialize_tubelets(renamed["embedding.weight"], image, method)
    places = fit_positions(renamed.pop("places"), model.grid[1:])
    renamed["positions"] = places if model.variant == 2 else places.repeat(model.grid[0], 1)
    load_exactly(model, renamed, fresh=[name for name in model.state_dict() if name not in renamed])
    return model


def from_vit(
    path: str | PathLike[str], builder: Callable[..., ViViT] = vivit_base, *, method: str = "central", **options
) -> ViViT:
    """A model that starts from a ViT checkpoint under timm's names: see `load_vit`."""
    model = builder(**options)
    tensors = {name: tensor for name, tensor in read_tensors(path).items() if not name.startswith("head.")}
    return load_vit(model, from_timm(tensors, len(model.layers), tokens=1, heads=()), method=method)


def key_map(model: ViViT) -> dict[str, str]:
    """Our names to those of transformers' Vivit, which is model 1: {ours: theirs}."""
    if model.variant != 1:
        raise ValueError(f"published weights are of model 1, got model {model.variant}")
    stem = "vivit.embeddings."
    names = {"class_token": f"{stem}cls_token", "position": f"{stem}position_embeddings"}
    for kind in ("weight", "bias"):
        names[f"embedding.{kind}"] = f"{stem}patch_embeddings.projection.{kind}"
        names |= {f"norm.{kind}": f"vivit.layernorm.{kind}", f"head.{kind}": f"classifier.{kind}"}
        for index in range(len(model.layers)):
            ours, theirs = f"layers.{index}", f"vivit.encoder.layer.{index}"
            for part in ("query", "key", "value"):
                names[f"{ours}.attention.{part}.{kind}"] = f"{theirs}.attention.attention.{part}.{kind}"
            names[f"{ours}.attention.output.{kind}"] = f"{theirs}.attention.output.dense.{kind}"
            names[f"{ours}.attention_norm.{kind}"] = f"{theirs}.layernorm_before.{kind}"
            names[f"{ours}.feed_forward_norm.{kind}"] = f"{theirs}.layernorm_after.{kind}"
            names[f"{ours}.feed_forward.expand.{kind}"] = f"{theirs}.intermediate.dense.{kind}"
            names[f"{ours}.feed_forward.contract.{kind}"] = f"{theirs}.output.dense.{kind}"
    return names


def from_pretrained(
    path: str | PathLike[str], builder: Callable[..., ViViT] = vivit_base, *, keep_head: bool = True, **options
) -> ViViT:
    """Model 1 with the weights of a checkpoint under transformers' names (`google/vivit-b-16x2-kinetics400`).

    builder and options must be the checkpoint's; keep_head=False leaves the head at its start, for other classes.
    Raises ValueError naming every tensor that is missing, unknown or of another shape.
    """
    model = builder(**options)
    renamed = rename(read_tensors(path), key_map(model))
    position = renamed.pop("position")[0]
    renamed["class_token"], renamed["class_position"] = renamed["class_token"].flatten(), position[0]
    renamed["positions"] = position[1:]
    left = () if keep_head else ("head.weight", "head.bias")
    load_exactly(model, {name: x for name, x in renamed.items() if name not in left}, fresh=left)
    return model


def _positions(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


def _with_token(x: Tensor, token: Tensor) -> Tensor:
    """(B, n, D) -> (B, 1 + n, D)."""
    return torch.cat([token.expand(len(x), 1, -1), x], 1)
