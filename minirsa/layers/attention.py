"""Scaled dot-product attention: every position takes a weighted mean of values, with weights it asks for itself.

    query (..., n, d), key (..., m, d) -- scores (..., n, m) = QK^T / sqrt(d) -- weights = softmax over m
    weights (..., n, m), value (..., m, d_v) -- output (..., n, d_v)

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2:

    Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V                                              equation 1
    MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O,  head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V)

and the restricted self-attention of its table 1. A mask is `torch.bool`, True where a key may be attended, the sense
of `torch.nn.functional.scaled_dot_product_attention` and the opposite of `torch.nn.MultiheadAttention`'s. A query that
may attend to nothing gets zeros, not NaN. Book: chapter 2, "From loop to module".
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def masked_softmax(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over the last axis, zero wherever `mask` is False: (..., n, m) -> (..., n, m).

    Rows add up to 1, or are all zero where the mask allows nothing. Raises ValueError for a mask that is not bool or
    does not broadcast to the scores. Book: chapter 2, "Masks".
    """
    if mask is None:
        return scores.softmax(-1)
    check_mask(mask, scores.shape)
    alive = mask.any(-1, keepdim=True)  # (..., n, 1)
    return scores.masked_fill(alive & ~mask, -math.inf).softmax(-1).masked_fill(~alive, 0.0)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    return_weights: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(query key^T scale) value: (..., n, d), (..., m, d), (..., m, d_v) -> (..., n, d_v).

    Args:
        mask: bool, broadcastable to (..., n, m), True where a key may be attended.
        scale: 1 / sqrt(d) unless given.
        dropout: share of the weights set to zero, the others scaled up; the caller leaves it 0 in evaluation.
        return_weights: also give the weights (..., n, m), before dropout. Without it torch's fused kernel may run,
            which stores no n x m array; on a CPU it takes inputs of four axes (B, heads, n, d) only.

    Raises ValueError for shapes that do not fit and for a mask that is not bool. Source: Vaswani et al. 2017,
    equation 1. Book: chapter 2, "Scaled dot products".
    """
    if (
        min(query.ndim, key.ndim, value.ndim) < 2
        or query.shape[:-2] != key.shape[:-2]
        or key.shape[:-1] != value.shape[:-1]
        or query.shape[-1] != key.shape[-1]
        or 0 in query.shape
    ):
        raise ValueError(
            "expected query (..., n, d) without empty axes, key (..., m, d) and value (..., m, d_v) with the same "
            f"leading axes, got {tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"expected dropout in [0, 1), got {dropout}")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    shape = (*query.shape[:-1], key.shape[-2])
    if return_weights or key.shape[-2] == 0:
        weights = masked_softmax(query @ key.transpose(-2, -1) * scale, mask)
        output = F.dropout(weights, dropout) @ value
        return (output, weights) if return_weights else output
    if mask is None:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scale)
    check_mask(mask, shape)
    alive = mask.any(-1, keepdim=True)  # no backend ever sees a row without a key: what each does with it differs
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask | ~alive, dropout_p=dropout, scale=scale)
    return output.masked_fill(~alive, 0.0)


def restricted_attention(query: Tensor, key: Tensor, value: Tensor, size: int, *, mask: Tensor | None = None) -> Tensor:
    """Attention of each position to the `size` positions around it: (..., n, d), twice, (..., n, d_v) -> (..., n, d_v).

    The same as full attention under `window_mask(n, size)`, in r n d instead of n^2 d multiply-adds for r = size, and
    without an n x n array. `mask`: bool, broadcastable to (..., 1, n), True where a key may be attended.

    Raises ValueError for shapes that do not fit, a size that is not odd, a mask that is not bool. Source: Vaswani et
    al. 2017, section 4 (restricted self-attention). Book: chapter 2, "Restricted attention".
    """
    _check_size(size)
    if query.ndim < 2 or query.shape != key.shape or key.shape[:-1] != value.shape[:-1] or 0 in query.shape:
        raise ValueError(
            "expected query and key (..., n, d) and value (..., n, d_v) without empty axes, "
            f"got {tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        )
    length, reach = query.shape[-2], size // 2
    inside = torch.ones(1, length, dtype=torch.bool, device=query.device)
    if mask is not None:
        check_mask(mask, (*query.shape[:-2], 1, length))
        inside = inside & mask
    keys, values = (F.pad(x, (0, 0, reach, reach)).unfold(-2, size, 1) for x in (key, value))  # (..., n, d, r)
    seen = F.pad(inside, (reach, reach)).squeeze(-2).unfold(-1, size, 1)  # (..., n, r)
    scores = (query.unsqueeze(-2) @ keys).squeeze(-2) / math.sqrt(query.shape[-1])  # (..., n, r)
    weights = masked_softmax(scores, seen)
    return (values @ weights.unsqueeze(-1)).squeeze(-1)


def causal_mask(length: int, keys: int | None = None, *, device: torch.device | str | None = None) -> Tensor:
    """What a decoder may see: position i the keys up to its own: (n, m) bool.

    With more keys than queries the queries are the last ones: causal_mask(1, m) is all True. Raises ValueError for
    fewer keys than queries. Book: chapter 2, "Masks".
    """
    keys = length if keys is None else keys
    if length < 0 or keys < length:
        raise ValueError(f"expected at least as many keys as queries, got {length} queries and {keys} keys")
    return torch.ones(length, keys, dtype=torch.bool, device=device).tril(keys - length)


def padding_mask(tokens: Tensor, padding: int = 0) -> Tensor:
    """True where a token is not padding: whole numbers (B, n) -> bool (B, 1, n), for every query.

    Raises ValueError for tokens that are not whole numbers of two axes. Book: chapter 2, "Masks".
    """
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"expected whole numbers (B, n), got {tokens.dtype} {tuple(tokens.shape)}")
    return (tokens != padding).unsqueeze(1)


def window_mask(length: int, size: int, *, device: torch.device | str | None = None) -> Tensor:
    """True where two positions are at most size // 2 apart: (n, n) bool, for an odd size.

    Raises ValueError for a size that is not odd and a negative length. Book: chapter 2, "Restricted attention".
    """
    _check_size(size)
    if length < 0:
        raise ValueError(f"expected a length from 0, got {length}")
    place = torch.arange(length, device=device)
    return (place[:, None] - place[None]).abs() <= size // 2


class KeyValueCache:
    """Keys and values that attention has already computed, so that a decoder computes each of them once.

    `key`, `value`: (B, heads, m, d), or None as long as nothing is stored. Book: chapter 3, "Decoding".
    """

    def __init__(self, key: Tensor | None = None, value: Tensor | None = None):
        self.key, self.value = key, value

    @property
    def length(self) -> int:
        """Number m of positions stored."""
        return 0 if self.key is None else self.key.shape[-2]

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, heads, n, d) behind what is stored; all of it comes back: (B, heads, m + n, d), twice."""
        if key.shape[:-1] != value.shape[:-1]:
            raise ValueError(f"expected a value for each key, got {tuple(value.shape)} and {tuple(key.shape)}")
        if self.key is not None:
            if self.key.shape[:2] != key.shape[:2]:
                raise ValueError(f"expected (batch, heads) = {tuple(self.key.shape[:2])}, got {tuple(key.shape[:2])}")
            key, value = torch.cat([self.key, key], -2), torch.cat([self.value, value], -2)
        self.key, self.value = key, value
        return key, value

    def select(self, rows: Tensor) -> KeyValueCache:
        """A cache of these rows of the batch, in this order, repeats allowed: beam search keeps some and drops some."""
        if self.key is None:
            return KeyValueCache()
        return KeyValueCache(self.key.index_select(0, rows), self.value.index_select(0, rows))


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each on its own channels: (B, n, C) -> (B, n, C).

    Args:
        width: C; heads must divide it, and a head has d = C / heads channels.
        heads: number of heads h.
        bias: of the four projections.
        dropout: on the attention weights, in training only.

    Weights Xavier uniform, biases 0. With one head and the identity for all four projections it is
    `scaled_dot_product_attention`. Raises ValueError for heads that do not divide the width.
    Source: Vaswani et al. 2017, section 3.2.2. Book: chapter 2, "Many heads".
    """

    def __init__(self, width: int, heads: int, *, bias: bool = True, dropout: float = 0.0):
        super().__init__()
        check_heads(width, heads)
        if not 0 <= dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {dropout}")
        self.width, self.heads, self.dropout = width, heads, dropout
        self.query, self.key, self.value, self.output = (nn.Linear(width, width, bias=bias) for _ in range(4))
        self.apply(initialize_linear)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Queries from x, keys and values from memory, or from x itself: (B, n, C), (B, m, C) -> (B, n, C).

        mask: bool, (n, m), (B, 1 or n, m) or (B, 1 or heads, 1 or n, m); True where a key may be attended.
        cache: without memory, x's keys and values are appended to it and all of them are attended; with memory, the
            memory's are stored at the first call and read at the later ones.
        return_weights: also give the weights (B, heads, n, m).

        Raises ValueError for other shapes and for a mask that is not bool.
        """
        check_sequence(x, self.width, "x")
        if memory is not None:
            check_sequence(memory, self.width, "memory")
            if memory.shape[0] != x.shape[0]:
                raise ValueError(f"expected memory with the batch {x.shape[0]} of x, got {memory.shape[0]}")
        query = self._split(self.query(x))  # (B, heads, n, d)
        if memory is not None and cache is not None and cache.length:
            if cache.length != memory.shape[1]:
                raise ValueError(f"expected the memory that is stored, {cache.length} long, got {memory.shape[1]}")
            key, value = cache.key, cache.value
        else:
            source = x if memory is None else memory
            key, value = self._split(self.key(source)), self._split(self.value(source))  # (B, heads, m, d)
            if cache is not None:
                key, value = cache.append(key, value)
        result = scaled_dot_product_attention(
            query,
            key,
            value,
            mask=_mask_of_heads(mask, (x.shape[0], self.heads, x.shape[1], key.shape[2])),
            dropout=self.dropout if self.training else 0.0,
            return_weights=return_weights,
        )
        output, weights = result if return_weights else (result, None)
        output = self.output(output.transpose(1, 2).flatten(2))  # (B, heads, n, d) -> (B, n, C)
        return (output, weights) if return_weights else output

    def _split(self, x: Tensor) -> Tensor:
        """(B, n, C) -> (B, heads, n, d): neighbouring channels make a head."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class RestrictedSelfAttention(nn.Module):
    """Multi-head self-attention of each position to the `size` positions around it: (B, n, C) -> (B, n, C).

    Args as for `MultiHeadAttention`; size r is odd. Raises ValueError for options or inputs that do not fit.
    Source: Vaswani et al. 2017, section 4. Book: chapter 2, "Restricted attention".
    """

    def __init__(self, width: int, heads: int, *, size: int, bias: bool = True):
        super().__init__()
        check_heads(width, heads)
        _check_size(size)
        self.width, self.heads, self.size = width, heads, size
        self.query, self.key, self.value, self.output = (nn.Linear(width, width, bias=bias) for _ in range(4))
        self.apply(initialize_linear)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """(B, n, C) -> (B, n, C). mask: bool (B, 1, n), True where a key may be attended: `padding_mask`."""
        check_sequence(x, self.width, "x")
        if mask is not None:
            check_mask(mask, (x.shape[0], 1, x.shape[1]))
            mask = torch.atleast_2d(mask).unsqueeze(-3)  # one for all heads
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        output = restricted_attention(query, key, value, self.size, mask=mask)
        return self.output(output.transpose(1, 2).flatten(2))


def check_mask(mask: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `mask` is bool and broadcasts to `shape`."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"expected a mask of torch.bool, True where a key may be attended, got {kind}")
    fits = mask.ndim <= len(shape) and all(a in (1, b) for a, b in zip(reversed(mask.shape), reversed(shape)))
    if not fits:
        raise ValueError(f"expected a mask that broadcasts to {tuple(shape)}, got {tuple(mask.shape)}")


def check_heads(width: int, heads: int) -> None:
    """Raise ValueError unless `heads` divides `width`."""
    if not (isinstance(width, int) and isinstance(heads, int)) or width < 1 or heads < 1 or width % heads:
        raise ValueError(f"heads must divide width, got width={width}, heads={heads}")


def check_sequence(x: Tensor, width: int, name: str) -> None:
    """Raise ValueError unless x is (B, n, width)."""
    if x.ndim != 3 or x.shape[-1] != width or 0 in x.shape:
        raise ValueError(f"expected {name} (B, n, {width}) without empty axes, got {tuple(x.shape)}")


def initialize_linear(module: nn.Module) -> None:
    """Xavier uniform weights and zero biases for linear layers; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _mask_of_heads(mask: Tensor | None, shape: tuple[int, int, int, int]) -> Tensor | None:
    """Bring a mask (n, m), (B, ., m) or (B, ., ., m) to four axes, and check it against (B, heads, n, m)."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3, 4):
        check_mask(mask, shape)
        raise ValueError(f"expected a mask (n, m), (B, n, m) or (B, heads, n, m), got {tuple(mask.shape)}")
    if mask.ndim == 3:
        mask = mask.unsqueeze(1)
    check_mask(mask, shape)
    return mask


def _check_size(size: int) -> None:
    if size < 1 or size % 2 != 1:
        raise ValueError(f"size must be odd and from 1, got {size}")
