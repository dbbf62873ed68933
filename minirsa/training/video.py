"""Small video transformers on the motion set, and the question whether a net knows the order of frames.

    motion_clips(length, config, seed=...)   (N, 3, T, H, W) with mean about 0, labels (N,): for testing
    clip_batches(recipe, config)             the same, batch by batch, never twice: for training
    order_test(model, clips, labels)         OrderTest: top-1, pair, direction, shuffled, reversed
    small_net(name)                          a net of chapters 9 to 11, small enough for a CPU; names in SMALL

The classes of the motion set come in pairs, each the other's reversal, and the set of a clip's frames says nothing
about which of the two it is. So top-1 falls into two parts: the pair, which unordered frames may tell (appearance),
and the direction, which only their order can tell (motion). Book: chapters 9 to 11, "Does it see motion?".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minirsa.data.motion import LABELS, MotionConfig, MotionSet
from minirsa.models.mvit import MViT, Stage
from minirsa.models.timesformer import SCHEMES, TimeSformer
from minirsa.models.vivit import VARIANTS, ViViT
from minirsa.training.images import normalize_images
from minirsa.training.loop import Recipe, motion_batches, predict_scores


def motion_clips(length: int, config: MotionConfig, *, seed: int) -> tuple[Tensor, Tensor]:
    """All clips of a `MotionSet`, values brought to [-2, 2]: (N, 3, T, H, W), labels (N,)."""
    data = MotionSet(length, config, seed=seed)
    parts = [data.batch(part.tolist()) for part in torch.arange(length).split(48)]
    clips, labels = (torch.cat(tensors) for tensors in zip(*parts))
    return normalize_images(clips), labels


def clip_batches(recipe: Recipe, config: MotionConfig, *, device: str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
    """`motion_batches` with values brought to [-2, 2]: (B, 3, T, H, W), (B,) for every step of the recipe."""
    for clips, labels in motion_batches(recipe, config, device=device):
        yield normalize_images(clips), labels


@dataclass(frozen=True)
class OrderTest:
    """What a net makes of clips, of their frames in random order, and of the clips played backwards; all in [0, 1].

    top1: right among all classes. pair: right but for the direction. direction: the right one of the true pair's two
    classes has the higher score; 1/2 by chance. shuffled: top-1 with frames in random order, the label kept.
    shuffled_pair: the same for the pair. reversed: the backwards clip gets the other label of the pair, as it should.
    unmoved: the backwards clip gets the label that the clip got.
    """

    top1: float
    pair: float
    direction: float
    shuffled: float
    shuffled_pair: float
    reversed: float
    unmoved: float


def order_test(model: nn.Module, clips: Tensor, labels: Tensor, *, seed: int = 0) -> OrderTest:
    """Test a net on clips (N, 3, T, H, W) of the motion set with labels (N,), in evaluation mode.

    Every clip has an order of its own for its shuffled frames, drawn from `seed`. Raises ValueError for clips and
    labels that do not fit together.
    """
    if clips.ndim != 5 or len(clips) == 0 or labels.shape != clips.shape[:1]:
        raise ValueError(f"expected clips (N, 3, T, H, W) and labels (N,), got {tuple(clips.shape)}, {labels.shape}")
    scores = predict_scores(model, clips)
    rows = torch.arange(len(labels), device=labels.device)
    answers, other = scores.argmax(1), labels ^ 1
    mixed = predict_scores(model, shuffle_frames(clips, seed)).argmax(1)
    backwards = predict_scores(model, clips.flip(2)).argmax(1)
    share = {
        "top1": answers == labels,
        "pair": answers // 2 == labels // 2,
        "direction": scores[rows, labels] > scores[rows, other],
        "shuffled": mixed == labels,
        "shuffled_pair": mixed // 2 == labels // 2,
        "reversed": backwards == other,
        "unmoved": backwards == answers,
    }
    return OrderTest(**{name: right.float().mean().item() for name, right in share.items()})


def shuffle_frames(clips: Tensor, seed: int) -> Tensor:
    """The frames of each clip in a random order of its own: (N, C, T, H, W) -> the same shape."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(clips.shape[0], clips.shape[2], generator=generator).argsort(1).to(clips.device)
    return clips.gather(2, order[:, None, :, None, None].expand_as(clips))


CONFIG = MotionConfig(height=32, width=32, frames=8)
"""The clips of the small nets: 8 frames of 32 x 32."""

_SIZES = {"num_classes": len(LABELS), "num_frames": CONFIG.frames, "image_size": CONFIG.height}
_BLOCKS = {"width": 64, "depth": 4, "heads": 4, "hidden": 128}
_STAGES = (Stage(1, 32, 2, (1, 4, 4)), Stage(2, 64, 4, (1, 2, 2)), Stage(1, 128, 8))


def _timesformer(scheme: str) -> Callable[[], nn.Module]:
    return lambda: TimeSformer(**_SIZES, **_BLOCKS, patch_size=8, attention=scheme, stochastic_depth=0.0)


def _vivit(variant: int) -> Callable[[], nn.Module]:
    return lambda: ViViT(**_SIZES, **_BLOCKS, variant=variant, tubelet=(2, 8, 8), temporal_depth=2)


def _mvit(pooling: str) -> Callable[[], nn.Module]:
    return lambda: MViT(**_SIZES, stages=_STAGES, stem_kernel=(3, 7, 7), stem_stride=(2, 4, 4), pooling=pooling)


SMALL: dict[str, Callable[[], nn.Module]] = {
    **{f"TimeSformer {scheme}": _timesformer(scheme) for scheme in SCHEMES},
    **{f"ViViT {variant}": _vivit(variant) for variant in VARIANTS},
    **{f"MViT {pooling}": _mvit(pooling) for pooling in ("conv", "max", "avg")},
    "ViT on video": lambda: ViViT(**_SIZES, **_BLOCKS, variant=1, tubelet=(1, 8, 8), activation="gelu"),
}
"""{name: builder} of the small nets, all for the clips of `CONFIG`: 128 patches or 64 tubelets of width 64, four
blocks; MViT starts with 256 cubes of width 32 and ends with 16 of width 128."""


def small_net(name: str) -> nn.Module:
    """A fresh net of `SMALL`. Raises ValueError naming the ones there are."""
    if name not in SMALL:
        raise ValueError(f"expected one of {list(SMALL)}, got {name!r}")
    return SMALL[name]()
