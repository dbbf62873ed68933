"""Checkers for the exercises of "Multiscale Vision Transformers": pools of tokens, positions, a block's price.

Each takes the reader's function, tries it on several sizes, and compares it with loops, or with a block that is built
and counted. It returns a sentence that says what was checked, or raises AssertionError that says what is wrong and on
which input, naming the mistakes it knows; what the function itself raises comes through.

Book: chapter 11, "Exercises".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirsa import complexity
from minirsa.exercises.judging import compare, random_tensors
from minirsa.models.mvit import MultiscaleBlock

__all__ = ["check_block_macs", "check_pool", "check_positions"]

Grid = tuple[int, int, int]


def check_pool(function: Callable[[Tensor, Grid, Grid], Tensor]) -> str:
    """Judge max pools of tokens: x (B, 1 + t h w, C), grid (t, h, w), stride -> (B, 1 + t' h' w', C).

    Boxes of 3 x 3 x 3 with padding 1 that never wins; the class token, first, stays as it is.
    """
    cases = (((2, 4, 6), (1, 2, 2), 3), ((3, 5, 4), (2, 2, 2), 2), ((1, 3, 3), (1, 1, 1), 1), ((4, 2, 7), (1, 2, 4), 2))
    for seed, (grid, stride, channels) in enumerate(cases):
        (x,) = random_tensors(seed, (2, 1 + math.prod(grid), channels))
        x = x - 3  # nearly all below zero: padding with zeros would show
        expected = torch.cat([x[:, :1], _boxes(x[:, 1:], grid, stride)], 1)
        where = f"on a grid of {grid} with stride {stride}"
        cube = x[:, 1:].unflatten(1, grid).movedim(-1, 1)  # (B, C, t, h, w)
        zeros = F.max_pool3d(F.pad(cube, (1,) * 6), 3, stride)
        loose = F.max_pool3d(cube, 3, stride, 1)
        got = function(x.clone(), grid, stride)
        known = {
            "the class token has been lost: put it back in front": expected[:, 1:],
            "the class token is last: it belongs in front": expected.roll(-1, 1),
            "the class token has been pooled with the places: it stays as it is": torch.cat(
                [x.amax(1, keepdim=True), expected[:, 1:]], 1
            ),
            "zeros of the padding win over negative numbers: pad with minus infinity": torch.cat(
                [x[:, :1], zeros.flatten(2).mT], 1
            ),
            "this is the mean of each box, not the largest": torch.cat(
                [x[:, :1], _boxes(x[:, 1:], grid, stride, torch.mean)], 1
            ),
            "channels and places are mixed up: after pooling, move the channels back to the last axis": torch.cat(
                [x[:, :1], loose.reshape(2, -1, channels)], 1
            ),
            "rows and columns are exchanged": _exchanged(x, grid, stride),
        }  # fmt: skip
        _name_mistake(got, where, known, expected)
        compare(got, expected, where)
    return f"Right for {len(cases)} grids: the boxes are pooled, the class token goes round."


def check_positions(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Judge separable positions: time (T, D), space (H W, D), token (D,) -> (1 + T H W, D), class token first."""
    for seed, (frames, places, width) in enumerate(((2, 3, 4), (3, 4, 2), (4, 4, 3), (1, 5, 1))):
        time, space, token = random_tensors(seed, (frames, width), (places, width), (width,))
        rows = [time[t] + space[i] for t in range(frames) for i in range(places)]
        expected = torch.stack([token, *rows])
        turned = torch.stack([token, *(time[t] + space[i] for i in range(places) for t in range(frames))])
        where = f"for {frames} frames of {places} places"
        got = function(time.clone(), space.clone(), token.clone())
        known = {
            "the frames of a place stand together: go frame by frame, time is the outer axis": turned,
            "the class token's vector is missing: it comes first": expected[1:],
            "the class token's vector comes last: it belongs in front": expected.roll(-1, 0),
            "the class token's vector is added to every place: it has a row of its own": torch.cat(
                [expected[:1], expected[1:] + token]
            ),
            "the frame's vector is missing": torch.cat([token[None], space.repeat(frames, 1)]),
            "the place's vector is missing": torch.cat([token[None], time.repeat_interleave(places, 0)]),
            "the vectors are multiplied: they are added": torch.cat(
                [token[None], (time[:, None] * space).flatten(0, 1)]
            ),
        }  # fmt: skip
        _name_mistake(got, where, known, expected)
        compare(got, expected, where)
    return "Right for four sizes: a frame's vector plus a place's, frame by frame, the class token's in front."


def check_block_macs(function: Callable[[int, int, Grid, Grid, Grid], int]) -> str:
    """Judge a block's multiply-adds: C, C', grid (t, h, w), stride of Q, stride of K and V -> a whole number.

    The answer is what `minirsa.complexity.measure` counts on a `MultiscaleBlock` with max pools.
    """
    cases = (
        (8, 8, (2, 4, 4), (1, 1, 1), (1, 1, 1)),
        (8, 8, (2, 4, 4), (1, 1, 1), (1, 2, 2)),
        (8, 8, (2, 6, 4), (1, 2, 2), (1, 1, 1)),
        (8, 16, (2, 5, 7), (1, 1, 1), (1, 4, 4)),
        (96, 192, (8, 14, 14), (1, 2, 2), (1, 4, 4)),
    )
    for width, new_width, grid, q_stride, kv_stride in cases:
        expected = _counted(width, new_width, grid, q_stride, kv_stride)
        n, n_q, n_k = (_tokens(grid, stride) for stride in ((1, 1, 1), q_stride, kv_stride))
        grows = n_q * width * new_width if new_width != width else 0
        matrices, products = (3 * n + n_q) * width**2, 2 * n_q * n_k * width
        mlp = 4 * n_q * width * (width + new_width)
        assert matrices + products + mlp + grows == expected
        patches = matrices + 2 * (n_q - 1) * (n_k - 1) * width + mlp + grows
        known = {
            "keys and values are projected before they are pooled: all n tokens are": n * width**2
            + 2 * n_k * width**2 + n_q * width**2 + products + mlp + grows,
            "W_O comes after the attention: it sees n_q tokens": expected + (n - n_q) * width**2,
            "the MLP comes after the attention: it sees n_q tokens": expected + (n - n_q) * (mlp + grows) // n_q,
            "there are two products, Q K^T and A V": expected - products // 2,
            "the products have n_q n_k pairs, not n n": expected - products + 2 * n * n * width,
            "the skip of the MLP is a linear layer where the width grows": expected - grows,
            "the MLP contracts to the new width": expected - mlp + 8 * n_q * width**2,
            "the class token is a query and a key, too": patches,
        }  # fmt: skip
        where = f"for {width} -> {new_width} on {grid}, Q by {q_stride}, K and V by {kv_stride}"
        got = function(width, new_width, grid, q_stride, kv_stride)
        assert type(got) is int, f"{where} expected a whole number, got {type(got).__name__}"
        for reason, mistake in known.items():
            assert got != mistake or mistake == expected, f"{where} {reason}"
        assert got != 2 * expected, f"{where} a multiply-add is one operation here, not two"
        assert got == expected, f"{where} expected {expected:,}, got {got:,}"
    return f"Right for {len(cases)} blocks, as built and counted."


def _name_mistake(got: object, where: str, known: Mapping[str, Tensor], expected: Tensor) -> None:
    """Raise AssertionError if `got` is one of the known mistakes and not, by chance, the right answer as well."""
    for reason, mistake in known.items():
        same_shape = isinstance(got, Tensor) and got.shape == mistake.shape
        right = mistake.shape == expected.shape and torch.allclose(mistake, expected)
        if same_shape and torch.allclose(got, mistake) and not right:
            raise AssertionError(f"{where} {reason}")


def _boxes(patches: Tensor, grid: Grid, stride: Grid, reduce: Callable[..., Tensor] = torch.amax) -> Tensor:
    """Boxes of 3 x 3 x 3 by loops: (B, t h w, C) -> (B, t' h' w', C)."""
    cube = patches.unflatten(1, grid)
    new = [(side - 1) // s + 1 for side, s in zip(grid, stride)]
    rows = []
    for at in itertools.product(*map(range, new)):
        box = tuple(slice(max(s * i - 1, 0), s * i + 2) for s, i in zip(stride, at))
        rows.append(reduce(cube[(slice(None), *box)], dim=(1, 2, 3)))
    return torch.stack(rows, 1)


def _exchanged(x: Tensor, grid: Grid, stride: Grid) -> Tensor:
    """The pool of someone who takes rows for columns."""
    turned = (grid[0], grid[2], grid[1])
    return torch.cat([x[:, :1], _boxes(x[:, 1:], turned, stride)], 1)


def _tokens(grid: Grid, stride: Grid) -> int:
    return 1 + math.prod((side - 1) // s + 1 for side, s in zip(grid, stride))


class _OnGrid(nn.Module):
    """A block whose only input are the tokens."""

    def __init__(self, block: nn.Module, grid: Grid):
        super().__init__()
        self.block, self.grid = block, grid

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x, self.grid)[0]


def _counted(width: int, new_width: int, grid: Grid, q_stride: Grid, kv_stride: Grid) -> int:
    with torch.device("meta"):
        strides = {"query_stride": q_stride, "key_value_stride": kv_stride}
        block = MultiscaleBlock(width, new_width, 2, pooling="max", **strides)
        return complexity.measure(_OnGrid(block, grid), torch.empty(1, 1 + math.prod(grid), width)).macs
