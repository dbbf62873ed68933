"""Vision Transformer: an image is a sequence of patches, and a Transformer's encoder reads it.

    image (B, 3, H, W) -- patches (B, N, P^2 3), linear --> (B, N, D)     N = H W / P^2
    z_0 = [x_class; x_1 E; ...; x_N E] + E_pos            (B, N + 1, D)       equation 1
    z'_l = MSA(LN(z_{l-1})) + z_{l-1}                                          equation 2
    z_l = MLP(LN(z'_l)) + z'_l                            l = 1 ... depth      equation 3
    y = LN(z_L^0) -- linear --> logits (B, num_classes)                        equation 4

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021
(arXiv 2010.11929). The encoder is `minirsa.layers.transformer.Encoder` with pre-LN, GELU and eps 1e-6.
Book: chapter 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirsa.layers.positions import sinusoidal_positions
from minirsa.layers.transformer import Encoder
from minirsa.models.weights import load_exactly, read_tensors, rename

EPS = 1e-6
"""Of every LayerNorm: the published models' value, not PyTorch's 1e-5."""


def patches(images: Tensor, size: int) -> Tensor:
    """Cut images into square patches, row by row: (B, C, H, W) -> (B, N, C P P), channels first in each patch.

    A linear map of these is the convolution of kernel P and stride P whose weight is the linear one's, reshaped to
    (D, C, P, P). Raises ValueError unless the size divides height and width. Book: chapter 5, "Patches".
    """
    if images.ndim != 4 or size < 1 or 0 in images.shape or images.shape[2] % size or images.shape[3] % size:
        raise ValueError(f"expected images (B, C, H, W), H and W multiples of {size}, got {tuple(images.shape)}")
    parts = images.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # (B, C, rows, P, columns, P)
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def interpolate_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resize a grid of position vectors, bicubic and antialiased: (h w, D) -> (h' w', D).

    Dosovitskiy et al. 2021, section 3.2: at another resolution the learned vectors are interpolated by their place in
    the image. Raises ValueError if the table has not h w rows. Book: chapter 5, "Other sizes".
    """
    if table.ndim != 2 or table.shape[0] != old[0] * old[1]:
        raise ValueError(f"expected a table of {old[0]} x {old[1]} rows, got {tuple(table.shape)}")
    if tuple(old) == tuple(new):
        return table
    grid = table.T.unflatten(1, tuple(old))[None]  # (1, D, h, w)
    return F.interpolate(grid, size=tuple(new), mode="bicubic", antialias=True)[0].flatten(1).T


class PatchPositions(nn.Module):
    """Adds a position vector to each patch: (B, N, D) -> (B, N, D).

    Args:
        kind: "learned", one vector for each place, standard deviation 0.02 at the start; "sinusoidal", fixed, half the
            channels from the row and half from the column; "none".
        grid: rows and columns of patches at the size the net is made for.
        width: D, a multiple of 4 for sinusoids.

    Learned vectors are interpolated for another grid. Raises ValueError for options that do not fit.
    """

    def __init__(self, kind: str, grid: tuple[int, int], width: int):
        super().__init__()
        if kind not in ("learned", "sinusoidal", "none"):
            raise ValueError(f'expected positions "learned", "sinusoidal" or "none", got {kind!r}')
        if kind == "sinusoidal" and width % 4:
            raise ValueError(f"expected a width that 4 divides for sinusoids of two axes, got {width}")
        self.kind, self.grid, self.width = kind, grid, width
        if kind == "learned":
            self.table = nn.Parameter(torch.empty(grid[0] * grid[1], width))
            nn.init.trunc_normal_(self.table, std=0.02)

    def vectors(self, grid: tuple[int, int]) -> Tensor:
        """The vectors of a grid of patches: (rows columns, D)."""
        if self.kind == "learned":
            return interpolate_positions(self.table, self.grid, grid)
        if self.kind == "none":
            return torch.zeros(grid[0] * grid[1], self.width)
        rows, columns = (sinusoidal_positions(count, self.width // 2) for count in grid)
        both = rows[:, None].expand(-1, grid[1], -1), columns[None].expand(grid[0], -1, -1)
        return torch.cat(both, -1).flatten(0, 1)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x holds the patches of a grid, row by row."""
        return x if self.kind == "none" else x + self.vectors(grid).to(x)


class VisionTransformer(nn.Module):
    """Images to logits: (B, channels, H, W) -> (B, num_classes).

    Args:
        num_classes: width of the head, which starts at zero.
        image_size: height and width the positions are made for; forward takes any multiple of the patch size.
        patch_size: P.
        width, depth, heads, hidden: D, number of layers, heads, channels inside the MLP.
        pool: "class" reads the class token, "mean" has none and averages the patches.
        positions: "learned", "sinusoidal" or "none". The class token has a learned position unless "none".
        channels: of the image.
        dropout: on each sublayer's output. stochastic_depth: of the last layer, see `Encoder`.

    The input is normalised as the weights expect. Raises ValueError for options and images that do not fit.
    Source: Dosovitskiy et al. 2021, equations 1 to 4. Book: chapter 5, "The network".
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        pool: str = "class",
        positions: str = "learned",
        channels: int = 3,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ):
        super().__init__()
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if patch_size < 1 or len(size) != 2 or any(side < 1 or side % patch_size for side in size):
            raise ValueError(f"patch_size must divide image_size, got {patch_size} and {image_size}")
        if pool not in ("class", "mean"):
            raise ValueError(f'expected pool "class" or "mean", got {pool!r}')
        if num_classes < 1 or channels < 1:
            raise ValueError(f"expected num_classes and channels from 1, got {num_classes} and {channels}")
        self.patch_size, self.width, self.channels = patch_size, width, channels
        self.patch_embedding = nn.Conv2d(channels, width, patch_size, patch_size)
        initialize_patch_embedding(self.patch_embedding)
        self.positions = PatchPositions(positions, (size[0] // patch_size, size[1] // patch_size), width)
        if pool == "class":
            self.class_token = nn.Parameter(torch.zeros(width))
            self.class_position = nn.Parameter(torch.empty(width)) if positions != "none" else None
            if self.class_position is not None:
                nn.init.trunc_normal_(self.class_position, std=0.02)
        else:
            self.class_token = self.class_position = None
        self.dropout = nn.Dropout(dropout)
        self.encoder = Encoder(
            depth,
            width,
            heads,
            hidden,
            norm="pre",
            activation="gelu",
            dropout=dropout,
            eps=EPS,
            stochastic_depth=stochastic_depth,
        )
        self.head = nn.Linear(width, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches. Raises ValueError for images that do not fit."""
        return check_images(images, self.channels, self.patch_size)

    def embed(self, images: Tensor) -> Tensor:
        """Equation 1: (B, channels, H, W) -> z_0 (B, 1 + N, D), without the 1 when the patches are averaged."""
        grid = self.grid(images)
        x = self.patch_embedding(images).flatten(2).transpose(1, 2)  # (B, D, rows, columns) -> (B, N, D)
        x = self.positions(x, grid)
        if self.class_token is not None:
            token = self.class_token if self.class_position is None else self.class_token + self.class_position
            x = torch.cat([token.expand(len(x), 1, -1), x], 1)
        return self.dropout(x)

    def features(self, images: Tensor, *, return_weights: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """What the head reads, equation 4's y: (B, channels, H, W) -> (B, D)."""
        result = self.encoder(self.embed(images), return_weights=return_weights)
        x, weights = result if return_weights else (result, None)
        y = x.mean(1) if self.class_token is None else x[:, 0]
        return (y, weights) if return_weights else y

    def forward(self, images: Tensor, *, return_weights: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Logits (B, num_classes); with return_weights also the attention (B, heads, n, n) of each layer."""
        if return_weights:
            y, weights = self.features(images, return_weights=True)
            return self.head(y), weights
        return self.head(self.features(images))


def check_images(images: Tensor, channels: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches of images (B, channels, H, W). Raises ValueError unless the patch size divides."""
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape:
        raise ValueError(f"expected images (B, {channels}, H, W) without empty axes, got {tuple(images.shape)}")
    height, width = images.shape[2:]
    if height % patch_size or width % patch_size:
        raise ValueError(f"expected height and width to be multiples of {patch_size}, got {height} x {width}")
    return height // patch_size, width // patch_size


def initialize_patch_embedding(layer: nn.Conv2d) -> None:
    """As the linear layer it is: normal with variance 1 / (C P P), bias 0."""
    nn.init.trunc_normal_(layer.weight, std=math.sqrt(1 / layer.weight[0].numel()))
    nn.init.zeros_(layer.bias)


def attention_rollout(weights: Sequence[Tensor], *, residual: float = 0.5) -> Tensor:
    """How much of each token has reached each other one through all layers: [(B, heads, n, n)] -> (B, n, n).

    Layer by layer, (1 - residual) mean over heads + residual I, multiplied up: rows keep adding up to 1. Raises
    ValueError for no weights, or for a residual outside [0, 1]. Source: Abnar and Zuidema, "Quantifying Attention Flow
    in Transformers", ACL 2020, section 3. Book: chapter 5, "What the class token looked at".
    """
    if not weights or any(w.ndim != 4 or w.shape[-1] != w.shape[-2] for w in weights):
        raise ValueError("expected one (B, heads, n, n) for each layer")
    if not 0 <= residual <= 1:
        raise ValueError(f"expected residual in [0, 1], got {residual}")
    identity = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype, device=weights[0].device)
    reached = identity
    for layer in weights:
        reached = ((1 - residual) * layer.mean(1) + residual * identity) @ reached
    return reached


def attention_distance(weights: Tensor, grid: tuple[int, int], *, tokens: int = 1, patch_size: int = 1) -> Tensor:
    """Mean distance that each head looks, in pixels: (B, heads, n, n) -> (heads,).

    Distances between patch centres, weighted with the attention among patches, averaged over queries and images; the
    first `tokens` tokens are no patches and are left out. Raises ValueError if the grid does not fit. Source:
    Dosovitskiy et al. 2021, figure 7 (right) and appendix D.7. Book: chapter 5, "How far heads look".
    """
    rows, columns = grid
    if weights.ndim != 4 or weights.shape[-1] != rows * columns + tokens:
        raise ValueError(
            f"expected weights (B, heads, n, n) for {rows} x {columns} patches and {tokens} other tokens, "
            f"got {tuple(weights.shape)}"
        )
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    place = torch.stack([row, column], -1).flatten(0, 1).to(weights)  # (N, 2)
    distance = torch.cdist(place, place) * patch_size  # (N, N)
    among = weights[..., tokens:, tokens:]
    among = among / among.sum(-1, keepdim=True)
    return (among * distance).sum(-1).mean((0, 2))


def from_timm(tensors: Mapping[str, Tensor], depth: int, *, tokens: int, heads: Sequence[str]) -> dict[str, Tensor]:
    """A ViT or DeiT checkpoint under timm's names, under ours: qkv cut in three, positions of the tokens apart.

    `tokens`: tokens before the patches. `heads`: names of the heads, the same in both. Raises ValueError naming every
    tensor that is missing or unknown.
    """
    tensors = dict(tensors)
    key_map = {"patch_embedding.weight": "patch_embed.proj.weight", "patch_embedding.bias": "patch_embed.proj.bias"}
    key_map |= {"class_token": "cls_token", "position": "pos_embed"}
    key_map |= {"distillation_token": "dist_token"} if tokens == 2 else {}
    for kind in ("weight", "bias"):
        key_map |= {f"encoder.norm.{kind}": f"norm.{kind}"} | {f"{head}.{kind}": f"{head}.{kind}" for head in heads}
        for layer in range(depth):
            ours, theirs = f"encoder.layers.{layer}", f"blocks.{layer}"
            stacked = tensors.pop(f"{theirs}.attn.qkv.{kind}", None)
            if stacked is not None and stacked.shape[0] % 3 == 0:
                for name, part in zip(("query", "key", "value"), stacked.chunk(3)):
                    tensors[f"{theirs}.attn.qkv.{name}.{kind}"] = part
            for name in ("query", "key", "value"):
                key_map[f"{ours}.attention.{name}.{kind}"] = f"{theirs}.attn.qkv.{name}.{kind}"
            key_map[f"{ours}.attention.output.{kind}"] = f"{theirs}.attn.proj.{kind}"
            key_map[f"{ours}.attention_norm.{kind}"] = f"{theirs}.norm1.{kind}"
            key_map[f"{ours}.feed_forward_norm.{kind}"] = f"{theirs}.norm2.{kind}"
            key_map[f"{ours}.feed_forward.expand.{kind}"] = f"{theirs}.mlp.fc1.{kind}"
            key_map[f"{ours}.feed_forward.contract.{kind}"] = f"{theirs}.mlp.fc2.{kind}"
    renamed = rename(tensors, key_map)
    position = renamed.pop("position")
    if position.ndim != 3 or position.shape[0] != 1 or position.shape[1] <= tokens:
        raise ValueError(f"pos_embed: expected (1, {tokens} + N, D), got {tuple(position.shape)}")
    renamed["class_token"] = renamed["class_token"].flatten()
    renamed["class_position"] = position[0, 0]
    if tokens == 2:
        renamed["distillation_token"] = renamed["distillation_token"].flatten()
        renamed["distillation_position"] = position[0, 1]
    renamed["positions.table"] = position[0, tokens:]
    return renamed


def fit_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """A checkpoint's positions of a square image, at the grid of this model: (N, D) -> (rows columns, D)."""
    side = math.isqrt(len(table))
    if side * side != len(table):
        raise ValueError(f"expected the positions of a square image, got {len(table)} of them")
    return interpolate_positions(table.float(), (side, side), grid)


def load_without_heads(model: nn.Module, tensors: Mapping[str, Tensor], heads: Sequence[str]) -> None:
    """Load all but these heads, which keep what they hold."""
    left = {f"{head}.{kind}" for head in heads for kind in ("weight", "bias")}
    load_exactly(model, {name: tensor for name, tensor in tensors.items() if name not in left}, fresh=left)


def _variant(width: int, depth: int, heads: int, patch_size: int, options: dict) -> VisionTransformer:
    return VisionTransformer(width=width, depth=depth, heads=heads, hidden=4 * width, patch_size=patch_size, **options)


def vit_base_16(num_classes: int = 1000, image_size: int | tuple[int, int] = 224, **options) -> VisionTransformer:
    """ViT-B/16: 86,567,656 parameters, 17.56 G multiply-adds at 224. Options as for `VisionTransformer`."""
    return _variant(768, 12, 12, 16, {"num_classes": num_classes, "image_size": image_size, **options})


def vit_base_32(num_classes: int = 1000, image_size: int | tuple[int, int] = 224, **options) -> VisionTransformer:
    """ViT-B/32: ViT-B with patches of 32. Options as for `VisionTransformer`."""
    return _variant(768, 12, 12, 32, {"num_classes": num_classes, "image_size": image_size, **options})


def vit_large_16(num_classes: int = 1000, image_size: int | tuple[int, int] = 224, **options) -> VisionTransformer:
    """ViT-L/16: 304,326,632 parameters, 61.55 G multiply-adds at 224. Options as for `VisionTransformer`."""
    return _variant(1024, 24, 16, 16, {"num_classes": num_classes, "image_size": image_size, **options})


def vit_large_32(num_classes: int = 1000, image_size: int | tuple[int, int] = 224, **options) -> VisionTransformer:
    """ViT-L/32: 306,535,400 parameters. Options as for `VisionTransformer`."""
    return _variant(1024, 24, 16, 32, {"num_classes": num_classes, "image_size": image_size, **options})


def vit_huge_14(num_classes: int = 1000, image_size: int | tuple[int, int] = 224, **options) -> VisionTransformer:
    """ViT-H/14: 632,045,800 parameters, 167.3 G multiply-adds at 224. Options as for `VisionTransformer`."""
    return _variant(1280, 32, 16, 14, {"num_classes": num_classes, "image_size": image_size, **options})


def from_pretrained(
    path: str | PathLike[str],
    builder: Callable[..., VisionTransformer] = vit_base_16,
    *,
    keep_head: bool = True,
    **options,
) -> VisionTransformer:
    """A model with the weights of a checkpoint under timm's names, such as `vit_base_patch16_224`'s safetensors.

    Args:
        builder: one of this module's, or `minirsa.models.deit`'s without distilled=True; `options` are its own.
        keep_head: False leaves the head at its start, for another number of classes.

    An image_size other than the checkpoint's is fine: positions are interpolated. Raises ValueError naming every
    tensor that is missing, unknown or of another shape. Book: chapter 5, "Published weights".
    """
    model = builder(**options)
    if model.class_token is None or model.positions.kind != "learned":
        raise ValueError("published ViT weights have a class token and learned positions; this model has not")
    tensors = from_timm(read_tensors(path), len(model.encoder.layers), tokens=1, heads=("head",))
    tensors["positions.table"] = fit_positions(tensors["positions.table"], model.positions.grid)
    load_without_heads(model, tensors, () if keep_head else ("head",))
    return model
