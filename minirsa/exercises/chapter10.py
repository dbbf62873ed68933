"""Checkers for the exercises of "ViViT": cutting tubelets, starting from an image model, model 4's attention.

Each takes the reader's function, tries it on random float64 inputs of several sizes, and compares it with loops written
from the definition. It returns a sentence that says what was checked, or raises AssertionError that says what is wrong
and on which input, naming the mistakes it knows; what the function itself raises comes through.

Book: chapter 10, "Exercises".
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minirsa.exercises.judging import compare, random_tensors

__all__ = ["check_factorised_attention", "check_start", "check_tubelets"]


def check_tubelets(function: Callable[[Tensor, tuple[int, int, int]], Tensor]) -> str:
    """Judge the cutting of clips: (B, C, T, H, W), (t, h, w) -> (B, n_t, n_h, n_w, C t h w).

    Channels first inside each tubelet, then frames, rows and columns; what does not fill a tubelet is left out.
    """
    sizes = (
        ((1, 1, 4, 2, 2), (2, 1, 1)),
        ((2, 3, 4, 6, 4), (2, 3, 2)),
        ((1, 2, 6, 4, 4), (3, 2, 2)),
        ((1, 2, 5, 7, 9), (2, 3, 4)),
    )
    for seed, (shape, size) in enumerate(sizes):
        (clips,) = random_tensors(seed, shape)
        expected = _cut(clips, size)
        where = f"for clips {shape} and tubelets {size}"
        batch, channels = shape[:2]
        grid, (t, h, w) = expected.shape[1:4], size
        whole = clips[:, :, : grid[0] * t, : grid[1] * h, : grid[2] * w]
        boxes = expected.unflatten(-1, (channels, *size))
        got = function(clips.clone(), size)
        known = {
            "these are pieces of memory, not boxes: split T, H and W into two axes each before you reshape":
                whole.reshape(batch, *grid, -1),
            "a tubelet holds frames that are n_t apart: its frames are neighbours":
                _cut(_every(whole, grid[0]), size),
            "inside a tubelet the channel comes last: put it before frames, rows and columns":
                boxes.movedim(4, -1).flatten(4),
            "inside a tubelet frames come before channels": boxes.transpose(4, 5).flatten(4),
            "rows and columns are exchanged inside each tubelet": boxes.mT.flatten(4),
            "this keeps only the first frame of each tubelet": boxes[:, :, :, :, :, 0].flatten(4),
        }  # fmt: skip
        _name_mistake(got, where, known, expected)
        compare(got, expected, where)
    return f"Right for {len(sizes)} sizes, one of them with frames, rows and columns to spare."


def check_start(function: Callable[[Tensor, int, str], Tensor]) -> str:
    """Judge the two starts from an image: weight (D, C, h, w), t, "inflate" or "central" -> (D, C, t, h, w).

    "inflate" repeats the weight and divides it by t (equation 8); "central" puts it in frame t // 2 (equation 9).
    """
    for seed, (shape, length) in enumerate(
        (((4, 3, 2, 2), 2), ((2, 1, 3, 3), 3), ((3, 2, 2, 4), 4), ((2, 3, 2, 2), 1))
    ):
        (image,) = random_tensors(seed, shape)
        for method in ("inflate", "central"):
            where = f'for an image weight {shape}, {length} frames and "{method}"'
            copies = torch.stack([image] * length, 2)
            central = _at(image, length, length // 2)
            expected = copies / length if method == "inflate" else central
            got = function(image.clone(), length, method)
            known = {
                "the weights are not divided by t: equal frames would give t times what the image gave": copies,
                "this is the other method": central if method == "inflate" else copies / length,
            }
            if method == "central":
                known |= {
                    "the image's weight is in the first frame": _at(image, length, 0),
                    "the image's weight is in the last frame": _at(image, length, length - 1),
                    "the image's weight is in frame (t - 1) // 2: equation 9 says t // 2":
                        _at(image, length, (length - 1) // 2),
                    "the central weight is divided by t: the other frames are zero, nothing is averaged":
                        central / length,
                }  # fmt: skip
            known["time comes before the channels: the shape is (D, C, t, h, w)"] = expected.transpose(1, 2)
            _name_mistake(got, where, known, expected)
            compare(got, expected, where)
    return "Right for both starts and tubelets of one to four frames."


def check_factorised_attention(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Judge model 4's Concat(Y_s, Y_t): queries, keys, values (n_t, n_s, heads, d) -> (n_t, n_s, heads d).

    n_t frames of n_s tokens; the first half of the heads looks at the query's frame, the second at its place in all
    frames. Arnab et al. 2021, section 3.3, model 4.
    """
    for seed, (frames, places, heads, d) in enumerate(((2, 3, 2, 2), (3, 4, 4, 3), (4, 2, 2, 5), (3, 3, 6, 2))):
        q, k, v = random_tensors(seed, *[(frames, places, heads, d)] * 3)
        where = f"for {frames} frames of {places} tokens and {heads} heads"
        space, time = _looks(q, k, v, "space"), _looks(q, k, v, "time")  # (n_t, n_s, heads, d)
        half = heads // 2
        expected = torch.cat([space[:, :, :half], time[:, :, half:]], 2).flatten(2)
        everywhere = _looks(q, k, v, "all").flatten(2)
        got = function(q.clone(), k.clone(), v.clone())
        mixed = torch.where((torch.arange(heads) % 2 == 0)[:, None], space, time)
        known = {
            "the halves are exchanged: the first half of the heads looks in space":
                torch.cat([time[:, :, :half], space[:, :, half:]], 2).flatten(2),
            "space and time take turns from head to head: they are two halves": mixed.flatten(2),
            "every head looks at the whole clip: that is model 1": everywhere,
            "every head looks in space": space.flatten(2),
            "every head looks in time": time.flatten(2),
            "every head looks in space and in time, and the two are added": (space + time).flatten(2),
            "every head looks in space and in time: the heads are divided between them":
                torch.cat([space.flatten(2), time.flatten(2)], 2),
            "the scores are not divided by the root of d": torch.cat([
                _looks(q * math.sqrt(d), k, v, "space")[:, :, :half],
                _looks(q * math.sqrt(d), k, v, "time")[:, :, half:],
            ], 2).flatten(2),
            "heads and channels are exchanged before they are joined":
                torch.cat([space[:, :, :half], time[:, :, half:]], 2).mT.flatten(2),
        }  # fmt: skip
        _name_mistake(got, where, known, expected)
        compare(got, expected, where)
    return "Right for four sizes: half of the heads stays in the frame, half at the place."


def _name_mistake(got: object, where: str, known: dict[str, Tensor], expected: Tensor) -> None:
    """Raise AssertionError if `got` is one of the known mistakes and not, by chance, the right answer as well."""
    for reason, mistake in known.items():
        if isinstance(got, Tensor) and _same(got, mistake) and not _same(mistake, expected):
            raise AssertionError(f"{where} {reason}")


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.allclose(one, other)


def _cut(clips: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Tubelets by loops: (B, C, T, H, W) -> (B, n_t, n_h, n_w, C t h w)."""
    grid = [side // length for side, length in zip(clips.shape[2:], size)]
    rows = []
    for a in range(grid[0]):
        for b in range(grid[1]):
            for c in range(grid[2]):
                at = [slice(i * n, (i + 1) * n) for i, n in zip((a, b, c), size)]
                rows.append(clips[:, :, at[0], at[1], at[2]].flatten(1))
    return torch.stack(rows, 1).unflatten(1, grid)


def _every(clips: Tensor, step: int) -> Tensor:
    """Frames in the order 0, step, 2 step, ..., 1, 1 + step, ...: neighbours are then `step` apart."""
    return clips[:, :, torch.arange(clips.shape[2]).reshape(-1, step).T.flatten()]


def _at(image: Tensor, length: int, frame: int) -> Tensor:
    weight = image.new_zeros(*image.shape[:2], length, *image.shape[2:])
    weight[:, :, frame] = image
    return weight


def _looks(q: Tensor, k: Tensor, v: Tensor, axis: str) -> Tensor:
    """Attention of every head by loops over queries: (n_t, n_s, heads, d) -> the same shape."""
    frames, places, heads, d = q.shape
    result = torch.empty_like(q)
    for t in range(frames):
        for s in range(places):
            keys = {"space": k[t], "time": k[:, s], "all": k.flatten(0, 1)}[axis]  # (n, heads, d)
            values = {"space": v[t], "time": v[:, s], "all": v.flatten(0, 1)}[axis]
            for h in range(heads):
                weights = (keys[:, h] @ q[t, s, h] / math.sqrt(d)).softmax(0)
                result[t, s, h] = weights @ values[:, h]
    return result
