"""Checkers for the exercises of "Self-attention and its price".

Each takes the reader's function, tries it on random float64 inputs of several sizes, and compares it with loops
written from the equations. It returns a sentence that says what was checked, or raises AssertionError that says what
is wrong and on which input, and names the mistake where it knows it; what the function itself raises comes through.

Book: chapter 2, "Exercises".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from minirsa.exercises.judging import LargestResult, compare, random_tensors

__all__ = ["check_attention", "check_multi_head", "check_restricted_attention"]


def check_attention(function: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]) -> str:
    """Judge scaled dot-product attention: query (n, d), key (m, d), value (m, d_v), mask -> (n, d_v).

    `mask` is None or bool (n, m), True where a key may be attended; a query without any key must give zeros. One
    input has scores in the thousands, where exp alone overflows; one has a NaN in a query, which must not be hidden.
    """
    sizes = ((3, 3, 4, 4), (2, 5, 9, 3), (6, 4, 2, 7), (5, 5, 16, 1), (1, 7, 3, 3))  # n, m, d, d_v
    for seed, (n, m, d, d_v) in enumerate(sizes):
        query, key, value = random_tensors(seed, (n, d), (m, d), (m, d_v))
        where = f"for n = {n}, m = {m}, d = {d}, d_v = {d_v}"
        right = _attention_by_loops(query, key, value, None)
        scores = query @ key.T
        mistakes = {
            "the scores are not divided by sqrt(d)": scores.softmax(1) @ value,
            "the scores are divided by d: it must be sqrt(d)": (scores / d).softmax(1) @ value,
            "the scores are multiplied by sqrt(d)": (scores * math.sqrt(d)).softmax(1) @ value,
            "sqrt takes the number of keys: it must be the width d": (scores / math.sqrt(m)).softmax(1) @ value,
            "the softmax runs over the queries: each row must add up to 1": (scores / math.sqrt(d)).softmax(0) @ value,
            "the weights do not add up to 1: the softmax is missing": scores / math.sqrt(d) @ value,
        }
        _judge(function(query.clone(), key.clone(), value.clone(), None), right, f"{where}, no mask,", mistakes)
        if n == 1:
            continue
        mask = _some_mask(n, m, seed)
        masked = _attention_by_loops(query, key, value, mask)
        alive = mask.any(1, keepdim=True)
        upside_down = _attention_by_loops(query, key, value, ~mask)
        zero_scores = (scores / math.sqrt(d)).masked_fill(~mask, 0).softmax(1) @ value
        after = (scores / math.sqrt(d)).softmax(1).masked_fill(~mask, 0) @ value
        mistakes = {
            "the mask is ignored": right,
            "the mask is upside down: True means may be attended": upside_down,
            "a masked score of 0 still gets weight exp(0): it must be minus infinity": zero_scores,
            "weights set to 0 after the softmax leave rows that do not add up to 1": after,
            "a query without any key must give zeros": torch.where(alive, masked, value.mean(0)),
        }
        _judge(function(query.clone(), key.clone(), value.clone(), mask.clone()), masked, f"{where}, masked,", mistakes)
    query, key, value = random_tensors(99, (4, 8), (6, 8), (6, 2))
    got = function(1e3 * query, key.clone(), value.clone(), None)
    compare(got, _attention_by_loops(1e3 * query, key, value, None), "with scores in the thousands")
    query, key, value = random_tensors(98, (4, 8), (6, 8), (6, 2))
    mask = _some_mask(4, 6, 98)
    right = _attention_by_loops(query, key, value, mask)
    query[1, 0], mask[1] = math.nan, True
    got = function(query.clone(), key.clone(), value.clone(), mask.clone())
    where = "with a NaN in query 1"
    assert got[1].isnan().all(), (
        f"{where} output 1 must be NaN: zeros are for queries without any key, found in the mask"
    )
    others = torch.arange(4) != 1
    compare(got[others], right[others], f"{where}, the other outputs:")
    return f"Right for {len(sizes)} sizes, with and without a mask, for queries without a key, large scores, and a NaN."


def check_multi_head(function: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]) -> str:
    """Judge multi-head self-attention: x (n, C), W_Q, W_K, W_V, W_O (C, C) each, heads -> (n, C).

    Query, key and value are x W, head i takes the channels i C/h ... (i+1) C/h - 1 of each, and the heads' outputs
    stand side by side in that order before W_O.
    """
    sizes = ((4, 6, 1), (4, 6, 2), (5, 12, 3), (6, 6, 6), (4, 16, 4))  # n, C, heads
    for seed, (n, width, heads) in enumerate(sizes):
        x, W_Q, W_K, W_V, W_O = random_tensors(seed, (n, width), *[(width, width)] * 4)
        d = width // heads
        where = f"for n = {n}, C = {width}, {heads} heads"
        query, key, value = x @ W_Q, x @ W_K, x @ W_V
        parts = [slice(i * d, (i + 1) * d) for i in range(heads)]
        outputs = [_attention_by_loops(query[:, part], key[:, part], value[:, part], None) for part in parts]
        right = torch.cat(outputs, 1) @ W_O
        mistakes = {}
        if heads > 1:
            cut = zip(*(t.reshape(heads, n, d) for t in (query, key, value)))
            across = torch.stack([_attention_by_loops(*rows, None) for rows in cut])  # (heads, n, d)
            strided = [_attention_by_loops(*(t[:, i::heads] for t in (query, key, value)), None) for i in range(heads)]
            too_small = [
                _attention_by_loops(query[:, part] / math.sqrt(heads), key[:, part], value[:, part], None)
                for part in parts
            ]
            joins = {
                "reshape(heads, n, d) cuts across positions: split the channels, then swap the axes": [
                    across.transpose(0, 1).reshape(n, width),
                    across.reshape(n, width),
                ],
                "a head takes neighbouring channels, not every h-th one": [
                    torch.cat(strided, 1),
                    torch.stack(strided, 2).reshape(n, width),
                ],
                "swap the axes of heads and positions back before the channels are joined": [
                    torch.stack(outputs).reshape(n, width)
                ],
                "the heads' channels alternate: each head's must stay together": [
                    torch.stack(outputs, 2).reshape(n, width)
                ],
                "each head divides by sqrt(C): it must be the head's own sqrt(C/h)": [torch.cat(too_small, 1)],
                "this is one head as wide as the layer": [_attention_by_loops(query, key, value, None)],
            }
            mistakes = {reason: [joined @ W_O for joined in wrongs] for reason, wrongs in joins.items()}
        mistakes["the output projection is missing"] = [torch.cat(outputs, 1)]
        _judge(function(x.clone(), W_Q.clone(), W_K.clone(), W_V.clone(), W_O.clone(), heads), right, where, mistakes)
    return f"Right for {len(sizes)} sizes, from one head to one head a channel."


def check_restricted_attention(function: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> str:
    """Judge restricted attention: query, key (n, d), value (n, d_v), odd size r -> (n, d_v).

    Position i attends to the positions i - r//2 ... i + r//2 that exist. The storage allowed: no operation may return
    more than 2 n r max(d, d_v) numbers, views excepted. In the largest case, n = 400, d = 2, d_v = 3, r = 5, that is
    12,000, where n x n would be 160,000. (In general n r d may exceed n x n: gathering saves memory for n > r d.)
    """
    sizes = ((7, 3, 4, 3), (9, 2, 5, 5), (6, 4, 1, 1), (5, 3, 2, 11), (400, 2, 3, 5))  # n, d, d_v, r
    for seed, (n, d, d_v, r) in enumerate(sizes):
        query, key, value = random_tensors(seed, (n, d), (n, d), (n, d_v))
        where = f"for n = {n}, d = {d}, d_v = {d_v}, r = {r}"
        near = (torch.arange(n)[:, None] - torch.arange(n)).abs() <= r // 2
        right = _attention_by_loops(query, key, value, near)
        wide = (torch.arange(n)[:, None] - torch.arange(n)).abs() <= r
        past = near.tril()
        mistakes = {
            "every position is attended": _attention_by_loops(query, key, value, torch.ones_like(near)),
            "the window reaches r to each side: it must hold r positions": _attention_by_loops(query, key, value, wide),
            "the window must reach forwards as well as backwards": _attention_by_loops(query, key, value, past),
            "positions beyond the ends must not be attended: their keys are no zeros": _zero_padded(
                query, key, value, r
            ),
        }
        with LargestResult() as largest:
            got = function(query.clone(), key.clone(), value.clone(), r)
        _judge(got, right, where, mistakes)
        allowed = 2 * n * r * max(d, d_v)
        assert largest.numel <= max(allowed, n), (
            f"{where} an intermediate of shape {largest.shape} holds {largest.numel} numbers, "
            f"2 n r max(d, d_v) = {allowed} are allowed: gather the r neighbours of each position first"
        )
    return f"Right for {len(sizes)} sizes, and no intermediate held more than 2 n r max(d, d_v) numbers."


def _attention_by_loops(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Equation 2.1 position by position: (n, d), (m, d), (m, d_v), bool (n, m) -> (n, d_v); zeros without a key."""
    rows = []
    for i in range(len(query)):
        seen = torch.arange(len(key)) if mask is None else mask[i].nonzero()[:, 0]
        if not len(seen):
            rows.append(value.new_zeros(value.shape[1]))
            continue
        scores = (key[seen] * query[i]).sum(1) / math.sqrt(query.shape[1])
        weights = (scores - scores.max()).exp()
        rows.append((weights[:, None] * value[seen]).sum(0) / weights.sum())
    return torch.stack(rows)


def _zero_padded(query: Tensor, key: Tensor, value: Tensor, size: int) -> Tensor:
    """Restricted attention that takes zeros beyond the ends for keys and values: a mistake to recognise."""
    reach, (n, d) = size // 2, query.shape
    key = torch.cat([key.new_zeros(reach, d), key, key.new_zeros(reach, d)])
    value = torch.cat([value.new_zeros(reach, value.shape[1]), value, value.new_zeros(reach, value.shape[1])])
    window = (torch.arange(n + 2 * reach) - torch.arange(n)[:, None] - reach).abs() <= reach
    return _attention_by_loops(query, key, value, window)


def _some_mask(n: int, m: int, seed: int) -> Tensor:
    """A random mask whose first row allows nothing and whose last allows one key."""
    mask = torch.rand(n, m, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[0], mask[-1] = False, torch.arange(m) == seed % m
    return mask


def _judge(got: object, right: Tensor, where: str, mistakes: Mapping[str, Tensor | list[Tensor]]) -> None:
    """`compare`, but an answer that a known mistake gives is told so."""
    if isinstance(got, Tensor) and got.shape == right.shape and not torch.allclose(got, right, 1e-9, 1e-9):
        for reason, wrongs in mistakes.items():
            for wrong in wrongs if isinstance(wrongs, list) else [wrongs]:
                assert not torch.allclose(got, wrong, 1e-9, 1e-9), f"{where} {reason}"
        assert not got.isnan().any(), f"{where} some outputs are NaN: a row of minus infinities has no softmax"
    compare(got, right, where)
