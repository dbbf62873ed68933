"""Which frames of a video a model sees.

    segment    |....x....|.x.......|.......x.|...x.....|   one frame out of each of T equal segments: the
    whole event dense      ..........x..x..x..x....................    T frames, ``stride`` apart: a window at
    a higher frame rate

Something-Something models read segments (Wang et al. 2016, Temporal Segment Networks, section 3.1; the
formulas at test time are those of TSM's and the RSA release's loaders); Kinetics models often read a dense
window.

Book: chapter 7, "Sampling".
"""

import torch

__all__ = ["dense_indices", "segment_indices"]


def segment_indices(
    length: int, num_frames: int, *, generator: torch.Generator | None = None, clip: int = 0
) -> list[int]:
    """One frame index out of each of ``num_frames`` equal segments of a video of ``length`` frames, in order.

    With a ``generator`` (training) the frame is drawn within its segment. Without (testing), with tick =
    length / num_frames, clip 0 takes int(tick / 2 + tick * i), the segments' middles, and clip 1 takes
    int(tick * i), their first frames: together the two clips of the papers' 2-clip test. A video shorter than
    ``num_frames`` repeats frames.

    Raises ValueError for a length or num_frames below 1 or another clip than 0 and 1.
    """
    _check(length, num_frames)
    if clip not in (0, 1):
        raise ValueError(f"expected clip 0 or 1, got {clip}")
    if generator is not None:
        place = torch.rand(num_frames, generator=generator, dtype=torch.float64)
        starts = torch.arange(num_frames, dtype=torch.float64)
        return ((starts + place) * length / num_frames).long().clamp_(max=length - 1).tolist()
    # Whole-number arithmetic for the formulas above: a float tick falls short of a whole number now and then.
    if clip == 1:
        return [length * i // num_frames for i in range(num_frames)]
    return [length * (2 * i + 1) // (2 * num_frames) for i in range(num_frames)]


def dense_indices(length: int, num_frames: int, stride: int, *, generator: torch.Generator | None = None) -> list[int]:
    """``num_frames`` frame indices, ``stride`` apart, out of a video of ``length`` frames.

    With a ``generator`` (training) the window lies anywhere, without (testing) in the middle. A video shorter
    than the window is read from its start, and its last frame is repeated.

    Raises ValueError for a length, num_frames or stride below 1.
    """
    _check(length, num_frames)
    if stride < 1:
        raise ValueError(f"expected a stride of at least 1, got {stride}")
    room = max(length - ((num_frames - 1) * stride + 1), 0)
    start = room // 2
    if generator is not None:
        start = int(torch.randint(room + 1, (), generator=generator))
    return [min(start + stride * i, length - 1) for i in range(num_frames)]


def _check(length: int, num_frames: int) -> None:
    if length < 1 or num_frames < 1:
        raise ValueError(f"expected a length and num_frames of at least 1, got {length} and {num_frames}")
