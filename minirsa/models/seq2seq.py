"""Recurrent encoder-decoder for translation, with Luong's attention or with nothing but a fixed vector.

Sources: Sutskever, Vinyals and Le, "Sequence to Sequence Learning with Neural Networks", NeurIPS 2014 (the stacked
LSTMs); Luong, Pham and Manning, "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015 (the
rest). Book: chapter 1.

    source (B, n) ─ embed ─ LSTM ─┬─ last states of every layer: where the decoder starts
                                  └─ top states h_s (B, n, C) ─────────────────┐
    target (B, m) ─ embed ─ [ y_{t-1} ; h~_{t-1} ] ─ LSTM ─ h_t (B, m, C) ─ attention ─ c_t
                                  ▲                                            │
                                  └── input feeding ── h~_t = tanh(W_c [c_t ; h_t]) ─ softmax(W_s h~_t)

Without attention the first line's states are all that the decoder ever learns about the source, and h~_t is h_t.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from minirsa.layers.attention import initialize_linear
from minirsa.layers.luong import LocalAttention, LuongAttention

ATTENTIONS = (None, "dot", "general", "concat", "local-m", "local-p")


@dataclass(frozen=True)
class Seq2SeqState:
    """What the decoder carries from one target token to the next, for a batch of B sources.

    memory (B, n, C) and mask (B, 1, n): the encoder's top states, and which of them are words; hidden and cell
    (layers, B, C): the LSTM's; fed (B, C): the last h~_t; position: t, the number of tokens read.
    """

    memory: Tensor
    mask: Tensor
    hidden: Tensor
    cell: Tensor
    fed: Tensor
    position: int = 0

    def select(self, rows: Tensor) -> Seq2SeqState:
        """The state of these rows of the batch, in this order, repeats allowed: whole numbers (K,)."""
        hidden, cell = self.hidden.index_select(1, rows), self.cell.index_select(1, rows)
        memory, mask, fed = (x.index_select(0, rows) for x in (self.memory, self.mask, self.fed))
        return Seq2SeqState(memory, mask, hidden, cell, fed, self.position)


class Seq2Seq(nn.Module):
    """Stacked LSTM encoder and decoder: source (B, n), target so far (B, m) -> logits of the next tokens (B, m, V).

    Args:
        source_vocabulary, target_vocabulary: numbers of tokens; token 0 pads.
        width: C, of embeddings and states (the paper's net has 1000).
        layers: LSTMs on top of each other, in the encoder and in the decoder (4 in the paper).
        attention: None, "dot", "general", "concat", or "local-m" and "local-p" with the general score.
        window: D of local attention.
        input_feeding: give h~_{t-1} to the decoder beside y_{t-1}. Without attention there is nothing to feed.
        dropout: between the LSTMs and before the logits, in training (0.2 in the paper).

    Raises ValueError for options that do not fit. Book: chapter 1, The whole translator.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        *,
        width: int = 64,
        layers: int = 2,
        attention: str | None = "general",
        window: int = 3,
        input_feeding: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        if min(source_vocabulary, target_vocabulary, width, layers) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                "expected vocabularies, width and layers from 1 and dropout in [0, 1), got "
                f"{source_vocabulary}, {target_vocabulary}, {width}, {layers} and {dropout}"
            )
        if attention not in ATTENTIONS:
            raise ValueError(f"expected attention in {ATTENTIONS}, got {attention!r}")
        self.width, self.layers = width, layers
        self.source_embedding = nn.Embedding(source_vocabulary, width)
        self.target_embedding = nn.Embedding(target_vocabulary, width)
        between = dropout if layers > 1 else 0.0
        self.feeds = input_feeding and attention is not None
        self.encoder = nn.LSTM(width, width, layers, batch_first=True, dropout=between)
        self.decoder = nn.LSTM(width * (1 + self.feeds), width, layers, batch_first=True, dropout=between)
        self.attention: LuongAttention | LocalAttention | None = None
        if attention in ("local-m", "local-p"):
            alignment = "monotonic" if attention == "local-m" else "predictive"
            self.attention = LocalAttention(width, window, alignment=alignment)
        elif attention is not None:
            self.attention = LuongAttention(width, attention)
        self.combine = nn.Linear(2 * width, width, bias=False) if attention is not None else None  # W_c
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, target_vocabulary, bias=False)  # W_s
        for linear in (self.combine, self.output):
            if linear is not None:
                initialize_linear(linear)

    def forward(
        self, source: Tensor, source_lengths: Tensor, target: Tensor, *, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, m, V) of the token after each of target's, and the alignment weights (B, m, n) if asked for.

        source (B, n) and target (B, m): whole numbers, padded behind; source_lengths (B,): words of each source.
        What stands behind a source's words, or behind a target's tokens, changes nothing before it.
        Raises ValueError for other shapes, and for weights of a net without attention.
        """
        if return_weights and self.attention is None:
            raise ValueError("a net without attention has no alignment weights to return")
        state = self.start(source, source_lengths)
        if target.ndim != 2 or target.shape[0] != source.shape[0] or target.shape[1] < 1:
            raise ValueError(f"expected target ({source.shape[0]}, m) with m >= 1, got {tuple(target.shape)}")
        embedded = self.target_embedding(target)  # (B, m, C)
        parts = embedded.split(1, 1) if self.feeds else [embedded]  # input feeding needs h~_{t-1}: one at a time
        outputs, weights = [], []
        for part in parts:
            output, state, weight = self._advance(part, state, return_weights)
            outputs.append(output)
            weights.append(weight)
        logits = self.output(self.dropout(torch.cat(outputs, 1)))
        return (logits, torch.cat(weights, 1)) if return_weights else logits

    def start(self, source: Tensor, source_lengths: Tensor) -> Seq2SeqState:
        """Read the sources (B, n) of so many words (B,): the state from which decoding begins.

        Raises ValueError for other shapes, or a length outside 1..n.
        """
        whole = not any(x.is_floating_point() or x.dtype == torch.bool for x in (source, source_lengths))
        if source.ndim != 2 or source_lengths.shape != source.shape[:1] or not whole:
            raise ValueError(
                f"expected whole numbers, source (B, n) and lengths (B,), got {source.dtype} {tuple(source.shape)} and "
                f"{source_lengths.dtype} {tuple(source_lengths.shape)}"
            )
        batch, n = source.shape
        if batch == 0 or not 1 <= int(source_lengths.min()) <= int(source_lengths.max()) <= n:
            raise ValueError(f"expected a batch of sources with 1 to {n} words each, got lengths {source_lengths}")
        packed = pack_padded_sequence(
            self.source_embedding(source), source_lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, (hidden, cell) = self.encoder(packed)  # packed: the last state is that of the last word
        memory, _ = pad_packed_sequence(states, batch_first=True, total_length=n)  # (B, n, C)
        mask = torch.arange(n, device=source.device) < source_lengths[:, None].to(source.device)
        return Seq2SeqState(memory, mask[:, None], hidden, cell, memory.new_zeros(batch, self.width))

    def step(self, tokens: Tensor, state: Seq2SeqState) -> tuple[Tensor, Seq2SeqState]:
        """One target token for each source, (B,): log-probabilities (B, V) of the token that follows, new state.

        Raises ValueError for tokens of another shape.
        """
        if tokens.shape != state.fed.shape[:1]:
            raise ValueError(f"expected tokens {tuple(state.fed.shape[:1])}, got {tuple(tokens.shape)}")
        output, state, _ = self._advance(self.target_embedding(tokens[:, None]), state, False)
        return self.output(self.dropout(output[:, 0])).log_softmax(-1), state

    def _advance(
        self, embedded: Tensor, state: Seq2SeqState, return_weights: bool
    ) -> tuple[Tensor, Seq2SeqState, Tensor | None]:
        """Read target embeddings (B, m, C), one if there is input feeding: h~ (B, m, C), state, weights (B, m, n)."""
        if self.feeds:
            embedded = torch.cat([embedded, state.fed[:, None]], 2)  # [y_{t-1} ; h~_{t-1}]
        output, (hidden, cell) = self.decoder(embedded, (state.hidden, state.cell))
        weights = None
        if self.attention is not None:
            where = {"start": state.position} if isinstance(self.attention, LocalAttention) else {}
            context = self.attention(output, state.memory, mask=state.mask, return_weights=return_weights, **where)
            if return_weights:
                context, weights = context
            output = self.combine(torch.cat([context, output], 2)).tanh()
        position = state.position + output.shape[1]
        return output, replace(state, hidden=hidden, cell=cell, fed=output[:, -1], position=position), weights
