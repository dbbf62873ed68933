"""Checkers for the exercises of "Relational self-attention, step by step".

Each takes the reader's function, tries it on random float64 inputs of several sizes, and compares it with loops
written from the equations. It returns a sentence that says what was checked, or raises AssertionError that says what
is wrong and on which input; what the function itself raises comes through.

Book: chapter 13, "Exercises".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minirsa.exercises.judging import LargestResult, compare, random_tensors
from minirsa.layers.relational import RelationalSelfAttention, neighbourhood

__all__ = ["check_grouped_relational_kernel", "check_output_from_latent", "check_reverse_relational"]


def check_grouped_relational_kernel(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Judge the relational kernel with groups: query (c,), keys (M, c), H (M, G, M) -> kernel (M,).

    Equation 13.2 with the products of each of the G groups of c / G neighbouring channels added up first.
    """
    sizes = ((3, 2, 1), (3, 2, 2), (5, 6, 2), (7, 12, 3), (4, 4, 4))
    for seed, (count, channels, groups) in enumerate(sizes):
        query, keys, H = random_tensors(seed, (channels,), (count, channels), (count, groups, count))
        expected = torch.zeros(count, dtype=torch.float64)
        for m in range(count):
            for channel in range(channels):
                expected += query[channel] * keys[m, channel] * H[m, channel // (channels // groups)]
        where = f"for M = {count}, c = {channels}, G = {groups}"
        compare(function(query.clone(), keys.clone(), H.clone()), expected, where)
    return f"Right for {len(sizes)} sizes, from dot product (G = 1) to Hadamard product (G = c)."


def check_output_from_latent(function: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """Judge the output of one position: latent (L, D), X_V (M, c), H2 (M, D), G (M, c), I (c, c) -> (L, c).

    Equation 13.6, for I that is not the identity. Largest intermediate allowed: max(L, D, c) x max(D, c) numbers.
    """
    sizes = ((2, 3, 27, 4), (8, 8, 245, 8), (4, 5, 75, 2))
    for seed, (queries, latent_size, count, width) in enumerate(sizes):
        latent, X_V, H2, G, identity = random_tensors(
            seed, (queries, latent_size), (count, width), (count, latent_size), (count, width), (width, width)
        )
        expected = (latent @ H2.T) @ (X_V @ identity + X_V @ X_V.T @ G)
        where = f"for L = {queries}, D = {latent_size}, M = {count}, c = {width}"
        with LargestResult() as largest:
            got = function(latent, X_V, H2, G, identity)
        compare(got, expected, where)
        allowed = max(queries, latent_size, width) * max(latent_size, width)
        assert largest.numel <= allowed, (
            f"{where} an intermediate of shape {largest.shape} holds {largest.numel} numbers, {allowed} are enough: "
            "bring the sums over the neighbourhood together first"
        )
    return f"Right for {len(sizes)} sizes, and nothing as large as the neighbourhood was stored."


def check_reverse_relational(function: Callable[[RelationalSelfAttention, Tensor], Tensor]) -> str:
    """Judge the intervention: layer, features (B, C, T, H, W) -> output (B, C, T, H, W).

    Basic kernels and contexts of the features, relational kernels of the reversed features, each at the place of the
    same picture. Tried on a layer whose parameters are all random.
    """
    layer = RelationalSelfAttention(6, queries=2, kernel_size=(3, 3, 1)).double()
    draws = random_tensors(0, *(tuple(parameter.shape) for parameter in layer.parameters()))
    with torch.no_grad():
        for parameter, values in zip(layer.parameters(), draws):
            parameter.copy_(values)
        (features,) = random_tensors(1, (2, 6, 3, 4, 2))
        still = features[:, :, :1]
        compare(function(layer, still), layer(still), "on a clip of one frame")
        kernel = layer.kernels(features).basic + layer.kernels(features.flip(2)).relational.flip(3)  # (B, L, M, ...)
        value = neighbourhood(layer.project(features)[2], layer.kernel_size)  # (B, M, c, ...)
        correlation = torch.einsum("bmithw,bnithw->bmnthw", value, value)  # X X^T, (B, M, M, ...)
        context = torch.einsum("bmithw,ie->bmethw", value, layer.I)
        context = context + torch.einsum("bmnthw,en->bmethw", correlation, layer.G.flatten(1))
        expected = torch.einsum("blmthw,bmethw->belthw", kernel, context).flatten(1, 2)
        compare(function(layer, features), expected, "on a clip with a direction")
    return "Right: the layer's own output on a clip of one frame, the exchanged kernels on a longer one."
