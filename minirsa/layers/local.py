"""Self-attention over a space-time neighbourhood: every position attends to the M positions around it.

Source: Ramachandran et al., "Stand-Alone Self-Attention in Vision Models", NeurIPS 2019, in space
and time; Kim et al. 2021 write it as y_n = softmax(x_n^Q (X_n^K)^T + x_n^Q P^T) X_n^V with a learned
P (M, c) for the relative positions. Book: chapters 12 and 13.

    x (B, C, T, H, W) -- query, key, value (B, heads, c, ...) -- weights (B, heads, M, ...) -- y (B, C, T, H, W)

A neighbour's weight depends on this neighbour and the query alone, up to the softmax's common divisor: the kernel
cannot know how the neighbours relate to each other. Relational self-attention (`minirsa.layers.relational`) can.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minirsa.layers.relational import contract, neighbourhood


class LocalSelfAttention(nn.Module):
    """Multi-head self-attention over a space-time neighbourhood: (B, C, T, H, W) -> (B, C, T, H, W).

    Args:
        channels: C; heads must divide it, and a head has c = C / heads channels.
        heads: number of heads.
        kernel_size: (kT, kH, kW), each odd. Neighbours outside the clip get weight zero.
        relative_positions: add x_n^Q P^T to the scores; P (heads, M, c) is learned, zero at the start.

    Scores are divided by sqrt(c). Raises ValueError for options that do not fit and for an input of another shape.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 8,
        kernel_size: tuple[int, int, int] = (5, 7, 7),
        relative_positions: bool = True,
    ):
        super().__init__()
        if heads < 1 or channels < 1 or channels % heads:
            raise ValueError(f"heads must divide channels, got channels={channels}, heads={heads}")
        kernel_size = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
        if len(kernel_size) != 3 or any(s < 1 or s % 2 == 0 for s in kernel_size):
            raise ValueError(f"kernel_size must be three odd numbers (kT, kH, kW), got {kernel_size}")
        self.channels, self.heads, self.width, self.kernel_size = channels, heads, channels // heads, kernel_size
        self.neighbours = kernel_size[0] * kernel_size[1] * kernel_size[2]  # M
        self.projection = nn.Conv3d(channels, 3 * channels, 1, bias=False)
        nn.init.kaiming_normal_(self.projection.weight, mode="fan_out", nonlinearity="relu")
        self.P = nn.Parameter(torch.zeros(heads, self.neighbours, self.width)) if relative_positions else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T, H, W)."""
        query, key, value = self._project(x)
        weights = self._weights(query, key)  # (B heads, 1, M, ...)
        values = neighbourhood(value, self.kernel_size)  # (B heads, M, c, ...)
        return contract(weights, values).reshape(x.shape)

    def counted_forward(self, x: Tensor) -> Tensor:
        """The same output through einsum, which counters of multiply-adds see on every device."""
        query, key, value = self._project(x)
        weights = self._weights(query, key, product=_einsum)
        return _einsum(weights, neighbourhood(value, self.kernel_size)).reshape(x.shape)

    def kernels(self, x: Tensor) -> Tensor:
        """The attention weights of every position over its neighbourhood: (B, heads, M, T, H, W), summing to 1."""
        query, key, _ = self._project(x)
        return self._weights(query, key)[:, 0].unflatten(0, (x.shape[0], self.heads))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value with the heads in the batch: (B heads, c, T, H, W) each."""
        if x.ndim != 5 or x.shape[1] != self.channels or 0 in x.shape:
            raise ValueError(f"expected (B, {self.channels}, T, H, W) without empty axes, got {tuple(x.shape)}")
        parts = self.projection(x).chunk(3, 1)
        return tuple(part.unflatten(1, (self.heads, self.width)).flatten(0, 1) for part in parts)

    def _weights(self, query: Tensor, key: Tensor, product: Callable[[Tensor, Tensor], Tensor] = contract) -> Tensor:
        """softmax over the neighbours that exist: (B heads, 1, M, T, H, W)."""
        query = query[:, None] * self.width**-0.5  # (B heads, 1, c, ...)
        scores = product(query, neighbourhood(key, self.kernel_size).transpose(1, 2))  # (B heads, 1, M, ...)
        if self.P is not None:
            query = query[:, 0].unflatten(0, (-1, self.heads))  # (B, heads, c, ...)
            position = torch.einsum("bhcijk,hmc->bhmijk", query, self.P.to(query.dtype))
            scores = scores + position.flatten(0, 1)[:, None]
        inside = neighbourhood(torch.ones_like(key[:1, :1]), self.kernel_size).transpose(1, 2)  # (1, 1, M, ...)
        weights = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
        return weights.masked_fill(inside == 0, float("-inf")).softmax(2).to(scores.dtype)


def _einsum(a: Tensor, b: Tensor) -> Tensor:
    """`contract` by torch.einsum: (B, L, K, T, H, W) x (B, K, D, T, H, W) -> (B, L, D, T, H, W)."""
    return torch.einsum("blkthw,bkdthw->bldthw", a, b)
