"""The Transformer: an encoder and a decoder made of attention and nothing recurrent.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017 (arXiv 1706.03762), figure 1 and sections 3 to 5.

    source (B, n) -- embedding * sqrt(C) + positions -- encoder, `depth` layers --> memory (B, n, C)
                                                                                       |
    target (B, m) -- embedding * sqrt(C) + positions -- decoder, `depth` layers <------+
                                                           |
                              logits (B, m, V) <-- same embedding, transposed

The layers are `minirsa.layers.transformer`'s. Masks: a source's padding is never attended (its length says where it
begins), and target position t sees positions up to t. For decoding, `start` reads the source and `step` writes a token;
keys and values that were computed once are kept. Book: chapter 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minirsa.layers.attention import KeyValueCache
from minirsa.layers.positions import SinusoidalPositions
from minirsa.layers.transformer import Decoder, DecoderLayerCache, Encoder

SHARING = ("all", "target", "none")


class TransformerWeights(NamedTuple):
    """Attention weights, one entry a layer from first to last: encoder (B, heads, n, n), decoder (B, heads, m, m),
    cross (B, heads, m, n)."""

    encoder: list[Tensor]
    decoder: list[Tensor]
    cross: list[Tensor]


@dataclass(frozen=True)
class TransformerState:
    """Between two decoding steps. memory (B, n, C) and mask (B, 1, n): the source as the encoder left it; written
    (B, t): the tokens read so far, BOS first; caches: a layer's keys and values, or None to compute them anew."""

    memory: Tensor
    mask: Tensor
    written: Tensor
    caches: tuple[DecoderLayerCache, ...] | None

    def select(self, rows: Tensor) -> TransformerState:
        """The state of these rows of the batch, in this order, repeats allowed: whole numbers (K,)."""
        caches = None if self.caches is None else tuple(cache.select(rows) for cache in self.caches)
        return TransformerState(self.memory[rows], self.mask[rows], self.written[rows], caches)


class Transformer(nn.Module):
    """Encoder-decoder: source (B, n), source_lengths (B,), target so far (B, m) -> logits of the next tokens (B, m, V).

    Args:
        source_vocabulary, target_vocabulary: numbers of tokens.
        width, heads, hidden: C, number of heads, channels inside the feed-forward networks (512, 8, 2048).
        depth: layers of encoder and decoder, one number or (encoder, decoder).
        dropout: on embeddings with positions, and on every sublayer's output.
        norm: "post" (the paper) or "pre" (Xiong et al. 2020; a last norm ends encoder and decoder).
        activation: "relu" (the paper) or "gelu".
        eps: of the layer norms.
        share_embeddings: "all", one matrix for source, target and output, as in the paper, whose two languages have
            one vocabulary; "target", one for the target and the output (Press and Wolf 2017); "none".

    Embeddings are normal with variance 1 / C, so that times sqrt(C) they have variance 1 beside the positions' 1/2;
    linear layers are Xavier uniform with zero biases. The output has no bias. Raises ValueError for options that do not
    fit together. Source: Vaswani et al. 2017, sections 3.1 to 3.5 and 5.4. Book: chapter 3.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        *,
        width: int = 512,
        heads: int = 8,
        hidden: int = 2048,
        depth: int | tuple[int, int] = 6,
        dropout: float = 0.1,
        norm: str = "post",
        activation: str = "relu",
        eps: float = 1e-5,
        share_embeddings: str = "target",
    ):
        super().__init__()
        if min(source_vocabulary, target_vocabulary, width) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                "expected vocabularies and width from 1 and dropout in [0, 1), got "
                f"{source_vocabulary}, {target_vocabulary}, {width} and {dropout}"
            )
        if share_embeddings not in SHARING:
            raise ValueError(f"expected share_embeddings among {SHARING}, got {share_embeddings!r}")
        if share_embeddings == "all" and source_vocabulary != target_vocabulary:
            raise ValueError(
                'share_embeddings="all" needs one vocabulary for source and target, got sizes '
                f'{source_vocabulary} and {target_vocabulary}; use "target"'
            )
        depths = (depth, depth) if isinstance(depth, int) else depth
        if not isinstance(depths, (tuple, list)) or len(depths) != 2:
            raise ValueError(f"expected a depth, or one for the encoder and one for the decoder, got {depth!r}")
        encoder_depth, decoder_depth = depths
        self.width = width
        self.target_embedding = nn.Embedding(target_vocabulary, width)
        self.source_embedding = (
            self.target_embedding if share_embeddings == "all" else nn.Embedding(source_vocabulary, width)
        )
        self.output = nn.Linear(width, target_vocabulary, bias=False)
        for table in dict.fromkeys((self.source_embedding, self.target_embedding)):  # in an order that never changes
            nn.init.normal_(table.weight, std=width**-0.5)
        if share_embeddings == "none":
            nn.init.xavier_uniform_(self.output.weight)
        else:
            self.output.weight = self.target_embedding.weight
        self.positions = SinusoidalPositions(width)
        self.dropout = nn.Dropout(dropout)
        options = {"norm": norm, "activation": activation, "dropout": dropout, "eps": eps}
        self.encoder = Encoder(encoder_depth, width, heads, hidden, **options)
        self.decoder = Decoder(decoder_depth, width, heads, hidden, **options)

    def forward(
        self, source: Tensor, source_lengths: Tensor, target: Tensor, *, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, TransformerWeights]:
        """Logits (B, m, V) of the token after each of target's; with return_weights also `TransformerWeights`.

        source (B, n) and target (B, m): whole numbers, padded behind; source_lengths (B,): tokens of each source. What
        stands behind a source's end changes nothing, what stands behind a target position nothing at it.
        Raises ValueError for other shapes or impossible lengths.
        """
        memory, mask, own = self._encode(source, source_lengths, return_weights)
        if target.ndim != 2 or target.shape[0] != source.shape[0] or target.shape[1] < 1:
            raise ValueError(f"expected target ({source.shape[0]}, m) with m >= 1, got {tuple(target.shape)}")
        x = self._embed(self.target_embedding, target)
        x = self.decoder(x, memory, memory_mask=mask, return_weights=return_weights)
        if not return_weights:
            return self.output(x)
        x, weights = x
        return self.output(x), TransformerWeights(own, [layer[0] for layer in weights], [layer[1] for layer in weights])

    def encode(self, source: Tensor, source_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The source as the decoder sees it: memory (B, n, C), and mask (B, 1, n), True where there is a token."""
        memory, mask, _ = self._encode(source, source_lengths, False)
        return memory, mask

    def start(self, source: Tensor, source_lengths: Tensor, *, cache: bool = True) -> TransformerState:
        """Read the sources: the state from which decoding begins. Without a cache, `step` computes everything anew."""
        memory, mask = self.encode(source, source_lengths)
        caches = tuple(self.decoder.start_cache()) if cache else None
        return TransformerState(memory, mask, source.new_empty(len(source), 0), caches)

    def step(self, tokens: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """One target token for each source, (B,): log-probabilities (B, V) of the token that follows, new state.

        The state given stays as it was. Raises ValueError for tokens of another shape.
        """
        if tokens.shape != state.written.shape[:1]:
            raise ValueError(f"expected tokens {tuple(state.written.shape[:1])}, got {tuple(tokens.shape)}")
        written = torch.cat([state.written, tokens[:, None]], 1)
        if state.caches is None:
            caches, new, start = None, written, 0
        else:
            caches, new, start = tuple(map(_copy, state.caches)), tokens[:, None], state.written.shape[1]
        x = self._embed(self.target_embedding, new, start)
        x = self.decoder(x, state.memory, memory_mask=state.mask, cache=None if caches is None else list(caches))
        log_probabilities = self.output(x[:, -1]).log_softmax(-1)
        return log_probabilities, TransformerState(state.memory, state.mask, written, caches)

    def _encode(self, source: Tensor, lengths: Tensor, return_weights: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        if source.ndim != 2 or 0 in source.shape or lengths.shape != source.shape[:1]:
            raise ValueError(
                f"expected source (B, n) and lengths (B,), got {tuple(source.shape)} and {tuple(lengths.shape)}"
            )
        n = source.shape[1]
        if lengths.device.type != "meta" and not 1 <= int(lengths.min()) <= int(lengths.max()) <= n:
            raise ValueError(f"expected sources of 1 to {n} tokens, got lengths {lengths.tolist()}")
        mask = (torch.arange(n, device=source.device) < lengths[:, None].to(source.device)).unsqueeze(1)  # (B, 1, n)
        x = self.encoder(self._embed(self.source_embedding, source), mask=mask, return_weights=return_weights)
        x, weights = x if return_weights else (x, [])
        return x, mask, weights

    def _embed(self, table: nn.Embedding, tokens: Tensor, start: int = 0) -> Tensor:
        """(B, m) -> (B, m, C), the first token standing at position `start`."""
        return self.dropout(self.positions(table(tokens) * math.sqrt(self.width), start=start))


def _copy(cache: DecoderLayerCache) -> DecoderLayerCache:
    """Other boxes, the same tensors: what is appended to the copy is not in the original."""
    own, cross = cache.self_attention, cache.cross_attention
    return DecoderLayerCache(KeyValueCache(own.key, own.value), KeyValueCache(cross.key, cross.value))


def transformer_base(vocabulary: int = 37000, **options) -> Transformer:
    """The paper's base model: 6 + 6 layers, C = 512, 8 heads, hidden 2048, dropout 0.1, one vocabulary.

    With 37,000 tokens 63,082,496 parameters, where table 3 says 65 M. Vaswani et al. 2017, table 3.
    """
    return _shared(vocabulary, {"width": 512, "heads": 8, "hidden": 2048, "dropout": 0.1}, options)


def transformer_big(vocabulary: int = 37000, **options) -> Transformer:
    """The paper's big model: 6 + 6 layers, C = 1024, 16 heads, hidden 4096, dropout 0.3, one vocabulary.

    With 37,000 tokens 214,245,376 parameters, where table 3 says 213 M. Vaswani et al. 2017, table 3.
    """
    return _shared(vocabulary, {"width": 1024, "heads": 16, "hidden": 4096, "dropout": 0.3}, options)


def _shared(vocabulary: int, defaults: dict[str, object], options: dict[str, object]) -> Transformer:
    return Transformer(vocabulary, vocabulary, **({"share_embeddings": "all"} | defaults | options))
