"""Checkers for the exercises of "TimeSformer": divided attention by grouping, masks of the local and the global branch.

Each takes the reader's function, tries it on inputs of several sizes, and compares it with loops written from the
definition. It returns a sentence that says what was checked, or raises AssertionError that says what is wrong and on
which input, naming the mistakes it knows; what the function itself raises comes through.

Book: chapter 9, "Exercises".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minirsa.exercises.judging import compare, random_tensors

__all__ = ["check_divided", "check_global", "check_local"]

Sequences = Callable[[Tensor], Tensor]  # (sequences, length, D) -> the same shape
Grid = tuple[int, int, int]


def check_divided(function: Callable[[Tensor, Sequences, Sequences], Tensor]) -> str:
    """Judge divided attention: x (B, T, N, D), time, space -> (B, T, N, D).

    `time` and `space` take sequences (any number, length, D) and return the same shape. Time comes first, among the T
    patches of a place, then space, among the N patches of a frame; each is added to what it was given.
    """
    sizes = ((1, 2, 3, 2), (2, 3, 2, 4), (2, 3, 3, 2), (3, 1, 4, 2), (2, 4, 5, 3))
    for seed, (batch, frames, places, width) in enumerate(sizes):
        x, *weights = random_tensors(seed, (batch, frames, places, width), (width, width), (width, width))
        time, space = (_attention(weight) for weight in weights)
        later = x + _along_time(x, time)
        expected = later + _along_space(later, space)
        where = f"for x of shape {tuple(x.shape)}"
        got = function(x.clone(), time, space)
        mixed = x.reshape(batch * places, frames, width)  # neighbours in memory, not in time
        wrong = x + time(mixed).reshape(x.shape)
        there = x.transpose(1, 2).reshape(batch * places, frames, width)
        crooked = x + time(there).reshape(x.shape)
        earlier = x + _along_space(x, space)
        _name_mistake(got, where, {
            "the time groups hold patches of one frame: exchange T and N before you reshape":
                wrong + _along_space(wrong, space),
            "the answers of time are put back in the wrong places: exchange N and T again after it":
                crooked + _along_space(crooked, space),
            "space comes before time": earlier + _along_time(earlier, time),
            "space is given what time was given: it should see what time has added":
                x + _along_time(x, time) + _along_space(x, space),
            "the residual sums are missing": _along_space(_along_time(x, time), space),
            "the residual sum after space is missing": _along_space(later, space),
            "the residual sum after time is missing":
                _along_time(x, time) + _along_space(_along_time(x, time), space),
        }, expected)  # fmt: skip
        compare(got, expected, where)
    return f"Right for {len(sizes)} sizes: time among the frames of a place, then space within a frame."


def check_global(function: Callable[[Grid], Tensor]) -> str:
    """Judge the mask of the global branch: (T, R, C), all even -> (T R C, T R C) bool.

    True where frame, row and column of the key are an even number of steps from those of the query.
    """
    for grid in ((2, 2, 2), (2, 4, 2), (4, 2, 6), (4, 4, 4)):
        expected = _by_rule(grid, lambda a, b: all((j - i) % 2 == 0 for i, j in zip(a, b)))
        _judge_mask(function(grid), expected, grid, {
            "every query looks at the even frames, rows and columns: count from the query's own instead":
                _by_rule(grid, lambda a, b: all(j % 2 == 0 for j in b)),
            "frames are not skipped: the stride of two holds in time as well":
                _by_rule(grid, lambda a, b: all((j - i) % 2 == 0 for i, j in zip(a[1:], b[1:]))),
            "rows and columns are not skipped": _by_rule(grid, lambda a, b: (b[0] - a[0]) % 2 == 0),
            "the sum of the three steps is even here: each of the three has to be":
                _by_rule(grid, lambda a, b: (sum(b) - sum(a)) % 2 == 0),
            "yes and no are exchanged": ~expected,
        })  # fmt: skip
    return "Right for 4 grids: every second patch in time, height and width, counted from the query."


def check_local(function: Callable[[Grid], Tensor]) -> str:
    """Judge the mask of the local branch: (T, R, C), R and C multiples of 4 -> (T R C, T R C) bool.

    True where the key is from -R/4 up to, not including, R/4 rows from the query, and likewise in columns; any frame.
    """

    for grid in ((1, 4, 4), (2, 4, 8), (3, 8, 4), (2, 8, 8)):
        expected = _window(grid)
        same_frame = _by_rule(grid, lambda a, b: a[0] == b[0])
        frames, rows, columns = grid
        centre = (rows // 2) * columns + columns // 2
        _judge_mask(function(grid), expected, grid, {
            "the window has one row and one column too many: a step of +R/4 is outside": _window(grid, last=0),
            "the window reaches further forwards than back: a step is the key's row minus the query's":
                _window(grid, first=1, last=0),
            "the window holds for the query's frame only: it extends to all frames": expected & same_frame,
            "the window stays where it is in the middle of the frame: it should go with the query":
                expected[centre].expand(frames * rows * columns, -1),
            "yes and no are exchanged": ~expected,
        })  # fmt: skip
    return "Right for 4 grids: half the height and width around the query, in every frame."


def _judge_mask(got: object, expected: Tensor, grid: Grid, known: dict[str, Tensor]) -> None:
    """Raise AssertionError unless `got` is the mask, naming the mistake if it is a known one."""
    where = f"for a grid {grid}"
    assert isinstance(got, Tensor), f"{where} expected a tensor, got {type(got).__name__}"
    assert got.dtype == torch.bool, f"{where} expected a bool tensor, got {got.dtype}"
    assert got.shape == expected.shape, f"{where} expected shape {tuple(expected.shape)}, got {tuple(got.shape)}"
    for reason, mistake in known.items():
        assert torch.equal(got, expected) or not torch.equal(got, mistake), f"{where} {reason}"
    wrong = (got != expected).nonzero()
    if len(wrong):
        query, key = (_places(grid)[i] for i in wrong[0].tolist())
        said, right = bool(got[tuple(wrong[0])]), bool(expected[tuple(wrong[0])])
        raise AssertionError(f"{where} the patch {query} and the key {key} should be {right}, got {said}")


def _name_mistake(got: object, where: str, known: dict[str, Tensor], expected: Tensor) -> None:
    """Raise AssertionError if `got` is one of the known mistakes and not, by chance, the right answer as well."""
    if not isinstance(got, Tensor) or got.shape != expected.shape or torch.allclose(got, expected):
        return
    for reason, mistake in known.items():
        assert not torch.allclose(got, mistake), f"{where} {reason}"


def _places(grid: Grid) -> list[tuple[int, int, int]]:
    frames, rows, columns = grid
    return [(t, r, c) for t in range(frames) for r in range(rows) for c in range(columns)]


def _by_rule(grid: Grid, rule: Callable[[tuple[int, ...], tuple[int, ...]], bool]) -> Tensor:
    """(n, n) bool: rule(query, key) for all pairs of places."""
    places = _places(grid)
    return torch.tensor([[bool(rule(query, key)) for key in places] for query in places])


def _window(grid: Grid, first: int = 0, last: int = -1) -> Tensor:
    """(n, n) bool: steps in rows and columns from -side/4 + first to side/4 + last, in any frame."""

    def near(query: tuple[int, ...], key: tuple[int, ...]) -> bool:
        steps = zip(query[1:], key[1:], grid[1:])
        return all(first - side // 4 <= j - i <= side // 4 + last for i, j, side in steps)

    return _by_rule(grid, near)


def _attention(weight: Tensor) -> Sequences:
    """A little self-attention: (sequences, length, D) -> the same shape."""
    return lambda x: (x @ weight @ x.mT).softmax(-1) @ x


def _along_time(x: Tensor, time: Sequences) -> Tensor:
    """Apply to the frames of each place, by loops: (B, T, N, D) -> the same shape."""
    result = torch.empty_like(x)
    for clip, out in zip(x, result):
        for place in range(x.shape[2]):
            out[:, place] = time(clip[:, place][None])[0]
    return result


def _along_space(x: Tensor, space: Sequences) -> Tensor:
    """Apply to the places of each frame, by loops: (B, T, N, D) -> the same shape."""
    return torch.stack([torch.stack([space(frame[None])[0] for frame in clip]) for clip in x])
