"""Clips as a net reads them, from files or from the motion set: one interface for training and testing.

    Split -> ClipDataset(split, frames=8, training=True)    file -> T frames -> crop, flip, normalise -> Sample
    MotionDataset(length, config)                           drawn, on any device                      -> Sample
    collate([Sample, ...]) -> Batch(videos (B, 3, T, H, W), labels (B,), names)

What is drawn for a sample depends on (seed, epoch, index) and nothing else: not on the worker that reads it, the order
or what was read before. So a run that is stopped and resumed sees the same clips, to the bit. Call
``set_epoch`` before each pass; workers that live on hear of it too.

A clip that cannot be read raises `ClipReadError`, which names the entry and the file; none is left out in silence.
Segment sampling: Wang et al. 2016 (TSN). Crops, mirroring and the two clips of a test as in the RSA release (Kim et al.
2021, arXiv 2111.01673). Book: chapter 16, "From a folder to batches".
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from minirsa.data.frames import read_frames
from minirsa.data.layout import Entry, Split
from minirsa.data.motion import LABELS, MotionConfig, MotionSet, mix_seeds
from minirsa.data.readers import READERS, SPLITS, evaluation_split, open_split
from minirsa.data.sampling import segment_indices
from minirsa.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CenterCrop,
    Flip,
    MultiScaleCrop,
    Normalize,
    Resize,
    mirror_labels,
    to_tensor,
)
from minirsa.data.video import VideoReadError

__all__ = [
    "READERS",
    "SPLITS",
    "Batch",
    "ClipDataset",
    "ClipReadError",
    "Entry",
    "MotionDataset",
    "Sample",
    "Split",
    "collate",
    "evaluation_split",
    "open_split",
]


class Sample(NamedTuple):
    """One clip: float32 (3, T, H, W), or (views * crops, 3, T, H, W) in a test with several; its label and name."""

    video: Tensor
    label: int
    name: str


class Batch(NamedTuple):
    """Clips stacked: float32 (B, ...) as in `Sample`, int64 (B,), and names in the same order."""

    videos: Tensor
    labels: Tensor
    names: list[str]


class ClipReadError(VideoReadError):
    """A clip of a data set that cannot be read. The message names set, entry, file and cause, in one line.

    ``path`` and ``cause`` as in `VideoReadError`, or None after the error has come out of a DataLoader's worker: the
    DataLoader makes it anew from its text and traceback, of which the last line is kept here.
    """

    def __init__(self, message: str, path: str | os.PathLike | None = None, cause: str | None = None):
        if message.startswith("Caught "):
            message = re.sub(r"^[\w.]+: ", "", message.strip().splitlines()[-1])
        ValueError.__init__(self, message)
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return self.args[0]


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one shape to a batch; for a DataLoader's ``collate_fn``.

    Raises ValueError for no samples, and for clips of different shapes, naming two of them.
    """
    if not samples:
        raise ValueError("expected at least one sample, got none")
    for sample in samples:
        if sample.video.shape != samples[0].video.shape:
            one, other = samples[0], sample
            raise ValueError(
                f"expected clips of one shape, got {tuple(one.video.shape)} for {one.name!r} and "
                f"{tuple(other.video.shape)} for {other.name!r}"
            )
    labels = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
    return Batch(torch.stack([sample.video for sample in samples]), labels, [sample.name for sample in samples])


class _Epoch:
    """A number that the copies of a dataset in worker processes share: set in one, read in all."""

    def __init__(self):
        self._cell = torch.zeros((), dtype=torch.int64).share_memory_()

    def set(self, epoch: int) -> None:
        if epoch < 0:
            raise ValueError(f"expected an epoch of at least 0, got {epoch}")
        self._cell.fill_(epoch)

    def get(self) -> int:
        return int(self._cell)


class ClipDataset(Dataset):
    """The clips of a split, sampled, cropped and normalised; item i is ``split.entries[i]``.

    frames, size: the clip that a net reads, 3 x frames x size x size.
    training: a random frame of each of ``frames`` segments, `MultiScaleCrop`, `Flip`. Else the segments' middles and
        the middle crop, nothing drawn.
    seed: of all draws, with the epoch and the index.
    views: in a test, clips in time: 1 for the segments' middles, 2 for their first frames as well.
    crops: in a test, squares in space: 1 in the middle, or several at equal distances along the longer side.
    flip: mirroring in training: "off", "skip" (not where a label says left or right), "swap" (there into its partner).
    resize: frames before cropping: (height, width) exactly, or the shorter side as a number or (number,). None: in
        training as they come, in a test the shorter side 8/7 of ``size`` (256 for 224).
    mean, std: of `Normalize`, by default ImageNet's.

    Raises ValueError for options that do not fit, for no entries, and for entries without labels in training.
    Reading raises `ClipReadError`.
    """

    def __init__(
        self,
        split: Split,
        *,
        frames: int,
        size: int = 224,
        training: bool,
        seed: int = 0,
        views: int = 1,
        crops: int = 1,
        flip: str = "skip",
        resize: int | Sequence[int] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        if frames < 1 or size < 1 or seed < 0:
            raise ValueError(f"expected frames and size of at least 1 and seed from 0, got {frames}, {size}, {seed}")
        if views not in (1, 2) or crops < 1:
            raise ValueError(f"expected views 1 or 2 and crops from 1, got {views} and {crops}")
        if training and (views, crops) != (1, 1):
            raise ValueError(f"expected one view and one crop in training, got {views} and {crops}")
        if flip not in ("off", "skip", "swap"):
            raise ValueError(f'expected flip "off", "skip" or "swap", got {flip!r}')
        if not split.entries:
            raise ValueError(f"expected entries in {split}, got none: its annotation file is empty")
        if training:
            bare = next((entry.name for entry in split.entries if entry.label < 0), None)
            if bare is not None:
                raise ValueError(f"expected a label for every clip of {split} to train on, got none for {bare!r}")
        self.split, self.frames, self.size, self.training, self.seed = split, frames, size, training, seed
        self.views, self.crops, self.flip = views, crops, flip
        self.classes = split.classes
        self._resize = _resizing(resize, size, training)
        self._normalize = Normalize(mean, std)
        self._random_crop = MultiScaleCrop(size)
        self._flip = Flip(mirror_labels(split.classes), flip) if training and flip != "off" else None
        self._epoch = _Epoch()

    def __len__(self) -> int:
        return len(self.split.entries)

    def set_epoch(self, epoch: int) -> None:
        """What the next pass draws. Workers that are kept between passes draw by it as well."""
        self._epoch.set(epoch)

    def __getitem__(self, index: int) -> Sample:
        entry = self.split.entries[index]
        try:
            if self.training:
                return self._train(entry, index % len(self))
            return self._test(entry)
        except VideoReadError as error:
            text = f"clip {entry.name!r} of {self.split}: {error}"
            raise ClipReadError(" ".join(text.split()), error.path, error.cause) from error

    def _train(self, entry: Entry, index: int) -> Sample:
        generator = torch.Generator().manual_seed(mix_seeds(mix_seeds(self.seed, self._epoch.get()), index))
        pick = lambda length: segment_indices(length, self.frames, generator=generator)  # noqa: E731
        clip = self._scale(to_tensor(read_frames(entry, self.split.root, pick)))  # (3, T, H, W) in [0, 1]
        clip, label = self._random_crop(clip, entry.label, generator=generator)
        if self._flip is not None:
            clip, label = self._flip(clip, label, generator=generator)
        return Sample(self._normalize(clip)[0], label, entry.name)

    def _test(self, entry: Entry) -> Sample:
        pick = lambda length: [  # noqa: E731
            i for view in range(self.views) for i in segment_indices(length, self.frames, clip=view)
        ]
        clip = self._normalize(self._scale(to_tensor(read_frames(entry, self.split.root, pick))))[0]
        windows = [self._crop(view, n) for view in clip.split(self.frames, 1) for n in range(self.crops)]
        video = windows[0] if len(windows) == 1 else torch.stack(windows)  # (views * crops, 3, T, H, W)
        return Sample(video, entry.label, entry.name)

    def _scale(self, clip: Tensor) -> Tensor:
        if self._resize is None or self._resize.size == tuple(clip.shape[2:]):
            return clip
        return self._resize(clip)[0]

    def _crop(self, clip: Tensor, number: int) -> Tensor:
        """The middle square, or number 0, 1, ... of `crops` along the longer side, from one end to the other."""
        if self.crops == 1:
            return CenterCrop(self.size)(clip)[0].contiguous()
        height, width = clip.shape[2:]
        room_y, room_x = height - self.size, width - self.size
        if min(room_y, room_x) < 0:
            raise ValueError(f"expected frames of at least {self.size} x {self.size}, got {height} x {width}")
        gaps = self.crops - 1
        if width >= height:
            top, left = room_y // 2, room_x * number // gaps
        else:
            top, left = room_y * number // gaps, room_x // 2
        return clip[:, :, top : top + self.size, left : left + self.size].contiguous()


def _resizing(resize: int | Sequence[int] | None, size: int, training: bool) -> Resize | None:
    if resize is None:
        return None if training else Resize(round(size * 8 / 7))
    if isinstance(resize, Sequence) and len(resize) == 1:
        (resize,) = resize
    transform = Resize(tuple(resize) if isinstance(resize, Sequence) else resize)
    smallest = min(transform.size) if isinstance(transform.size, tuple) else transform.size
    if smallest < size and not training:
        raise ValueError(f"expected frames resized to at least size={size} to crop from, got resize={resize}")
    return transform


# The motion set ------------------------------------------------------------------------------------------------------

MOTION_MEAN, MOTION_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
"""Of `Normalize` for the motion set: values in [0, 1] go to [-2, 2]."""


class MotionDataset(Dataset):
    """Clips of the motion set as samples; item i of an epoch depends on (seed, epoch, i) and ``config`` alone.

    length: clips an epoch. infinite: every epoch has other clips (for training); else all have the same.
    seed: use different ones for training and testing. mean, std: of `Normalize`; by default values go to [-2, 2].

    The label of item i is ``i % 12`` in every epoch. Noise is `minirsa.data.noise`'s, so that ``batch`` gives on any
    device what ``[]`` gives on the CPU, up to the rounding of float32, and draws nothing large on the CPU.

    Raises ValueError for a length below 1 or a negative seed, IndexError for an index outside the set.
    """

    classes = LABELS

    def __init__(
        self,
        length: int,
        config: MotionConfig | None = None,
        *,
        seed: int = 0,
        infinite: bool = False,
        mean: Sequence[float] = MOTION_MEAN,
        std: Sequence[float] = MOTION_STD,
    ):
        if length < 1:
            raise ValueError(f"expected a length of at least 1, got {length}")
        Normalize(mean, std)  # raises for what is no mean and standard deviation
        self.length, self.config, self.seed, self.infinite = length, config or MotionConfig(), seed, infinite
        self.mean, self.std = tuple(mean), tuple(std)
        self._sets = {"cpu": self._set("cpu")}
        self._epoch = _Epoch()

    def _set(self, device: str) -> MotionSet:
        endless = 2**62  # items are made when they are asked for
        return MotionSet(endless, self.config, seed=self.seed, device=device, hashed_noise=True)

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Which clips the next pass draws, if the set is infinite."""
        self._epoch.set(epoch)

    def __getitem__(self, index: int) -> Sample:
        batch = self.batch([index])
        return Sample(batch.videos[0], int(batch.labels[0]), batch.names[0])

    def batch(self, indices: Sequence[int] | Tensor, device: str | torch.device = "cpu") -> Batch:
        """Many clips at once, rendered on a device: videos (B, 3, T, H, W) and labels (B,), both there."""
        inner = [int(index) for index in indices]
        for index in inner:
            if not -self.length <= index < self.length:
                raise IndexError(f"index {index} is outside a set of {self.length} clips")
        inner = [index % self.length for index in inner]
        first = self._epoch.get() * self.length if self.infinite else 0
        key = str(device)
        if key not in self._sets:
            self._sets[key] = self._set(key)
        labels = [index % len(LABELS) for index in inner]
        videos, labels = self._sets[key].batch([first + index for index in inner], labels=labels)
        mean, std = (videos.new_tensor(values).view(3, 1, 1, 1) for values in (self.mean, self.std))
        names = [f"motion:{self.seed}:{first + index}:{LABELS[index % len(LABELS)]}" for index in inner]
        return Batch(videos.sub_(mean).div_(std), labels, names)
