"""Checkers for the exercises of "Pre-LN, Post-LN and warm-up".

Each takes the reader's function, tries it on random float64 inputs, and compares it with loops or with the steps of
table 1 of Xiong et al. 2020. It returns a sentence that says what was checked, or raises AssertionError that says
what is wrong and where; what the function itself raises comes through.

Book: chapter 4, "Exercises".
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from minirsa.exercises.judging import compare, random_tensors

__all__ = ["check_decoder_layer", "check_layer_norm", "check_learning_rate"]

Sublayer = Callable[[Tensor], Tensor]
CrossAttention = Callable[[Tensor, Tensor], Tensor]


def check_layer_norm(function: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> str:
    """Judge layer normalisation over the last axis: x (..., d), scale (d,), shift (d,), eps -> (..., d).

    Ba et al. 2016; equation 4.1, with the variance divided by d and eps added to the variance. Inputs far from zero
    mean, and eps large enough to be seen.
    """
    cases = (((4,), 1e-5), ((3, 5), 0.5), ((2, 3, 4), 0.1), ((2, 2, 8), 2.0))
    for seed, (shape, eps) in enumerate(cases):
        x, scale, shift = random_tensors(seed, shape, shape[-1:], shape[-1:])
        x = x + 3.0
        expected = torch.empty_like(x)
        for row, result in zip(x.flatten(0, -2) if x.ndim > 1 else x[None], expected.view(-1, shape[-1])):
            mean = sum(row.tolist()) / len(row)
            variance = sum((value - mean) ** 2 for value in row.tolist()) / len(row)
            for k in range(len(row)):
                result[k] = scale[k] * (row[k] - mean) / math.sqrt(variance + eps) + shift[k]
        where = f"for x of shape {shape} and eps = {eps}"
        compare(function(x.clone(), scale.clone(), shift.clone(), eps), expected, where)
    return f"Right for {len(cases)} shapes, with eps from 1e-5 to 2."


def check_decoder_layer(
    function: Callable[[Tensor, Tensor, Sublayer, CrossAttention, Sublayer, list[nn.LayerNorm], str], Tensor],
) -> str:
    """Judge one decoder layer in both orders, without masks.

    The function takes (x (B, n, C), memory (B, m, C), self_attention, cross_attention, feed_forward, norms, order) and
    returns (B, n, C). order is "post" or "pre"; Xiong et al. 2020, table 1, with the third sublayer of Vaswani et al.
    2017 between the two. The sublayers here are functions that mix positions, or do not; cross_attention takes (x,
    memory). The three norms have scales and shifts of their own. The memory comes finished from the encoder.
    """
    for seed in range(3):
        x, memory, mixing, reading, weight, *affine = random_tensors(
            seed, (2, 3, 4), (2, 5, 4), (3, 3), (3, 5), (4, 4), *[(4,)] * 6
        )

        def self_attention(x: Tensor, mixing=mixing) -> Tensor:
            return torch.einsum("mn,bnc->bmc", mixing, x).sin()

        def cross_attention(x: Tensor, memory: Tensor, reading=reading) -> Tensor:
            return (x.cos() + torch.einsum("nm,bmc->bnc", reading, memory)).sin()

        def feed_forward(x: Tensor, weight=weight) -> Tensor:
            return (x @ weight).relu() @ weight.T

        norms = [nn.LayerNorm(4, dtype=torch.float64) for _ in range(3)]
        outputs = {}
        with torch.no_grad():
            for norm, scale, shift in zip(norms, affine[::2], affine[1::2]):
                norm.weight.copy_(scale)
                norm.bias.copy_(shift)
            first, second, third = norms
            after = first(x + self_attention(x))
            after = second(after + cross_attention(after, memory))
            outputs["post"] = third(after + feed_forward(after))
            after = x + self_attention(first(x))
            after = after + cross_attention(second(after), memory)
            outputs["pre"] = after + feed_forward(third(after))
            for order, other in (("post", "pre"), ("pre", "post")):
                got = function(x.clone(), memory.clone(), self_attention, cross_attention, feed_forward, norms, order)
                mistaken = isinstance(got, Tensor) and got.shape == x.shape and torch.allclose(got, outputs[other])
                assert not mistaken, f'order "{order}" gave the {other}-LN layer'
                compare(got, outputs[order], f'for order "{order}"')
    return "Right in both orders: after the sum (post-LN), and before the sublayer (pre-LN)."


def check_learning_rate(function: Callable[[int, int, float], float]) -> str:
    """Judge the schedule: (step t = 1, 2, ..., warm_up, top) -> learning rate.

    t / warm_up * top up to t = warm_up (Xiong et al. 2020, equation 1), then top * sqrt(warm_up / t).
    """
    cases = ((1, 1e-3), (4, 0.5), (100, 2e-3), (4000, 7e-4))
    for warm_up, top in cases:
        for step in sorted({1, 2, max(warm_up // 2, 1), warm_up, warm_up + 1, 4 * warm_up, 25 * warm_up}):
            expected = top * (step / warm_up if step <= warm_up else math.sqrt(warm_up / step))
            got = function(step, warm_up, top)
            where = f"at step {step} of {warm_up} steps of warm-up to {top:g}"
            assert isinstance(got, (int, float)), f"{where} expected a number, got {type(got).__name__}"
            assert math.isclose(got, expected, rel_tol=1e-9), f"{where} expected {expected:.6g}, got {got:.6g}"
    return f"Right for {len(cases)} schedules; with warm_up = 1 there is none."
