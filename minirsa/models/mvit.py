"""MViT: a Transformer whose tokens become fewer and wider from stage to stage, by pooling attention.

    video (B, 3, T, H, W) -- overlapping cubes, convolution --> (B, D, t, h, w) + positions, class token in front
    stage 1, 2, ...: `depth` blocks; the first block of a later stage pools its queries, the last block of a stage
                     hands on twice the width
    -- LN -- class token -- linear --> (B, num_classes)

    pooling attention    Q = pool_q(x W_Q), K = pool_k(x W_K), V = pool_v(x W_V)    (the class token is not pooled)
                         x = max-pool(x) + softmax(Q K^T / sqrt(d)) V W_O

Source: Fan et al., "Multiscale Vision Transformers", ICCV 2021 (arXiv 2104.11227), section 3 and tables 2, 3. As
in the released code: pools are depthwise 3x3x3 convolutions that all heads of a block share, each with a norm that
the class token goes through too; width grows in the MLP, whose skip is a linear layer on the normalised tokens; LN eps
1e-6. No residual pooling and no relative positions: those came with the second version. Book: chapter 11.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minirsa.layers.attention import check_heads, scaled_dot_product_attention
from minirsa.layers.transformer import StochasticDepth
from minirsa.models.timesformer import Grid
from minirsa.models.vit import EPS
from minirsa.models.vivit import ViViT
from minirsa.models.weights import load_exactly, read_tensors, rename

POOLINGS = ("conv", "max", "avg", "none")


@dataclass(frozen=True)
class Stage:
    """depth blocks of one width; key_value_stride (t, h, w): by how much their keys and values are thinned out."""

    depth: int
    width: int
    heads: int
    key_value_stride: Grid = (1, 1, 1)


STAGES_BASE = (Stage(1, 96, 1, (1, 8, 8)), Stage(2, 192, 2, (1, 4, 4)), Stage(11, 384, 4, (1, 2, 2)), Stage(2, 768, 8))
"""MViT-B (Fan et al. 2021, table 3b): keys and values are a 7 x 7 grid at 224. The first block of a later stage takes
them from the finer grid of the stage before: there they are 14 x 14."""

STAGES_SMALL = (Stage(3, 128, 1, (1, 4, 4)), Stage(7, 256, 2, (1, 2, 2)), Stage(6, 512, 4))
"""MViT-S (table 3c). Heads and key-value strides are not printed there; these follow the rule of MViT-B."""


class AveragePool3d(nn.Module):
    """Mean of what lies inside the clip: (B, C, T, H, W) -> (B, C, T', H', W').

    nn.AvgPool3d without the padding in its means, but for clips shorter than the kernel too, which that refuses.
    """

    def __init__(self, kernel: Grid, stride: Grid, padding: Grid):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.sides = [side for pad in reversed(padding) for side in (pad, pad)]

    def forward(self, x: Tensor) -> Tensor:
        total, inside = (
            F.avg_pool3d(F.pad(y, self.sides), self.kernel, self.stride) for y in (x, torch.ones_like(x[:1, :1]))
        )
        return total / inside


class Pool(nn.Module):
    """Thin out the tokens of each head: (B, heads, 1 + t h w, d) -> (B, heads, 1 + t' h' w', d).

    Args:
        kind: "conv", depthwise with weights shared by all heads, then a LayerNorm; "max" or "avg", without norm.
        channels: d. kernel, stride: three numbers each; the padding is half of the kernel.

    The class token, first, is not pooled, but goes through the norm. Fan et al. 2021, section 3.1.
    Book: chapter 11, "Pooling".
    """

    def __init__(self, kind: str, channels: int, kernel: Grid, stride: Grid):
        super().__init__()
        padding = tuple(side // 2 for side in kernel)
        if kind == "conv":
            self.pool = nn.Conv3d(channels, channels, kernel, stride, padding, groups=channels, bias=False)
        elif kind == "max":
            self.pool = nn.MaxPool3d(kernel, stride, padding)
        elif kind == "avg":
            self.pool = AveragePool3d(kernel, stride, padding)
        else:
            raise ValueError(f'expected pooling "conv", "max" or "avg", got {kind!r}')
        self.norm = nn.LayerNorm(channels, eps=EPS) if kind == "conv" else None

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """The pooled tokens and their grid (t', h', w')."""
        token, patches = x[:, :, :1], x[:, :, 1:]
        cube = patches.transpose(2, 3).unflatten(3, grid).flatten(0, 1)  # (B heads, d, t, h, w)
        pooled = self.pool(cube)
        patches = pooled.flatten(2).unflatten(0, x.shape[:2]).transpose(2, 3)
        x = torch.cat([token, patches], 2)
        return x if self.norm is None else self.norm(x), tuple(pooled.shape[2:])


class PoolingAttention(nn.Module):
    """Multi-head attention whose queries, keys and values are pooled: (B, 1 + t h w, C) -> (B, 1 + t' h' w', C).

    Args:
        width, heads: C and number of heads.
        pooling: "conv", "max", "avg", or "none" for plain attention.
        query_stride, key_value_stride: three numbers each. Queries are pooled if one of them is above 1, keys and
            values always, by kernels of 3 x 3 x 3.

    Raises ValueError for heads that do not divide the width. Fan et al. 2021, equation 1.
    Book: chapter 11, "Pooling attention".
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        pooling: str = "conv",
        query_stride: Grid = (1, 1, 1),
        key_value_stride: Grid = (1, 1, 1),
    ):
        super().__init__()
        check_heads(width, heads)
        if pooling not in POOLINGS:
            raise ValueError(f"expected pooling among {POOLINGS}, got {pooling!r}")
        if pooling == "none" and (query_stride, key_value_stride) != ((1, 1, 1), (1, 1, 1)):
            raise ValueError(f"strides {query_stride} and {key_value_stride} need a pooling, got 'none'")
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        kernel, size = (3, 3, 3), width // heads
        self.pool_query = Pool(pooling, size, kernel, query_stride) if max(query_stride) > 1 else None
        self.pool_key = Pool(pooling, size, kernel, key_value_stride) if pooling != "none" else None
        self.pool_value = Pool(pooling, size, kernel, key_value_stride) if pooling != "none" else None

    def forward(self, x: Tensor, grid: Grid, *, return_weights: bool = False) -> tuple[Tensor, Grid, Tensor | None]:
        """Output (B, 1 + t' h' w', C), its grid, and with return_weights the weights (B, heads, n_q, n_k)."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        new = grid
        if self.pool_query is not None:
            query, new = self.pool_query(query, grid)
        if self.pool_key is not None:
            key, value = self.pool_key(key, grid)[0], self.pool_value(value, grid)[0]
        y = scaled_dot_product_attention(query, key, value, return_weights=return_weights)
        y, weights = y if return_weights else (y, None)
        return self.output(y.transpose(1, 2).flatten(2)), new, weights


class MultiscaleBlock(nn.Module):
    """Pooling attention, then an MLP that may change the width: (B, 1 + t h w, C) -> (B, 1 + t' h' w', C').

    Where queries are pooled, the skip of the attention is max-pooled by a kernel one larger than the stride; where the
    width changes, the skip of the MLP is a linear layer on the normalised tokens. Fan et al. 2021, section 3.2.
    Book: chapter 11, "A block".
    """

    def __init__(
        self,
        width: int,
        new_width: int,
        heads: int,
        *,
        pooling: str,
        query_stride: Grid,
        key_value_stride: Grid,
        mlp_ratio: int = 4,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=EPS)
        self.attention = PoolingAttention(
            width, heads, pooling=pooling, query_stride=query_stride, key_value_stride=key_value_stride
        )
        kernel = tuple(stride + 1 if stride > 1 else 1 for stride in query_stride)
        self.skip_pool = Pool("max", width, kernel, query_stride) if max(query_stride) > 1 else None
        self.feed_forward_norm = nn.LayerNorm(width, eps=EPS)
        self.expand = nn.Linear(width, mlp_ratio * width)
        self.contract = nn.Linear(mlp_ratio * width, new_width)
        self.skip = nn.Linear(width, new_width) if new_width != width else None
        self.dropout = nn.Dropout(dropout)
        self.stochastic_depth = StochasticDepth(1.0 - stochastic_depth)

    def forward(self, x: Tensor, grid: Grid, return_weights: bool = False) -> tuple[Tensor, Grid, Tensor | None]:
        """Output, its grid, and with return_weights the attention (B, heads, n_q, n_k)."""
        y, new, weights = self.attention(self.attention_norm(x), grid, return_weights=return_weights)
        if self.skip_pool is not None:
            x = self.skip_pool(x.unsqueeze(1), grid)[0].squeeze(1)
        x = x + self.stochastic_depth(self.dropout(y))
        z = self.feed_forward_norm(x)
        y = self.contract(F.gelu(self.expand(z)))
        x = x if self.skip is None else self.skip(z)
        return x + self.stochastic_depth(self.dropout(y)), new, weights


class MViT(nn.Module):
    """Videos to logits: (B, 3, T, H, W) -> (B, num_classes).

    Args:
        num_classes, num_frames, image_size: what the positions are made for; forward takes any clip and interpolates
            them, linearly.
        stages: a `Stage` each. Queries are pooled by (1, 2, 2) where a later stage begins.
        stem_kernel, stem_stride: of the convolution that makes the first tokens; padding is half of the kernel where
            kernel and stride differ, none where they are equal.
        pooling: "conv", "max", "avg", or "none" for one stage without pooling.
        dropout: on each sublayer's output. stochastic_depth: of the last block, growing linearly from 0.
        checkpointing: keep only the blocks' inputs for the backward pass and compute the rest again.

    Positions are separable: one vector a frame, one a place, one for the class token. Raises ValueError for options
    and videos that do not fit. Source: Fan et al. 2021, section 3. Book: chapter 11.
    """

    def __init__(
        self,
        *,
        num_classes: int = 400,
        num_frames: int = 16,
        image_size: int | tuple[int, int] = 224,
        stages: Sequence[Stage] = STAGES_BASE,
        stem_kernel: Grid = (3, 7, 7),
        stem_stride: Grid = (2, 4, 4),
        pooling: str = "conv",
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        checkpointing: bool = False,
    ):
        super().__init__()
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        stages = tuple(stages)
        if not stages or len(size) != 2 or any(min(s.depth, s.width, s.heads) < 1 for s in stages):
            raise ValueError(f"expected at least one stage and an image size, got {stages} and {image_size}")
        if pooling not in POOLINGS or (pooling == "none" and len(stages) > 1):
            raise ValueError(f"expected pooling among {POOLINGS}, 'none' with one stage only, got {pooling!r}")
        if num_classes < 1 or num_frames < 1:
            raise ValueError(f"expected num_classes and num_frames from 1, got {num_classes} and {num_frames}")
        self.stages, self.checkpointing, self.stem_stride = stages, checkpointing, tuple(stem_stride)
        padding = tuple(0 if k == s else k // 2 for k, s in zip(stem_kernel, stem_stride))
        self.stem = nn.Conv3d(3, stages[0].width, stem_kernel, stem_stride, padding)
        sides = zip((num_frames, *size), stem_kernel, stem_stride, padding)
        self.grid: Grid = tuple((side + 2 * p - k) // s + 1 for side, k, s, p in sides)
        if min(self.grid) < 1:
            raise ValueError(f"expected a clip of at least one cube {tuple(stem_kernel)}, got {num_frames} x {size}")
        width = stages[0].width
        self.class_token = nn.Parameter(torch.zeros(width))
        self.class_position = _positions(width)
        self.space_positions = _positions(self.grid[1] * self.grid[2], width)
        self.time_positions = _positions(self.grid[0], width)
        depth = sum(stage.depth for stage in stages)
        self.blocks = nn.ModuleList()
        for number, stage in enumerate(stages):
            following = stages[number + 1].width if number + 1 < len(stages) else stage.width
            for place in range(stage.depth):
                begins = number > 0 and place == 0
                self.blocks.append(
                    MultiscaleBlock(
                        stage.width,
                        following if place == stage.depth - 1 else stage.width,
                        stage.heads,
                        pooling=pooling,
                        query_stride=(1, 2, 2) if begins else (1, 1, 1),
                        key_value_stride=stage.key_value_stride,
                        dropout=dropout,
                        stochastic_depth=stochastic_depth * len(self.blocks) / max(depth - 1, 1),
                    )
                )
        self.norm = nn.LayerNorm(stages[-1].width, eps=EPS)
        self.dropout = nn.Dropout(0.5 if dropout else 0.0)
        self.head = nn.Linear(stages[-1].width, num_classes)
        self.apply(_initialize)

    def embed(self, video: Tensor) -> tuple[Tensor, Grid]:
        """Class token and cubes with their positions, (B, 1 + t h w, D), and the grid (t, h, w)."""
        if video.ndim != 5 or video.shape[1] != 3 or 0 in video.shape:
            raise ValueError(f"expected a video (B, 3, T, H, W) without empty axes, got {tuple(video.shape)}")
        if any(side + 2 * p < k for side, k, p in zip(video.shape[2:], self.stem.kernel_size, self.stem.padding)):
            raise ValueError(f"expected a clip of at least {self.stem.kernel_size}, got {tuple(video.shape[2:])}")
        x = self.stem(video)
        grid = tuple(x.shape[2:])
        x = x.flatten(2).transpose(1, 2) + self.positions(grid)
        token = (self.class_token + self.class_position).expand(len(x), 1, -1)
        return torch.cat([token, x], 1), grid

    def positions(self, grid: Grid) -> Tensor:
        """The vectors of a grid of cubes, a frame's plus a place's: (t h w, D)."""
        frames, rows, columns = grid
        time, space = self.time_positions, self.space_positions
        if frames != self.grid[0]:
            time = F.interpolate(time.T[None], size=frames, mode="linear")[0].T
        if (rows, columns) != self.grid[1:]:
            table = space.T.unflatten(1, self.grid[1:])[None]
            space = F.interpolate(table, size=(rows, columns), mode="bilinear")[0].flatten(1).T
        return (time[:, None] + space[None]).flatten(0, 1)

    def features(self, video: Tensor, *, return_weights: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """What the head reads: (B, 3, T, H, W) -> (B, D)."""
        x, grid = self.embed(video)
        kept = []
        for block in self.blocks:
            x, grid, weights = self._run(block, x, grid, return_weights)
            kept.append(weights)
        y = self.norm(x)[:, 0]
        return (y, kept) if return_weights else y

    def forward(self, video: Tensor, *, return_weights: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Logits (B, num_classes); with return_weights also each block's attention (B, heads, n_q, n_k)."""
        if return_weights:
            y, weights = self.features(video, return_weights=True)
            return self.head(self.dropout(y)), weights
        return self.head(self.dropout(self.features(video)))

    @torch.no_grad()
    def stage_shapes(self, video: Tensor) -> list[tuple[int, Grid]]:
        """Width and grid of the tokens behind the stem and behind each stage, as table 3 of the paper prints them.

        A stage's width is the one its blocks work in; the last block's MLP already hands on the next stage's.
        """
        x, grid = self.embed(video)
        shapes, done = [(x.shape[-1], grid)], 0
        for stage in self.stages:
            for block in self.blocks[done : done + stage.depth]:
                width = block.attention_norm.normalized_shape[0]
                x, grid, _ = block(x, grid)
            done += stage.depth
            shapes.append((width, grid))
        return shapes

    def _run(self, block: nn.Module, x: Tensor, grid: Grid, return_weights: bool):
        if self.checkpointing and self.training and not return_weights:
            return checkpoint(block, x, grid, use_reentrant=False)
        return block(x, grid, return_weights)


def mvit_base_16x4(
    num_classes: int = 400,
    num_frames: int = 16,
    image_size: int | tuple[int, int] = 224,
    *,
    pooling: str = "conv",
    **options,
) -> MViT:
    """MViT-B, 16 frames, every fourth: 36,610,672 parameters, 70.60 G multiply-adds (max pooling 36.51 M, 70.33 G)."""
    return MViT(num_classes=num_classes, num_frames=num_frames, image_size=image_size, pooling=pooling, **options)


def mvit_base_32x3(
    num_classes: int = 400,
    num_frames: int = 32,
    image_size: int | tuple[int, int] = 224,
    *,
    pooling: str = "conv",
    **options,
) -> MViT:
    """MViT-B, 32 frames, every third: 36,611,440 parameters, 169.96 G multiply-adds."""
    return mvit_base_16x4(num_classes, num_frames, image_size, pooling=pooling, **options)


def mvit_small(
    num_classes: int = 400,
    num_frames: int = 16,
    image_size: int | tuple[int, int] = 224,
    *,
    pooling: str = "conv",
    **options,
) -> MViT:
    """MViT-S as table 3c prints it; heads and key-value strides are not printed there and follow MViT-B's rule.

    The published 26.1 M parameters and 32.9 G multiply-adds are not reproduced: see chapter 11.
    """
    options = {"stages": STAGES_SMALL, "stem_kernel": (3, 8, 8), "stem_stride": (2, 8, 8), **options}
    return mvit_base_16x4(num_classes, num_frames, image_size, pooling=pooling, **options)


def vit_base_video(
    num_classes: int = 400, num_frames: int = 8, image_size: int | tuple[int, int] = 224, **options
) -> ViViT:
    """ViT-B over all patches of 8 frames (table 3a): 87,159,952 parameters, 179.56 G multiply-adds.

    The same network as ViViT's model 1 with tubelets of one frame and the exact GELU.
    """
    options = {"variant": 1, "tubelet": (1, 16, 16), "activation": "gelu", **options}
    return ViViT(num_classes=num_classes, num_frames=num_frames, image_size=image_size, **options)


def key_map(model: MViT) -> dict[str, str]:
    """Our names to torchvision's (`mvit_v1_b`): {ours: theirs}; qkv is cut in three by `from_pretrained`."""
    names = {"class_token": "pos_encoding.class_token", "class_position": "pos_encoding.class_pos"}
    names |= {"space_positions": "pos_encoding.spatial_pos", "time_positions": "pos_encoding.temporal_pos"}
    for kind in ("weight", "bias"):
        names |= {f"stem.{kind}": f"conv_proj.{kind}", f"norm.{kind}": f"norm.{kind}", f"head.{kind}": f"head.1.{kind}"}
        for index, block in enumerate(model.blocks):
            stem = f"blocks.{index}"
            for part in ("query", "key", "value"):
                names[f"{stem}.attention.{part}.{kind}"] = f"{stem}.attn.qkv.{part}.{kind}"
                if getattr(block.attention, f"pool_{part}") is not None:
                    theirs = f"{stem}.attn.pool_{part[0]}"
                    names[f"{stem}.attention.pool_{part}.norm.{kind}"] = f"{theirs}.norm_act.0.{kind}"
                    names[f"{stem}.attention.pool_{part}.pool.weight"] = f"{theirs}.pool.weight"
            names[f"{stem}.attention.output.{kind}"] = f"{stem}.attn.project.0.{kind}"
            names[f"{stem}.attention_norm.{kind}"] = f"{stem}.norm1.{kind}"
            names[f"{stem}.feed_forward_norm.{kind}"] = f"{stem}.norm2.{kind}"
            names[f"{stem}.expand.{kind}"] = f"{stem}.mlp.0.{kind}"
            names[f"{stem}.contract.{kind}"] = f"{stem}.mlp.3.{kind}"
            if block.skip is not None:
                names[f"{stem}.skip.{kind}"] = f"{stem}.project.{kind}"
    return names


def from_pretrained(path: str | PathLike[str], builder=mvit_base_16x4, *, keep_head: bool = True, **options) -> MViT:
    """A model with the weights of a checkpoint under torchvision's names (`mvit_v1_b`).

    builder and options must be the checkpoint's; keep_head=False leaves the head at its start, for other classes.
    Raises ValueError naming every tensor that is missing, unknown or of another shape.
    """
    model = builder(**options)
    tensors = dict(read_tensors(path))
    for name in [name for name in tensors if ".qkv." in name]:
        stem, kind = name.rsplit(".", 1)
        for part, values in zip(("query", "key", "value"), tensors.pop(name).chunk(3)):
            tensors[f"{stem}.{part}.{kind}"] = values
    renamed = rename(tensors, key_map(model))
    left = () if keep_head else ("head.weight", "head.bias")
    load_exactly(model, {name: x for name, x in renamed.items() if name not in left}, fresh=left)
    return model


def _positions(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv3d):
        nn.init.trunc_normal_(module.weight, std=math.sqrt(1 / module.weight[0].numel()))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
