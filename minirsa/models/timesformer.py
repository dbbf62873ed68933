"""TimeSformer: a ViT over the patches of a clip, with five ways to choose what a patch attends to.

    video (B, 3, T, H, W) -- P x P patches of each frame, linear --> (B, T, N, D) + space and time positions
    [class token (B, 1, D)] + patches -- `depth` blocks -- LN -- class token -- linear --> (B, num_classes)

    block     x = x + branch(LN(x))  for each branch of the scheme,  then  x = x + MLP(LN(x))

    scheme          branches                    a patch attends, together with the class token, to
    "space"         space                       its frame
    "joint"         all                         the whole clip
    "divided"       time, space                 its place in all frames; then its frame
    "local_global"  local, global               T x H/2 x W/2 patches around it; then every second one in T, H and W
    "axial"         time, width, height         its place in all frames; then its row; then its column

Source: Bertasius, Wang and Torresani, "Is Space-Time Attention All You Need for Video Understanding?", ICML 2021
(arXiv 2102.05095), section 3 and figures 1 and 2. As in the released code, and unlike equations 5 to 9, the class
token takes part in a block's last branch only; every other branch ends with one more linear layer, which starts at
zero. "local_global" and "axial" were never released and are built from the paper, in the same way.
Book: chapter 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minirsa.layers.attention import MultiHeadAttention
from minirsa.layers.transformer import FeedForward, StochasticDepth
from minirsa.models.vit import EPS, fit_positions, from_timm, initialize_patch_embedding
from minirsa.models.weights import load_exactly, read_tensors, rename

SCHEMES: dict[str, tuple[str, ...]] = {
    "space": ("space",),
    "joint": ("all",),
    "divided": ("time", "space"),
    "local_global": ("local", "global"),
    "axial": ("time", "width", "height"),
}
"""The branches of each scheme, in order; the last one holds the class token."""

Grid = tuple[int, int, int]  # frames, rows and columns of patches


def group(x: Tensor, branch: str) -> Tensor:
    """Sort the patches into the groups that attend among themselves: (B, T, R, C, D) -> (B, groups, n, D).

    "local" has one group, in which a mask says who sees whom. Raises ValueError for "global" on a grid with an odd
    side. Book: chapter 9, "Five schemes".
    """
    if branch in ("all", "local"):
        return x.flatten(1, 3).unsqueeze(1)
    if branch == "space":
        return x.flatten(2, 3)
    if branch == "time":
        return x.permute(0, 2, 3, 1, 4).flatten(1, 2)
    if branch == "width":
        return x.flatten(1, 2)
    if branch == "height":
        return x.transpose(2, 3).flatten(1, 2)
    check_even(x.shape[1:4])
    x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, T/2, 2, R/2, 2, C/2, 2, D)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4, 6).flatten(1, 3)


def ungroup(groups: Tensor, branch: str, grid: Grid) -> Tensor:
    """Undo `group`: (B, groups, n, D) -> (B, T, R, C, D)."""
    t, r, c = grid
    if branch in ("all", "local"):
        return groups.squeeze(1).unflatten(1, grid)
    if branch == "space":
        return groups.unflatten(2, (r, c))
    if branch == "time":
        return groups.unflatten(1, (r, c)).permute(0, 3, 1, 2, 4)
    if branch == "width":
        return groups.unflatten(1, (t, r))
    if branch == "height":
        return groups.unflatten(1, (t, c)).transpose(2, 3)
    x = groups.unflatten(2, (t // 2, r // 2, c // 2)).unflatten(1, (2, 2, 2))
    return x.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)


def local_mask(grid: Grid, *, device: torch.device | str | None = None) -> Tensor:
    """True where two patches lie within the window of the local branch: (T R C, T R C) bool.

    The window spans all frames and R/2 x C/2 patches around the query, R/2 // 2 of them before it in each direction.
    """
    frames, rows, columns = grid
    inside = []
    for side in (rows, columns):
        half = max(side // 2, 1)
        step = torch.arange(side, device=device)
        apart = step[None] - step[:, None]  # key minus query
        inside.append((apart >= -(half // 2)) & (apart < half - half // 2))
    near = inside[0][:, None, :, None] & inside[1][None, :, None, :]  # (R, C, R, C)
    near = near.flatten(2).flatten(0, 1)
    return near.repeat(frames, frames)


class AttentionBranch(nn.Module):
    """One attention of a block, with its norm: residual for patches (B, T, R, C, D) and class token (B, 1, D).

    Args:
        branch: which patches attend to which, a name of `SCHEMES`.
        width, heads: D and number of heads.
        with_class: the class token attends too, once in every group, and what comes of it is averaged over them; the
            patches see it. Without, patches are alone, and a linear layer `last`, zero at the start, ends the branch.
    """

    def __init__(self, branch: str, width: int, heads: int, *, with_class: bool):
        super().__init__()
        self.branch, self.with_class = branch, with_class
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.attention = MultiHeadAttention(width, heads)
        self.last = None
        if not with_class:
            self.last = nn.Linear(width, width)
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def forward(
        self, patches: Tensor, token: Tensor, *, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(B, T, R, C, D), (B, 1, D) -> what is added to each (None: nothing), weights (B, groups, heads, n, n)."""
        grid = tuple(patches.shape[1:4])
        x = group(self.norm(patches), self.branch)  # (B, groups, n, D)
        count = x.shape[1]
        mask = local_mask(grid, device=x.device) if self.branch == "local" else None
        if self.with_class:
            shared = self.norm(token)[:, None].expand(-1, count, -1, -1)  # (B, groups, 1, D)
            x = torch.cat([shared, x], 2)
            mask = None if mask is None else F.pad(mask, (1, 0, 1, 0), value=True)
        y = self.attention(x.flatten(0, 1), mask=mask, return_weights=return_weights)
        y, weights = y if return_weights else (y, None)
        y = y.unflatten(0, (-1, count))
        weights = None if weights is None else weights.unflatten(0, (-1, count))
        if not self.with_class:
            return self.last(ungroup(y, self.branch, grid)), None, weights
        return ungroup(y[:, :, 1:], self.branch, grid), y[:, :, 0].mean(1, keepdim=True), weights


class SpaceTimeBlock(nn.Module):
    """The branches of a scheme and an MLP, each with its norm and residual sum.

    (B, T, R, C, D), (B, 1, D) -> the same two. Bertasius et al. 2021, figure 1.
    Book: chapter 9, "The class token, and a whole block".
    """

    def __init__(self, scheme: str, width: int, heads: int, hidden: int, *, dropout: float, stochastic_depth: float):
        super().__init__()
        names = SCHEMES[scheme]
        self.branches = nn.ModuleDict(
            {name: AttentionBranch(name, width, heads, with_class=name == names[-1]) for name in names}
        )
        self.feed_forward_norm = nn.LayerNorm(width, eps=EPS)
        self.feed_forward = FeedForward(width, hidden, activation="gelu")
        self.dropout = nn.Dropout(dropout)
        self.stochastic_depth = StochasticDepth(1.0 - stochastic_depth)

    def forward(
        self, patches: Tensor, token: Tensor, return_weights: bool = False
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Patches, class token, and with return_weights the weights of each branch."""
        kept = {}
        for name, branch in self.branches.items():
            of_patches, of_token, weights = branch(patches, token, return_weights=return_weights)
            if weights is not None:
                kept[name] = weights
            patches, token = self._add(patches, of_patches, token, of_token)
        of_patches, of_token = (self.feed_forward(self.feed_forward_norm(x)) for x in (patches, token))
        return (*self._add(patches, of_patches, token, of_token), kept)

    def _add(self, patches: Tensor, more: Tensor, token: Tensor, token_more: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both residual sums; a clip's branch is left out for patches and class token together."""
        frames, rows, columns = more.shape[1:4]
        parts = [more.flatten(1, 3)] if token_more is None else [more.flatten(1, 3), token_more]
        joined = self.stochastic_depth(self.dropout(torch.cat(parts, 1)))
        patches = patches + joined[:, : frames * rows * columns].reshape(more.shape)
        return patches, token if token_more is None else token + joined[:, -1:]


class TimeSformer(nn.Module):
    """Videos to logits: (B, 3, T, H, W) -> (B, num_classes).

    Args:
        num_classes, num_frames, image_size, patch_size: what the positions are made for; forward takes any T and any
            H and W that the patch size divides, and interpolates positions (nearest, as the released code).
        attention: "space", "joint", "divided", "local_global" or "axial".
        width, depth, heads, hidden: D, number of blocks, heads, channels inside the MLP.
        dropout: on each sublayer's output. stochastic_depth: of the last block, growing linearly from 0.
        checkpointing: keep only the blocks' inputs for the backward pass and compute the rest again.

    "space" looks at frames alone, each with a class token of its own, and averages the frames before the last norm.
    Raises ValueError for options and videos that do not fit. Source: Bertasius et al. 2021. Book: chapter 9.
    """

    def __init__(
        self,
        *,
        num_classes: int = 400,
        num_frames: int = 8,
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        attention: str = "divided",
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        dropout: float = 0.0,
        stochastic_depth: float = 0.1,
        checkpointing: bool = False,
    ):
        super().__init__()
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if patch_size < 1 or len(size) != 2 or any(side < 1 or side % patch_size for side in size):
            raise ValueError(f"patch_size must divide image_size, got {patch_size} and {image_size}")
        if attention not in SCHEMES:
            raise ValueError(f"expected attention among {sorted(SCHEMES)}, got {attention!r}")
        if min(num_classes, num_frames, depth) < 1:
            raise ValueError(
                f"expected num_classes, num_frames and depth from 1, got {num_classes}, {num_frames}, {depth}"
            )
        self.scheme, self.patch_size, self.width, self.checkpointing = attention, patch_size, width, checkpointing
        self.grid: Grid = (num_frames, size[0] // patch_size, size[1] // patch_size)
        if attention == "local_global":
            check_even(self.grid)
        self.patch_embedding = nn.Conv2d(3, width, patch_size, patch_size)
        initialize_patch_embedding(self.patch_embedding)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.class_position = nn.Parameter(torch.empty(width))
        self.space_positions = nn.Parameter(torch.empty(self.grid[1] * self.grid[2], width))
        for parameter in (self.class_position, self.space_positions):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.time_positions = nn.Parameter(torch.zeros(num_frames, width)) if attention != "space" else None
        self.dropout = nn.Dropout(dropout)
        rates = [stochastic_depth * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            SpaceTimeBlock(attention, width, heads, hidden, dropout=dropout, stochastic_depth=rate) for rate in rates
        )
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.head = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def embed(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (B, T, R, C, D) and class token (B, 1, D) of a video (B, 3, T, H, W), positions added."""
        if video.ndim != 5 or video.shape[1] != 3 or 0 in video.shape:
            raise ValueError(f"expected a video (B, 3, T, H, W) without empty axes, got {tuple(video.shape)}")
        batch, _, frames, height, width = video.shape
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"expected height and width to be multiples of {self.patch_size}, got {height} x {width}")
        x = self.patch_embedding(video.transpose(1, 2).flatten(0, 1))  # (B T, D, R, C)
        x = x.unflatten(0, (batch, frames)).permute(0, 1, 3, 4, 2)  # (B, T, R, C, D)
        x = self.dropout(x + self._space(x.shape[2:4]))
        token = self.dropout((self.class_token + self.class_position).expand(batch, 1, -1))
        if self.time_positions is not None:
            x = self.dropout(x + self._time(frames)[:, None, None])
        return x, token

    def features(
        self, video: Tensor, *, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, list[dict[str, Tensor]]]:
        """What the head reads: (B, 3, T, H, W) -> (B, D)."""
        patches, token = self.embed(video)
        batch, frames = patches.shape[:2]
        if self.scheme == "space":  # every frame a clip of its own
            patches, token = patches.flatten(0, 1).unsqueeze(1), token.repeat_interleave(frames, 0)
        weights = []
        for block in self.blocks:
            if self.checkpointing and self.training and not return_weights:
                patches, token, kept = checkpoint(block, patches, token, use_reentrant=False)
            else:
                patches, token, kept = block(patches, token, return_weights)
            weights.append(kept)
        if self.scheme == "space":
            token = token.unflatten(0, (batch, frames)).mean(1)
            weights = [
                {name: w.unflatten(0, (batch, frames)).squeeze(2) for name, w in kept.items()} for kept in weights
            ]
        y = self.norm(token)[:, 0]
        return (y, weights) if return_weights else y

    def forward(
        self, video: Tensor, *, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, list[dict[str, Tensor]]]:
        """Logits (B, num_classes); with return_weights also, for each block, {branch: (B, groups, heads, n, n)}.

        In a branch with the class token it comes first in every group. `patch_weights` lays them out on the clip.
        """
        if return_weights:
            y, weights = self.features(video, return_weights=True)
            return self.head(y), weights
        return self.head(self.features(video))

    def _space(self, grid: tuple[int, int]) -> Tensor:
        """Spatial positions for a grid: (R, C, D)."""
        table = self.space_positions.unflatten(0, self.grid[1:])
        if tuple(grid) == self.grid[1:]:
            return table
        return F.interpolate(table.permute(2, 0, 1)[None], size=tuple(grid), mode="nearest")[0].permute(1, 2, 0)

    def _time(self, frames: int) -> Tensor:
        """Positions in time: (T, D)."""
        if frames == self.grid[0]:
            return self.time_positions
        return F.interpolate(self.time_positions.T[None], size=frames, mode="nearest")[0].T


def patch_weights(weights: Tensor, branch: str, grid: Grid, *, with_class: bool) -> Tensor:
    """Weights of one branch laid out on the clip: (B, groups, heads, n, n) -> (B, heads, T, R, C, T, R, C).

    Zero where a patch does not attend; what goes to the class token is left out. Book: chapter 9, the explorer.
    """
    if with_class:
        weights = weights[..., 1:, 1:]
    frames, rows, columns = grid
    count = frames * rows * columns
    number = torch.arange(count, device=weights.device).reshape(1, *grid, 1)
    members = group(number, branch)[0, :, :, 0]  # (groups, n): which patches a group holds
    full = weights.new_zeros(weights.shape[0], weights.shape[2], count, count)
    for patches, among in zip(members, weights.unbind(1)):
        full[:, :, patches[:, None], patches[None]] = among
    return full.unflatten(3, grid).unflatten(2, grid)


def check_even(grid: Sequence[int]) -> None:
    """Raise ValueError unless the grid can be divided by 2 in every direction, as the global branch needs."""
    if any(side % 2 for side in grid):
        raise ValueError(f"local_global attention needs an even number of frames, rows and columns, got {tuple(grid)}")


def timesformer_base(
    num_classes: int = 400,
    num_frames: int = 8,
    image_size: int | tuple[int, int] = 224,
    *,
    attention: str = "divided",
    **options,
) -> TimeSformer:
    """TimeSformer: 8 frames of 224. Divided, 174 classes: 121,392,558 parameters, 195.83 G multiply-adds a view."""
    return TimeSformer(
        num_classes=num_classes, num_frames=num_frames, image_size=image_size, attention=attention, **options
    )


def timesformer_hr(
    num_classes: int = 400,
    num_frames: int = 16,
    image_size: int | tuple[int, int] = 448,
    *,
    attention: str = "divided",
    **options,
) -> TimeSformer:
    """TimeSformer-HR: 16 frames of 448; 1702.69 G multiply-adds a view."""
    return timesformer_base(num_classes, num_frames, image_size, attention=attention, **options)


def timesformer_large(
    num_classes: int = 400,
    num_frames: int = 96,
    image_size: int | tuple[int, int] = 224,
    *,
    attention: str = "divided",
    **options,
) -> TimeSformer:
    """TimeSformer-L: 96 frames of 224; 2379.86 G multiply-adds a view."""
    return timesformer_base(num_classes, num_frames, image_size, attention=attention, **options)


def load_vit(model: TimeSformer, tensors: Mapping[str, Tensor]) -> TimeSformer:
    """Start from a ViT: `tensors` is the state dict of a `VisionTransformer` of the same width, depth and patches.

    Every branch's attention and norm start as copies of ViT's; `last` layers, time positions and the head stay as
    they are. So joint attention on one frame, and divided attention on equal frames, begin as the ViT. Raises
    ValueError naming what does not fit. Bertasius et al. 2021, section 4. Book: chapter 9, "Starting from ViT".
    """
    tensors = dict(tensors)
    for name in ("head.weight", "head.bias"):
        tensors.pop(name, None)
    plain = {
        "patch_embedding.weight": "patch_embedding.weight",
        "patch_embedding.bias": "patch_embedding.bias",
        "class_token": "class_token",
        "class_position": "class_position",
        "space_positions": "positions.table",
        "norm.weight": "encoder.norm.weight",
        "norm.bias": "encoder.norm.bias",
    }
    copies = {}
    for index, block in enumerate(model.blocks):
        theirs = f"encoder.layers.{index}"
        last = SCHEMES[model.scheme][-1]
        for name in block.state_dict():
            key = f"blocks.{index}.{name}"
            if not name.startswith("branches."):
                plain[key] = f"{theirs}.{name}"
                continue
            branch, _, rest = name.removeprefix("branches.").partition(".")
            if rest.startswith("last."):
                continue
            source = f"{theirs}.{rest.replace('norm.', 'attention_norm.', 1) if rest.startswith('norm.') else rest}"
            (plain if branch == last else copies)[key] = source
    renamed = rename(tensors, plain)
    renamed |= {ours: tensors[theirs] for ours, theirs in copies.items()}
    renamed["space_positions"] = fit_positions(renamed["space_positions"], model.grid[1:])
    fresh = [name for name in model.state_dict() if name not in renamed]
    load_exactly(model, renamed, fresh=fresh)
    return model


def from_vit(
    path: str | PathLike[str], builder: Callable[..., TimeSformer] = timesformer_base, **options
) -> TimeSformer:
    """A model that starts from a ViT checkpoint under timm's names (`vit_base_patch16_224`): see `load_vit`."""
    model = builder(**options)
    tensors = dict(read_tensors(path))
    for name in [name for name in tensors if name.startswith("head.")]:
        del tensors[name]
    return load_vit(model, from_timm(tensors, len(model.blocks), tokens=1, heads=()))


def key_map(model: TimeSformer) -> dict[str, str]:
    """Our names to those of transformers' Timesformer: {ours: theirs}; qkv is cut in three by `from_pretrained`.

    Published are "divided", "joint" and "space".
    """
    if model.scheme not in ("divided", "joint", "space"):
        raise ValueError(f"published weights are of divided, joint and space attention, got {model.scheme!r}")
    stem = "timesformer.embeddings."
    names = {
        "patch_embedding.weight": f"{stem}patch_embeddings.projection.weight",
        "patch_embedding.bias": f"{stem}patch_embeddings.projection.bias",
        "class_token": f"{stem}cls_token",
        "position": f"{stem}position_embeddings",
    }
    if model.time_positions is not None:
        names["time_positions"] = f"{stem}time_embeddings"
    for kind in ("weight", "bias"):
        names |= {f"norm.{kind}": f"timesformer.layernorm.{kind}", f"head.{kind}": f"classifier.{kind}"}
        for index in range(len(model.blocks)):
            ours, theirs = f"blocks.{index}", f"timesformer.encoder.layer.{index}"
            last = SCHEMES[model.scheme][-1]
            pairs = {last: ("layernorm_before", "attention"), "time": ("temporal_layernorm", "temporal_attention")}
            for branch in SCHEMES[model.scheme]:
                norm, attention = pairs[branch]
                stem = f"{ours}.branches.{branch}"
                names[f"{stem}.norm.{kind}"] = f"{theirs}.{norm}.{kind}"
                for part in ("query", "key", "value"):
                    names[f"{stem}.attention.{part}.{kind}"] = f"{theirs}.{attention}.attention.qkv.{part}.{kind}"
                names[f"{stem}.attention.output.{kind}"] = f"{theirs}.{attention}.output.dense.{kind}"
            if model.scheme == "divided":
                names[f"{ours}.branches.time.last.{kind}"] = f"{theirs}.temporal_dense.{kind}"
            names[f"{ours}.feed_forward_norm.{kind}"] = f"{theirs}.layernorm_after.{kind}"
            names[f"{ours}.feed_forward.expand.{kind}"] = f"{theirs}.intermediate.dense.{kind}"
            names[f"{ours}.feed_forward.contract.{kind}"] = f"{theirs}.output.dense.{kind}"
    return names


def from_pretrained(
    path: str | PathLike[str],
    builder: Callable[..., TimeSformer] = timesformer_base,
    *,
    keep_head: bool = True,
    **options,
) -> TimeSformer:
    """A model with the weights of a checkpoint under transformers' names (`facebook/timesformer-base-...`).

    builder and options must be the checkpoint's, but for the image size and the number of frames, to which positions
    are interpolated (nearest). keep_head=False leaves the head at its start, for other classes. Raises ValueError
    naming every tensor that is missing, unknown or of another shape.
    """
    model = builder(**options)
    tensors = dict(read_tensors(path))
    for name in [name for name in tensors if ".qkv." in name]:
        stem, kind = name.rsplit(".", 1)
        for part, values in zip(("query", "key", "value"), tensors.pop(name).chunk(3)):
            tensors[f"{stem}.{part}.{kind}"] = values
    renamed = rename(tensors, key_map(model))
    position = renamed.pop("position")[0]
    renamed["class_token"], renamed["class_position"] = renamed["class_token"].flatten(), position[0]
    side = int(len(position[1:]) ** 0.5)
    if side * side != len(position) - 1:
        raise ValueError(f"expected the positions of a square frame, got {len(position) - 1} of them")
    table = position[1:].T.unflatten(1, (side, side))[None]
    renamed["space_positions"] = F.interpolate(table, size=model.grid[1:], mode="nearest")[0].flatten(1).T
    if model.time_positions is not None:
        time = renamed["time_positions"].transpose(1, 2)
        renamed["time_positions"] = F.interpolate(time, size=model.grid[0], mode="nearest")[0].T
    left = () if keep_head else ("head.weight", "head.bias")
    load_exactly(model, {name: x for name, x in renamed.items() if name not in left}, fresh=left)
    return model
