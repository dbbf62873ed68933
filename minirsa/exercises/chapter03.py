"""Checkers for the exercises of "The Transformer".

Each takes the reader's function, tries it on random inputs of several sizes, and compares it with loops written from
the equations. It returns a sentence that says what was checked, or raises AssertionError that says what is wrong and
on which input; what the function itself raises comes through.

Book: chapter 3, "Exercises".
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minirsa.layers.attention import MultiHeadAttention

__all__ = ["check_cached_step", "check_decoder_mask", "check_smoothed_loss"]


def check_smoothed_loss(function: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Judge cross entropy with label smoothing: scores (N, V), right tokens (N,), epsilon -> their mean loss ().

    The wanted distribution is equation 3.7: 1 - epsilon on the right token and epsilon spread over all V, the right
    one included. Scores as far apart as 1,000 must give a finite loss.
    """
    draw = torch.Generator().manual_seed(0)
    cases = ((1, 2, 0.0, 1.0), (4, 3, 0.2, 1.0), (5, 15, 0.1, 3.0), (3, 4, 0.1, 1000.0))
    for number, size, epsilon, spread in cases:
        scores = torch.randn(number, size, generator=draw, dtype=torch.float64) * spread
        right = torch.randint(size, (number,), generator=draw)
        total = 0.0
        for row, token in zip(scores.tolist(), right.tolist()):
            highest = max(row)
            whole = highest + math.log(sum(math.exp(score - highest) for score in row))
            for place, score in enumerate(row):
                wanted = (1 - epsilon) * (place == token) + epsilon / size
                total -= wanted * (score - whole)
        where = f"for N = {number}, V = {size}, epsilon = {epsilon}, scores of size {spread:.0f}"
        expected = torch.tensor(total / number, dtype=torch.float64)
        _compare(function(scores.clone(), right.clone(), epsilon), expected, where)
    return f"Right for {len(cases)} batches, with and without smoothing."


def check_decoder_mask(function: Callable[[Tensor], Tensor]) -> str:
    """Judge the mask of a decoder over a padded batch: tokens (B, m), 0 pads -> bool (B, m, m), True = may be attended.

    Position t may attend to positions up to t that are not padding; queries that are padding themselves may do so too.
    """
    draw = torch.Generator().manual_seed(0)
    sizes = ((1, 1), (2, 3), (4, 6))
    for batch, length in sizes:
        tokens = torch.randint(1, 9, (batch, length), generator=draw)
        for row in range(batch):
            tokens[row, length - row % length :] = 0  # row 0 has no padding, row 1 one place, ...
        expected = torch.zeros(batch, length, length, dtype=torch.bool)
        for row in range(batch):
            for query in range(length):
                for key in range(query + 1):
                    expected[row, query, key] = bool(tokens[row, key] != 0)
        got = function(tokens.clone())
        where = f"for tokens of shape ({batch}, {length})"
        assert isinstance(got, Tensor), f"{where} expected a tensor, got {type(got).__name__}"
        assert got.dtype == torch.bool, f"{where} expected a mask of torch.bool, got {got.dtype}"
        assert got.shape == expected.shape, f"{where} expected shape {tuple(expected.shape)}, got {tuple(got.shape)}"
        if not torch.equal(got, expected):
            row, query, key = (got != expected).nonzero()[0].tolist()
            allowed = "may" if expected[row, query, key] else "must not"
            raise AssertionError(
                f"{where}, tokens {tokens[row].tolist()}: position {query} {allowed} attend to position {key}"
            )
    return f"Right for {len(sizes)} batches, with padding of every length."


def check_cached_step(
    function: Callable[[MultiHeadAttention, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
) -> str:
    """Judge one decoding step: attention, x (B, 1, C), keys and values (B, heads, t, d) -> output, keys, values.

    `attention` is a `MultiHeadAttention`; its four linear layers may be used, its `forward` may not. The output
    (B, 1, C) must be what causal attention over all tokens gives at the last of them, and keys and values
    (B, heads, t + 1, d) must have the new ones behind the old. Every linear layer may see the new token once.
    """
    cases = ((1, 4, 1, 3), (2, 6, 3, 5), (3, 8, 2, 4))
    for seed, (batch, width, heads, length) in enumerate(cases):
        attention = _random_attention(width, heads, seed)
        x = torch.randn(batch, length, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        keys = values = torch.zeros(batch, heads, 0, width // heads, dtype=torch.float64)
        for step in range(length):
            where = f"for B = {batch}, C = {width}, {heads} heads, at step {step}"
            seen = {"query": 0, "key": 0, "value": 0, "output": 0}
            with _Counting(attention, seen), torch.no_grad():
                result = function(attention, x[:, step : step + 1], keys.clone(), values.clone())
            assert isinstance(result, tuple), f"{where} expected (output, keys, values)"
            assert len(result) == 3, f"{where} expected (output, keys, values), got {len(result)} things"
            output, keys, values = result
            expected, all_keys, all_values = _causal_loop(attention, x[:, : step + 1])
            _compare(keys, all_keys, f"{where}, keys:")
            _compare(values, all_values, f"{where}, values:")
            _compare(output, expected, f"{where}, output:")
            assert "forward" not in seen, f"{where} attention's own forward was called"
            for name, tokens in seen.items():
                assert tokens == batch, f"{where} `{name}` saw {tokens // batch} tokens of each answer, 1 is enough"
    return f"Right for {len(cases)} layers, step by step, with each token projected once."


class _Counting:
    """While open, counts the tokens that each of attention's linear layers sees, and notes calls of its forward."""

    def __init__(self, attention: MultiHeadAttention, seen: dict[str, int]):
        self.attention, self.seen = attention, seen
        self.hooks: list = []

    def __enter__(self) -> None:
        def count(name: str):
            def hook(module, inputs, output):
                self.seen[name] += inputs[0].numel() // inputs[0].shape[-1]

            return hook

        def called(module, inputs):
            self.seen["forward"] = 1

        self.hooks = [getattr(self.attention, name).register_forward_hook(count(name)) for name in list(self.seen)]
        self.hooks.append(self.attention.register_forward_pre_hook(called))

    def __exit__(self, *error) -> None:
        for hook in self.hooks:
            hook.remove()


def _random_attention(width: int, heads: int, seed: int) -> MultiHeadAttention:
    attention = MultiHeadAttention(width, heads).double().eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 0.7)
    return attention


@torch.no_grad()
def _causal_loop(attention: MultiHeadAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the last of t tokens gets, and all keys and values: (B, t, C) -> (B, 1, C), (B, heads, t, d) twice."""
    heads, depth = attention.heads, attention.width // attention.heads
    query, key, value = (layer(x) for layer in (attention.query, attention.key, attention.value))
    mixed = torch.zeros_like(x[:, -1])
    for head in range(heads):
        own = slice(head * depth, (head + 1) * depth)
        scores = torch.einsum("bd,btd->bt", query[:, -1, own], key[..., own]) / math.sqrt(depth)
        mixed[:, own] = torch.einsum("bt,btd->bd", scores.softmax(-1), value[..., own])
    split = (tensor.unflatten(-1, (heads, depth)).transpose(1, 2) for tensor in (key, value))
    return attention.output(mixed)[:, None], *split


def _compare(got: object, expected: Tensor, where: str, tolerance: float = 1e-8) -> None:
    assert isinstance(got, Tensor), f"{where} expected a tensor, got {type(got).__name__}"
    assert got.shape == expected.shape, f"{where} expected shape {tuple(expected.shape)}, got {tuple(got.shape)}"
    error = (got.double() - expected).abs().max().item() if expected.numel() else 0.0
    assert error <= tolerance, f"{where} the largest error is {error:.2g}"
