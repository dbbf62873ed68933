"""Resize, crop, flip and normalise whole clips: one draw holds for all frames, or the transform itself would
move.

    uint8 (T, H, W, 3) -> to_tensor -> float32 (3, T, H, W) in [0, 1] -> Resize -> crop -> Flip -> Normalize

Every transform is called ``transform(clip, label=None, *, generator=None)`` and returns ``(clip, label)``: a
mirror image may belong to another class ("from left to right"), so the label travels with the clip. Those
that draw need a ``torch.Generator``.

Book: chapter 7, "Augmentation".
"""

import re
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral

import numpy as np
import torch
from torch.nn import functional

__all__ = [
    "CenterCrop",
    "Compose",
    "Flip",
    "MultiScaleCrop",
    "Normalize",
    "Resize",
    "mirror_labels",
    "reversed_labels",
    "to_tensor",
]

# The statistics of ImageNet that torchvision's ResNet-50 weights expect, as RGB values in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_tensor(frames: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Frames as decoded to a clip as models read it: uint8 (T, H, W, 3) -> float32 (3, T, H, W) in [0, 1].

    Raises ValueError for another shape or type.
    """
    if isinstance(frames, np.ndarray) and min(frames.strides, default=0) < 0:
        frames = frames.copy()  # torch takes no view that runs backwards, as frames[::-1] does
    frames = torch.as_tensor(frames)
    if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[-1] != 3:
        raise ValueError(f"expected uint8 frames (T, H, W, 3), got {frames.dtype} {tuple(frames.shape)}")
    return frames.permute(3, 0, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255


class Compose:
    """Transforms one after the other, the label and the generator handed through."""

    def __init__(self, transforms: Sequence[Callable]):
        self.transforms = list(transforms)

    def __call__(
        self, clip: torch.Tensor, label: int | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, int | None]:
        for transform in self.transforms:
            clip, label = transform(clip, label, generator=generator)
        return clip, label


class Resize:
    """Bilinear with antialiasing: the shorter side to ``size``, the aspect ratio kept, or both to (height, width)."""

    def __init__(self, size: int | tuple[int, int]):
        pair = _height_width(size)
        self.size = size if isinstance(size, Integral) else pair

    def __call__(self, clip, label=None, *, generator=None):
        _check_clip(clip)
        height, width = clip.shape[2:]
        if isinstance(self.size, tuple):
            size = self.size
        elif height <= width:
            size = (self.size, max(1, round(width * self.size / height)))
        else:
            size = (max(1, round(height * self.size / width)), self.size)
        return _resample(clip, size), label


class CenterCrop:
    """The middle ``size`` (a number, or height and width). Raises ValueError for a clip that is smaller."""

    def __init__(self, size: int | tuple[int, int]):
        self.size = _height_width(size)

    def __call__(self, clip, label=None, *, generator=None):
        _check_clip(clip)
        (height, width), (h, w) = clip.shape[2:], self.size
        if h > height or w > width:
            raise ValueError(f"expected a clip of at least {h} x {w} to crop, got {height} x {width}: resize it first")
        top, left = (height - h) // 2, (width - w) // 2
        return clip[:, :, top : top + h, left : left + w], label


class MultiScaleCrop:
    """A crop of random scale, shape and place, resized to ``size``: TSN's augmentation.

    Height and width are drawn from ``scales`` times the shorter side, at most ``max_distort`` steps of that
    list apart; the place from 13 fixed ones (corners, edges, centre and quarter points), which sees corners
    more often than a uniform draw. Wang et al. 2016, Temporal Segment Networks, section 3.2; 13 places as in
    TSN's released code (``more_fix_crop``).
    """

    def __init__(
        self, size: int | tuple[int, int], scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66), max_distort: int = 1
    ):
        if not scales or not all(0 < s <= 1 for s in scales):
            raise ValueError(f"expected scales in (0, 1], got {scales}")
        self.size = _height_width(size)
        self.scales, self.max_distort = tuple(scales), max_distort

    def __call__(self, clip, label=None, *, generator=None):
        _check_clip(clip)
        top, left, height, width = self.draw(*clip.shape[2:], generator=_need(generator, "MultiScaleCrop"))
        return _resample(clip[:, :, top : top + height, left : left + width], self.size), label

    def draw(self, height: int, width: int, *, generator: torch.Generator) -> tuple[int, int, int, int]:
        """A window (top, left, height, width) inside frames of ``height`` x ``width``."""
        steps = range(len(self.scales))
        pairs = [(i, j) for i in steps for j in steps if abs(i - j) <= self.max_distort]
        i, j = pairs[int(torch.randint(len(pairs), (), generator=generator))]
        short = min(height, width)
        h, w = max(1, int(short * self.scales[i])), max(1, int(short * self.scales[j]))
        places = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)] + [(y, x) for y in (1, 3) for x in (1, 3)]
        y, x = places[int(torch.randint(len(places), (), generator=generator))]
        return y * (height - h) // 4, x * (width - w) // 4, h, w


class Flip:
    """Mirror a clip left to right, and mind what that does to its label.

    ``partners[label]`` is the label of the mirrored clip, as ``mirror_labels`` derives it from the labels'
    texts. Where it is another label, policy "skip" leaves the clip as it is (the RSA release's choice),
    "swap" mirrors it and returns the partner. A clip whose partner is None is never mirrored.
    """

    def __init__(self, partners: Sequence[int | None], policy: str = "skip", p: float = 0.5):
        if policy not in ("skip", "swap"):
            raise ValueError(f'expected policy "skip" or "swap", got {policy!r}')
        self.partners, self.policy, self.p = list(partners), policy, p

    def __call__(self, clip, label=None, *, generator=None):
        _check_clip(clip)
        if label is None:
            raise ValueError("Flip needs the clip's label: a mirror image may belong to another class")
        chosen = float(torch.rand((), generator=_need(generator, "Flip"))) < self.p
        partner = self.partners[label]
        if not chosen or partner is None or (partner != label and self.policy == "skip"):
            return clip, label
        return clip.flip(-1), partner


class Normalize:
    """(clip - mean) / std for each colour. Defaults: ImageNet's, for weights pretrained there."""

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD):
        if not len(mean) == len(std) == 3 or min(std) <= 0:
            raise ValueError(f"expected 3 means and 3 standard deviations above 0, got {mean} and {std}")
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, clip, label=None, *, generator=None):
        _check_clip(clip)
        mean, std = (clip.new_tensor(v).view(3, 1, 1, 1) for v in (self.mean, self.std))
        return (clip - mean) / std, label


_MIRRORED = {
    "left": "right",
    "right": "left",
    "leftwards": "rightwards",
    "rightwards": "leftwards",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
    "anticlockwise": "clockwise",
}


def mirror_labels(label_texts: Sequence[str]) -> list[int | None]:
    """For each label the number of the label that its mirrored clips show.

    Words of side and of turning are exchanged in the text and the result is looked up among the texts. A
    label without such a word is its own mirror image; one whose mirrored text is no label gets None: no class
    of the list describes its mirrored clips. Case, brackets, hyphens and spelling ("anticlockwise",
    "counter-clockwise") do not matter.

    Raises ValueError for two labels with the same text.
    """
    words = [_words(text) for text in label_texts]
    numbers = {text: number for number, text in enumerate(words)}
    if len(numbers) < len(words):
        double = next(t for i, t in enumerate(words) if t in words[:i])
        raise ValueError(f"expected every label text once, got {' '.join(double)!r} twice")
    return [numbers.get(tuple(_MIRRORED.get(word, word) for word in text)) for text in words]


_SIDES = {"left", "right"}
_REVERSED_WORDS = (
    {"up": "down", "down": "up", "upwards": "downwards", "downwards": "upwards"},
    {"left": "right", "right": "left", "pushing": "pulling", "pulling": "pushing"},
    {"clockwise": "counterclockwise", "counterclockwise": "clockwise"},
    {"opening": "closing", "closing": "opening"},
    {"folding": "unfolding", "unfolding": "folding"},
)
_REVERSED_PHRASES = (
    ("away from", "closer to"),
    ("away from", "towards"),
    ("putting something into", "taking something out of"),
    ("covering something with something", "uncovering something"),
    ("approaching", "moving away from"),
)


def reversed_labels(label_texts: Sequence[str]) -> list[int | None]:
    """For each label the number of the label that its clips show when they are played backwards.

    As in `mirror_labels`, words and phrases of direction are exchanged in the text ("up" and "down", "away from" and
    "closer to", "covering something with something" and "uncovering something") and the result is looked up. A push
    from left to right, backwards, is a pull from right to left: the hand is on the side to which the thing moves.
    None where no label is the opposite; that most often means that backwards clips of this label show nothing that
    the list has a name for. Partners are mutual.

    Raises ValueError for two labels with the same text.
    """
    words = [" ".join(_words(text)) for text in label_texts]
    numbers = {text: number for number, text in enumerate(words)}
    if len(numbers) < len(words):
        double = next(t for i, t in enumerate(words) if t in words[:i])
        raise ValueError(f"expected every label text once, got {double!r} twice")
    found = [next((numbers[t] for t in _opposites(text) if t != text and t in numbers), None) for text in words]
    return [other if other is not None and found[other] == number else None for number, other in enumerate(found)]


def _opposites(text: str) -> Iterator[str]:
    """What a text may become backwards; often the text itself."""
    for exchanged in _REVERSED_WORDS:
        words = text.split()
        if "left" in exchanged and not _SIDES & set(words):  # without a side, a push is no pull backwards
            continue
        yield " ".join(exchanged.get(word, word) for word in words)
    for pair in _REVERSED_PHRASES:
        for one, other in (pair, pair[::-1]):
            yield re.sub(rf"\b{one}\b", other, text)


def _words(text: str) -> tuple[str, ...]:
    text = re.sub(r"\b(?:counter|anti)[- ]?clockwise\b", "counterclockwise", text.lower())
    return tuple(re.findall(r"[^\W_]+(?:'\w+)?", text))


def _height_width(size: int | Sequence[int]) -> tuple[int, int]:
    """A size given as one number, or as height and width in a tuple or list, as (height, width)."""
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, Integral) and side >= 1 for side in sides):
        raise ValueError(f"expected a size of at least 1, a whole number or (height, width), got {size!r}")
    return sides


def _resample(clip: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    frames = functional.interpolate(
        clip.transpose(0, 1), size=tuple(size), mode="bilinear", antialias=True, align_corners=False
    )  # (T, 3, H, W)
    return frames.transpose(0, 1).contiguous()


def _check_clip(clip: torch.Tensor) -> None:
    if clip.dim() != 4 or clip.shape[0] != 3 or not clip.is_floating_point():
        raise ValueError(f"expected a float clip (3, T, H, W), got {clip.dtype} {tuple(clip.shape)}")


def _need(generator: torch.Generator | None, who: str) -> torch.Generator:
    if generator is None:
        raise ValueError(f"{who} draws at random: pass generator=torch.Generator().manual_seed(...)")
    return generator
