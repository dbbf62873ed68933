"""The Transformer's layers, encoder and decoder, with the norm after each residual sum or before each sublayer.

    post-LN (Vaswani et al. 2017):  x -- sublayer(x) -- x = LN(x + sublayer)
    pre-LN  (Xiong et al. 2020):    x -- sublayer(LN(x)) -- x = x + sublayer; one more LN after the last layer

    encoder layer: self-attention, feed-forward
    decoder layer: causal self-attention, attention to the encoder's output, feed-forward

Sources: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, sections 3.1 to 3.3; Xiong et al., "On Layer
Normalization in the Transformer Architecture", ICML 2020, figure 1 and table 1. Dropout acts on each sublayer's output
before it is added (Vaswani et al., section 5.4), nowhere else. Book: chapters 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from minirsa.layers.attention import (
    KeyValueCache,
    MultiHeadAttention,
    causal_mask,
    check_mask,
    check_sequence,
    initialize_linear,
)

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": lambda: nn.GELU(approximate="none"),  # the exact one, with erf
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),  # the papers that were written in JAX
}


class FeedForward(nn.Module):
    """FFN(x) = W2 activation(W1 x + b1) + b2 at each position alone: (..., C) -> (..., C).

    Args:
        width: C.
        hidden: channels between the two, 4 C in the paper.
        activation: "relu", "gelu" (the exact one, with erf) or "gelu_tanh" (its approximation).
        dropout: on the hidden channels.

    `expand` is W1, `contract` is W2; Xavier uniform, biases 0. Raises ValueError for an unknown activation.
    Source: Vaswani et al. 2017, equation 2. Book: chapter 3, "The feed-forward network".
    """

    def __init__(self, width: int, hidden: int, *, activation: str = "relu", dropout: float = 0.0):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"expected activation among {sorted(ACTIVATIONS)}, got {activation!r}")
        if width < 1 or hidden < 1:
            raise ValueError(f"expected width and hidden from 1, got {width} and {hidden}")
        self.expand = nn.Linear(width, hidden)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(hidden, width)
        self.apply(initialize_linear)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.contract(self.dropout(self.activation(self.expand(x))))


class StochasticDepth(nn.Module):
    """Leaves a whole branch out for some samples, in training only: (B, ...) -> (B, ...).

    A sample's branch is kept with probability `keep` and divided by it, so that its expectation stays, or becomes zero.
    Raises ValueError for a keep outside (0, 1]. Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.
    """

    def __init__(self, keep: float = 1.0):
        super().__init__()
        if not 0.0 < keep <= 1.0:
            raise ValueError(f"expected a probability of keeping in (0, 1], got {keep}")
        self.keep = keep

    def forward(self, branch: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if not self.training or self.keep == 1.0:
            return branch
        kept = branch.new_empty(branch.shape[0], *[1] * (branch.ndim - 1)).bernoulli_(self.keep)
        return branch * (kept / self.keep)

    def extra_repr(self) -> str:
        return f"keep={self.keep:.3f}"


class _Sublayers(nn.Module):
    """What encoder and decoder layers share: where a norm stands around a sublayer and its residual sum."""

    def __init__(self, width: int, *, norm: str, dropout: float, stochastic_depth: float = 0.0):
        super().__init__()
        check_norm(norm)
        self.width, self.pre = width, norm == "pre"
        self.dropout = nn.Dropout(dropout)
        self.stochastic_depth = StochasticDepth(1.0 - stochastic_depth)

    def _enter(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        """What the sublayer gets of the residual stream x."""
        return norm(x) if self.pre else x

    def _leave(self, norm: nn.LayerNorm, x: Tensor, output: Tensor) -> Tensor:
        """The residual stream behind the sublayer."""
        x = x + self.stochastic_depth(self.dropout(output))
        return x if self.pre else norm(x)


class EncoderLayer(_Sublayers):
    """Self-attention, then a feed-forward network, each with residual sum and norm: (B, n, C) -> (B, n, C).

    Args:
        width, heads, hidden: C, number of heads, channels inside the feed-forward network.
        norm: "post", after each sum as in Vaswani et al., or "pre", before each sublayer.
        activation: "relu", "gelu" or "gelu_tanh".
        dropout: on the output of each sublayer.
        eps: of the norms.
        stochastic_depth: probability with which a sublayer is left out, for each sample, in training.

    Raises ValueError for options that do not fit. Source: Vaswani et al. 2017, section 3.1; Xiong et al. 2020,
    table 1. Book: chapters 3 and 4.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        norm: str = "post",
        activation: str = "relu",
        dropout: float = 0.1,
        eps: float = 1e-5,
        stochastic_depth: float = 0.0,
    ):
        super().__init__(width, norm=norm, dropout=dropout, stochastic_depth=stochastic_depth)
        self.attention = MultiHeadAttention(width, heads)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.feed_forward = FeedForward(width, hidden, activation=activation)
        self.feed_forward_norm = nn.LayerNorm(width, eps=eps)

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(B, n, C) -> (B, n, C); mask as for `MultiHeadAttention`; with return_weights also (B, heads, n, n)."""
        check_sequence(x, self.width, "x")
        y = self._enter(self.attention_norm, x)
        y = self.attention(y, mask=mask, return_weights=return_weights)
        y, weights = y if return_weights else (y, None)
        x = self._leave(self.attention_norm, x, y)
        y = self.feed_forward(self._enter(self.feed_forward_norm, x))
        x = self._leave(self.feed_forward_norm, x, y)
        return (x, weights) if return_weights else x


@dataclass
class DecoderLayerCache:
    """What one decoder layer keeps between two tokens: its own keys and values, and those of the memory."""

    self_attention: KeyValueCache = field(default_factory=KeyValueCache)
    cross_attention: KeyValueCache = field(default_factory=KeyValueCache)

    def select(self, rows: Tensor) -> DecoderLayerCache:
        """The cache of these rows of the batch."""
        return DecoderLayerCache(self.self_attention.select(rows), self.cross_attention.select(rows))


class DecoderLayer(_Sublayers):
    """Causal self-attention, attention to a memory, feed-forward: (B, n, C), (B, m, C) -> (B, n, C).

    Args as for `EncoderLayer`. Source: Vaswani et al. 2017, section 3.1. Book: chapter 3, "The decoder".
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        norm: str = "post",
        activation: str = "relu",
        dropout: float = 0.1,
        eps: float = 1e-5,
    ):
        super().__init__(width, norm=norm, dropout=dropout)
        self.self_attention = MultiHeadAttention(width, heads)
        self.self_attention_norm = nn.LayerNorm(width, eps=eps)
        self.cross_attention = MultiHeadAttention(width, heads)
        self.cross_attention_norm = nn.LayerNorm(width, eps=eps)
        self.feed_forward = FeedForward(width, hidden, activation=activation)
        self.feed_forward_norm = nn.LayerNorm(width, eps=eps)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: DecoderLayerCache | None = None,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, n, C), (B, m, C) -> (B, n, C); with return_weights also the weights of both attentions.

        mask, memory_mask: as for `MultiHeadAttention`, and added to the causal mask, which always holds.
        cache: x then holds the positions after those that are stored.
        """
        check_sequence(x, self.width, "x")
        if memory is None:  # for attention it would mean x itself
            raise ValueError(f"expected memory (B, m, {self.width}), got None")
        cache = cache or DecoderLayerCache()
        keys = cache.self_attention.length + x.shape[1]
        causal = causal_mask(x.shape[1], keys, device=x.device)
        if mask is not None:
            check_mask(mask, (*getattr(mask, "shape", ())[:-2], x.shape[1], keys))
        mask = causal if mask is None else causal & mask
        y = self._enter(self.self_attention_norm, x)
        y = self.self_attention(y, mask=mask, cache=cache.self_attention, return_weights=return_weights)
        y, own = y if return_weights else (y, None)
        x = self._leave(self.self_attention_norm, x, y)
        y = self._enter(self.cross_attention_norm, x)
        y = self.cross_attention(
            y, memory, mask=memory_mask, cache=cache.cross_attention, return_weights=return_weights
        )
        y, crossed = y if return_weights else (y, None)
        x = self._leave(self.cross_attention_norm, x, y)
        y = self.feed_forward(self._enter(self.feed_forward_norm, x))
        x = self._leave(self.feed_forward_norm, x, y)
        return (x, (own, crossed)) if return_weights else x


class Encoder(nn.Module):
    """`depth` encoder layers, and for pre-LN a last norm: (B, n, C) -> (B, n, C).

    Args as for `EncoderLayer`; stochastic_depth is the last layer's, and grows linearly from 0 at the first (Huang et
    al. 2016). `layers` are the layers, `norm` the last norm, None for post-LN, whose last layer
    already ends with one. Source: Vaswani et al. 2017, section 3.1; Xiong et al. 2020, table 1. Book: chapters 3, 4.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        heads: int,
        hidden: int,
        *,
        norm: str = "post",
        stochastic_depth: float = 0.0,
        **options,
    ):
        super().__init__()
        check_depth(depth)
        rates = [stochastic_depth * i / max(depth - 1, 1) for i in range(depth)]
        self.layers = nn.ModuleList(
            EncoderLayer(width, heads, hidden, norm=norm, stochastic_depth=rate, **options) for rate in rates
        )
        self.norm = nn.LayerNorm(width, eps=options.get("eps", 1e-5)) if norm == "pre" else None

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """(B, n, C) -> (B, n, C); with return_weights also (B, heads, n, n) of each layer, first to last."""
        kept = []
        for layer in self.layers:
            result = layer(x, mask=mask, return_weights=return_weights)
            x, weights = result if return_weights else (result, None)
            kept.append(weights)
        x = x if self.norm is None else self.norm(x)
        return (x, kept) if return_weights else x


class Decoder(nn.Module):
    """`depth` decoder layers, and for pre-LN a last norm: (B, n, C), (B, m, C) -> (B, n, C). Causal.

    Args and attributes as for `Encoder`. Source: Vaswani et al. 2017, section 3.1. Book: chapter 3, "The decoder".
    """

    def __init__(self, depth: int, width: int, heads: int, hidden: int, *, norm: str = "post", **options):
        super().__init__()
        check_depth(depth)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, hidden, norm=norm, **options) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=options.get("eps", 1e-5)) if norm == "pre" else None

    def start_cache(self) -> list[DecoderLayerCache]:
        """An empty cache for each layer."""
        return [DecoderLayerCache() for _ in self.layers]

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: list[DecoderLayerCache] | None = None,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """(B, n, C), (B, m, C) -> (B, n, C); with return_weights also (self, cross) weights of each layer."""
        if cache is not None and len(cache) != len(self.layers):
            raise ValueError(f"expected a cache for each of {len(self.layers)} layers, got {len(cache)}")
        kept = []
        for layer, own in zip(self.layers, cache or [None] * len(self.layers)):
            result = layer(x, memory, mask=mask, memory_mask=memory_mask, cache=own, return_weights=return_weights)
            x, weights = result if return_weights else (result, None)
            kept.append(weights)
        x = x if self.norm is None else self.norm(x)
        return (x, kept) if return_weights else x


def check_norm(norm: str) -> None:
    """Raise ValueError unless norm is "post" or "pre"."""
    if norm not in ("post", "pre"):
        raise ValueError(f'expected norm "post" or "pre", got {norm!r}')


def check_depth(depth: int) -> None:
    """Raise ValueError unless there is at least one layer."""
    if depth < 1:
        raise ValueError(f"expected a depth from 1, got {depth}")
