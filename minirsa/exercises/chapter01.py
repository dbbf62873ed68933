"""Checkers for the exercises of "Translation with attention".

Each takes the reader's function, tries it on random float64 inputs of several sizes, and compares it with loops
written from Luong's equations, or with the package. It returns a sentence that says what was checked, or raises
AssertionError that says what is wrong and on which input; what the function itself raises comes through.

Book: chapter 1, "Exercises".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from minirsa.exercises.judging import LargestResult, compare, random_tensors
from minirsa.models.seq2seq import Seq2Seq, Seq2SeqState

__all__ = ["check_attentional_step", "check_concat_scores", "check_local_weights"]


def check_concat_scores(function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """Judge the concat score: target (n, C), source (m, C), W_a (C, 2 C), v_a (C,) -> scores (n, m).

    v_a . tanh(W_a [h_t; h_s]) for every pair, not normalised. Luong et al. 2015, section 3.1. Each state may be
    multiplied by a matrix only once: the products are counted, and nothing larger than (n, m, C) may be stored.
    """
    sizes = ((1, 1, 2), (2, 3, 2), (4, 4, 3), (5, 2, 6))
    for seed, (n, m, width) in enumerate(sizes):
        target, source, W_a, v_a = random_tensors(seed, (n, width), (m, width), (width, 2 * width), (width,))
        expected = torch.stack(
            [torch.stack([v_a @ torch.tanh(W_a @ torch.cat([h_t, h_s])) for h_s in source]) for h_t in target]
        )
        where = f"for n = {n}, m = {m}, C = {width}"
        compare(function(target.clone(), source.clone(), W_a.clone(), v_a.clone()), expected, where)
    n = m = 16
    width = 8
    inputs = random_tensors(0, (n, width), (m, width), (width, 2 * width), (width,))
    with LargestResult() as largest, FlopCounterMode(display=False) as counter:
        function(*inputs)
    assert largest.numel <= n * m * width, (
        f"the scores are right, but a tensor {largest.shape} is stored for n = m = {n} and C = {width}: W_a's halves "
        "can multiply the states before there are pairs"
    )
    products, needed = counter.get_total_flops() // 2, (n + m) * width**2 + n * m * width  # the pairs' with v_a last
    assert products <= needed, (
        f"the scores are right, but take {products} multiply-adds, {needed} are enough: each state is to be multiplied "
        "once, not once for every pair"
    )
    return f"Right for {len(sizes)} sizes: W_a's left half reads h_t, its right half h_s, and tanh comes after the sum."


def check_local_weights(function: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]) -> str:
    """Judge local-p with the dot score: target (n, C), source (S, C), W_p (C, C), v_p (C,), D -> weights (n, S).

    p_t = S sigmoid(v_p . tanh(W_p h_t)), softmax over the words with |s - p_t| <= D (s from 0), times a Gaussian of
    standard deviation D / 2 around p_t, zero elsewhere. Luong et al. 2015, equations 9 and 10.
    """
    sizes = ((1, 4, 2, 2), (6, 9, 3, 1), (5, 12, 4, 3), (3, 5, 2, 10))
    for seed, (n, length, width, window) in enumerate(sizes):
        target, source, W_p, v_p = random_tensors(seed, (n, width), (length, width), (width, width), (width,))
        expected = torch.zeros(n, length, dtype=torch.float64)
        for t, h_t in enumerate(target):
            p = length * torch.sigmoid(v_p @ torch.tanh(W_p @ h_t))
            near = [s for s in range(length) if abs(s - p) <= window]
            total = sum(torch.exp(h_t @ source[s]) for s in near)
            for s in near:
                expected[t, s] = torch.exp(h_t @ source[s]) / total * torch.exp(-((s - p) ** 2) / (window**2 / 2))
        where = f"for n = {n}, S = {length}, D = {window}"
        compare(function(target.clone(), source.clone(), W_p.clone(), v_p.clone(), window), expected, where)
    return f"Right for {len(sizes)} sizes: the window before the softmax, the Gaussian after it, sigma = D / 2."


def check_attentional_step(function: Callable[[Seq2Seq, Tensor, Seq2SeqState], tuple[Tensor, Tensor]]) -> str:
    """Judge one step of the decoder: model, tokens (B,), state -> log-probabilities (B, V), h~_t (B, C).

    The model has dot attention and input feeding; one source of the batch is padded. Luong et al. 2015, equations 5
    to 7 and section 3.3. Tried at the first step, where nothing is fed yet, and at the second.
    """
    generator = torch.Generator().manual_seed(0)
    model = Seq2Seq(9, 7, width=6, layers=2, attention="dot").double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        source = torch.tensor([[3, 4, 5, 6, 7], [8, 2, 4, 0, 0]])
        state = model.start(source, torch.tensor([5, 3]))
        # What stands in the memory behind the second source's words is noise: only the mask keeps it out.
        noise = torch.randn(state.memory.shape, generator=generator, dtype=torch.float64)
        state = replace(state, memory=torch.where(state.mask.transpose(1, 2), state.memory, noise))
        for step, tokens in (("first", torch.tensor([1, 1])), ("second", torch.tensor([4, 6]))):
            expected, after = model.step(tokens, state)
            where = f"at the {step} step"
            got = function(model, tokens.clone(), replace(state))
            two = isinstance(got, tuple) and len(got) == 2
            assert two, f"{where} expected two tensors, got {type(got).__name__}"
            compare(got[1], after.fed, f"{where} h~_t:")
            compare(got[0], expected, f"{where} log-probabilities:")
            state = after
    return "Right: h~_{t-1} goes in beside the token, the padding stays out, and h~_t makes the prediction."
