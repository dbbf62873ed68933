"""Checkers for the exercises of "Vision Transformer": cutting patches, positions at another size, attention rollout.

Each takes the reader's function, tries it on random float64 inputs of several sizes, and compares it with loops written
from the definition. It returns a sentence that says what was checked, or raises AssertionError that says what is wrong
and on which input, naming the mistakes it knows; what the function itself raises comes through.

Book: chapter 5, "Exercises".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.utils._python_dispatch
from torch import Tensor

from minirsa.exercises.judging import compare, random_tensors

__all__ = ["check_patches", "check_resize_positions", "check_rollout"]


def check_patches(function: Callable[[Tensor, int], Tensor]) -> str:
    """Judge the cutting of images without a loop: images (B, C, H, W), size -> patches (B, N, C size size).

    Patches in reading order, channels first inside each; fewer than 50 operations for an image of 400 patches.
    """
    sizes = ((2, 1, 4, 6, 2), (2, 3, 4, 10, 2), (3, 2, 9, 6, 3), (1, 3, 5, 5, 5), (1, 1, 40, 40, 2))
    for seed, (batch, channels, height, width, side) in enumerate(sizes):
        (images,) = random_tensors(seed, (batch, channels, height, width))
        cut = _cut(images, side)
        where = f"for images {(batch, channels, height, width)} and patches of {side}"
        with _Operations() as operations:
            got = function(images.clone(), side)
        _name_mistake(got, where, {
            "the patches go down the columns: they are read row by row": _cut(images.mT, side, turned=True),
            "inside a patch the channel comes last: put it before rows and columns":
                cut.unflatten(2, (channels, side * side)).transpose(2, 3).flatten(2),
            "rows and columns are exchanged inside each patch":
                cut.unflatten(2, (channels, side, side)).mT.flatten(2),
            "these are strips of neighbouring pixels, not squares: split rows and columns before you reshape":
                images.reshape(batch, -1, channels * side * side),
        }, cut)  # fmt: skip
        compare(got, cut, where)
    assert operations.count < 50, (  # of the last image, which has 400 patches
        f"the values are right, but 400 patches took {operations.count} operations: no loop is needed"
    )
    return f"Right for {len(sizes)} sizes; 400 patches took {operations.count} operations."


def check_resize_positions(function: Callable[[Tensor, tuple[int, int], tuple[int, int]], Tensor]) -> str:
    """Judge positions at another size: table (1 + h w, D), (h, w), (h', w') -> (1 + h' w', D).

    The first row, the class token's, stays; the others are a grid, resized bilinearly between pixel centres.
    """
    sizes = (((2, 2), (4, 4), 3), ((3, 4), (6, 4), 2), ((4, 3), (5, 7), 4), ((5, 5), (5, 5), 1))
    for seed, (old, new, width) in enumerate(sizes):
        (table,) = random_tensors(seed, (1 + old[0] * old[1], width))
        expected = torch.cat([table[:1], _bilinear(table[1:], old, new)])
        where = f"from {old[0]} x {old[1]} to {new[0]} x {new[1]} patches"
        got = function(table.clone(), old, new)
        grid = table[1:]
        _name_mistake(got, where, {
            "the grid's corners are kept in place (align_corners): pixel centres are what should be":
                torch.cat([table[:1], _bilinear(grid, old, new, corners=True)]),
            "rows and columns are exchanged":
                torch.cat([table[:1], _bilinear(grid, old[::-1], new[::-1])]),
            "channels and places are mixed up: move the channels to the front before you reshape to a grid":
                torch.cat([table[:1], _mixed_up(grid, old, new)]),
            "the class token's row has been lost: put it back in front": expected[1:],
            "the class token's row should stay as it is": torch.cat([expected[:1] * 0, expected[1:]]),
        }, expected)  # fmt: skip
        compare(got, expected, where)
    return f"Right for {len(sizes)} pairs of sizes: the grid follows its places, the class token stays."


def check_rollout(function: Callable[[Sequence[Tensor]], Tensor]) -> str:
    """Judge attention rollout: [(B, heads, n, n)] of the layers, first to last -> (B, n, n).

    Half attention (mean over heads), half identity, from layer to layer (Abnar and Zuidema 2020).
    """
    for seed, (depth, batch, heads, n) in enumerate(((1, 1, 1, 2), (2, 2, 3, 4), (4, 1, 2, 5))):
        draws = random_tensors(seed, *[(batch, heads, n, n)] * depth)
        weights = [draw.softmax(-1) for draw in draws]
        identity = torch.eye(n, dtype=torch.float64)
        mixed = [0.5 * layer.mean(1) + 0.5 * identity for layer in weights]
        where = f"for {depth} layers, {heads} heads and {n} tokens"
        expected = identity.expand(batch, n, n)
        for layer in mixed:  # the last layer stands on the left: it reads what the earlier ones wrote
            expected = torch.stack([_product(a, b) for a, b in zip(layer, expected)])
        backwards, plain = identity, identity
        for layer, whole in zip(mixed, weights):
            backwards, plain = backwards @ layer, whole.mean(1) @ plain
        got = function([layer.clone() for layer in weights])
        _name_mistake(got, where, {
            "the layers are multiplied in the wrong order: the last one belongs on the left": backwards,
            "the residual is missing: half of every token stays where it is": plain,
            "this is the last layer alone": weights[-1].mean(1),
            "this is the last layer alone, with its residual": mixed[-1],
            "the result is transposed: row i says where token i's content comes from": expected.mT,
        }, expected)  # fmt: skip
        compare(got, expected, where)
    return "Right for one, two and four layers: every row adds up to one, and the last layer reads the others."


def _name_mistake(got: object, where: str, known: dict[str, Tensor], expected: Tensor) -> None:
    """Raise AssertionError if `got` is one of the known mistakes and not, by chance, the right answer as well."""
    for reason, mistake in known.items():
        same_shape = isinstance(got, Tensor) and got.shape == mistake.shape
        if same_shape and torch.allclose(got, mistake) and not _same(mistake, expected):
            raise AssertionError(f"{where} {reason}")


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other)


def _cut(images: Tensor, side: int, *, turned: bool = False) -> Tensor:
    """Patches by loops; `turned` images have height and width exchanged, and their patches are turned back."""
    rows, columns = images.shape[2] // side, images.shape[3] // side
    squares = [
        images[:, :, side * r : side * (r + 1), side * c : side * (c + 1)] for r in range(rows) for c in range(columns)
    ]
    return torch.stack([(square.mT if turned else square).flatten(1) for square in squares], 1)


def _bilinear(grid: Tensor, old: tuple[int, int], new: tuple[int, int], *, corners: bool = False) -> Tensor:
    """Bilinear resizing by loops: (h w, D) -> (h' w', D)."""

    def place(target: int, before: int, after: int) -> tuple[int, int, float]:
        if corners:
            at = target * (before - 1) / (after - 1) if after > 1 else 0.0
        else:
            at = (target + 0.5) * before / after - 0.5
        at = min(max(at, 0.0), before - 1.0)
        low = min(int(at), max(before - 2, 0))
        return low, min(low + 1, before - 1), at - low

    result = []
    for row in range(new[0]):
        top, bottom, down = place(row, old[0], new[0])
        for column in range(new[1]):
            left, right, across = place(column, old[1], new[1])
            upper = (1 - across) * grid[top * old[1] + left] + across * grid[top * old[1] + right]
            lower = (1 - across) * grid[bottom * old[1] + left] + across * grid[bottom * old[1] + right]
            result.append((1 - down) * upper + down * lower)
    return torch.stack(result)


def _mixed_up(grid: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """A grid reshaped to (D, h, w) as it lies in memory, resized, and laid back: (h w, D) -> (h' w', D)."""
    planes = grid.reshape(grid.shape[1], -1)
    return torch.stack([_bilinear(plane[:, None], old, new)[:, 0] for plane in planes]).reshape(-1, grid.shape[1])


def _product(a: Tensor, b: Tensor) -> Tensor:
    """(n, n) @ (n, n) as sums over the tokens in between."""
    n = len(a)
    return torch.stack([torch.stack([sum(a[i, k] * b[k, j] for k in range(n)) for j in range(n)]) for i in range(n)])


class _Operations(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts operations, views included."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))
