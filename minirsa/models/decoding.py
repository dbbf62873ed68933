"""Writing an answer one token at a time: greedy search and beam search, for any model that can take one step.

    source (B, n) -> start -> state -+-> step(last tokens (B,), state) -> log p (B, V), state -+-> tokens (B, m)
                                     +----------------- chosen tokens, rows kept <-------------+

A model has two methods, and its state one:

    model.start(source (B, n), source_lengths (B,)) -> state     reads the source, once
    model.step(tokens (B,), state) -> (log_probabilities (B, V), state)
    state.select(rows (K,)) -> state                             the state of some rows, in that order, repeats allowed

PAD and BOS are never written. Book: chapter 1, "Greedy and beam search"; chapter 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

PAD, BOS, EOS = 0, 1, 2  # as in minirsa.data.translation; models do not import data


class State(Protocol):
    """What a model remembers between two steps, one row an answer being written."""

    def select(self, rows: Tensor) -> State:
        """The state of the given rows (K,) int64, in their order; a row may come twice."""


class StepModel(Protocol):
    """A model that writes step by step."""

    def start(self, source: Tensor, source_lengths: Tensor) -> Any: ...

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]: ...


class Decoded(NamedTuple):
    """tokens (B, m) int64, without BOS, from the end (EOS) on PAD; scores (B,), the log-probability of each."""

    tokens: Tensor
    scores: Tensor


class Hypothesis(NamedTuple):
    """One answer of a beam. tokens: without BOS, with EOS where it ended; log_probability: the sum over its tokens;
    score: log_probability / ((5 + tokens) / 6) ** alpha."""

    tokens: list[int]
    score: float
    log_probability: float


@torch.no_grad()
def greedy(
    model: StepModel, source: Tensor, source_lengths: Tensor, *, max_length: int, bos: int = BOS, eos: int = EOS
) -> Decoded:
    """The most probable token at every step, until every answer has ended or holds `max_length` tokens (EOS counts).

    source (B, n), source_lengths (B,) -> Decoded(tokens (B, m <= max_length), scores (B,)). Of equally probable tokens
    the first. Runs in evaluation mode. Raises ValueError for shapes that do not fit and for log-probabilities of NaN.
    """
    _check(source, source_lengths, max_length)
    with evaluating(model):
        state = model.start(source, source_lengths)
        last = torch.full((len(source),), bos, dtype=torch.int64, device=source.device)
        ended = torch.zeros_like(last, dtype=torch.bool)
        scores = torch.zeros(len(source), dtype=torch.float64, device=source.device)
        written = []
        while len(written) < max_length and not ended.all():
            log_probabilities, state = model.step(last, state)
            best, last = _writable(log_probabilities, bos, eos).max(1)
            scores += best.masked_fill(ended, 0.0)
            last = last.masked_fill(ended, PAD)
            written.append(last)
            ended |= last == eos
    return Decoded(torch.stack(written, 1), scores)


@torch.no_grad()
def beam_search(
    model: StepModel,
    source: Tensor,
    source_lengths: Tensor,
    *,
    beam: int = 4,
    max_length: int,
    alpha: float = 0.6,
    bos: int = BOS,
    eos: int = EOS,
) -> list[list[Hypothesis]]:
    """The best answers found with `beam` unfinished ones at a time: source (B, n) -> B lists, best first.

    At every step each unfinished answer is extended by every token, and the most probable of all extensions are kept.
    One that writes EOS is finished: it leaves the beam, which is one narrower from then on. So each source gets up to
    `beam` answers, compared while they are equally long by probability, and in the end by Wu et al.'s length penalty:

        score(y) = log p(y) / lp(y),   lp(y) = ((5 + |y|) / 6) ** alpha      (Wu et al. 2016, section 7)

    with EOS counted in |y|. alpha = 0.6 and beam = 4 are Vaswani et al.'s (2017, section 6.1); alpha = 0 ranks by
    probability. Answers without an end after `max_length` tokens come after all that have one. With beam = 1 this is
    greedy search. Runs in evaluation mode. Raises ValueError as `greedy` does, and for a beam below 1.
    """
    _check(source, source_lengths, max_length)
    if beam < 1:
        raise ValueError(f"expected a beam of at least 1, got {beam}")
    device = source.device
    finished: list[list[Hypothesis]] = [[] for _ in source]
    with evaluating(model):
        state = model.start(source, source_lengths)
        owner = list(range(len(source)))  # of each unfinished answer: the source it belongs to
        written: list[list[int]] = [[] for _ in source]
        sums = torch.zeros(len(source), dtype=torch.float64, device=device)
        last = torch.full((len(source),), bos, dtype=torch.int64, device=device)
        for _ in range(max_length):
            log_probabilities, state = model.step(last, state)
            totals = sums[:, None] + _writable(log_probabilities, bos, eos)  # (rows, V)
            rows, tokens = _best_extensions(totals, owner, [beam - len(answers) for answers in finished])
            kept = []
            for place, (row, token) in enumerate(zip(rows, tokens)):
                if token == eos:
                    finished[owner[row]].append(_hypothesis([*written[row], eos], float(totals[row, eos]), alpha))
                else:
                    kept.append(place)
            rows, tokens = [rows[place] for place in kept], [tokens[place] for place in kept]
            if not rows:
                break
            owner, written = [owner[row] for row in rows], [[*written[row], token] for row, token in zip(rows, tokens)]
            chosen, last = torch.tensor(rows, device=device), torch.tensor(tokens, device=device)
            sums = totals[chosen, last]
            state = state.select(chosen)
        else:
            for source_number, tokens, total in zip(owner, written, sums.tolist()):
                finished[source_number].append(_hypothesis(tokens, total, alpha))
    return [
        sorted(answers, key=lambda answer: (answer.tokens[-1] == eos, answer.score), reverse=True)
        for answers in finished
    ]


def _best_extensions(totals: Tensor, owner: list[int], free: list[int]) -> tuple[list[int], list[int]]:
    """The `free[i]` most probable extensions of every source's rows (they stand together): rows and their tokens."""
    rows, tokens = [], []
    vocabulary = totals.shape[1]
    start = 0
    while start < len(owner):
        stop = start
        while stop < len(owner) and owner[stop] == owner[start]:
            stop += 1
        extensions = totals[start:stop].flatten()
        values, places = extensions.sort(descending=True, stable=True)  # of equals the first, as greedy search takes
        values, places = values[: free[owner[start]]], places[: free[owner[start]]]
        for value, place in zip(values.tolist(), places.tolist()):
            if value > float("-inf"):
                rows.append(start + place // vocabulary)
                tokens.append(place % vocabulary)
        start = stop
    return rows, tokens


def _hypothesis(tokens: list[int], log_probability: float, alpha: float) -> Hypothesis:
    penalty = ((5 + len(tokens)) / 6) ** alpha
    return Hypothesis(tokens, log_probability / penalty, log_probability)


def _writable(log_probabilities: Tensor, bos: int, eos: int) -> Tensor:
    """PAD and BOS out of reach; float64, so that sums over an answer do not round. ValueError where nothing is left."""
    forbidden = [token for token in {PAD, bos} if token != eos and token < log_probabilities.shape[1]]
    out = log_probabilities.double()
    out = out.index_fill(1, torch.tensor(forbidden, dtype=torch.int64, device=out.device), float("-inf"))
    if not (out.amax(1) > float("-inf")).all():  # false for NaN, too
        raise ValueError("expected at least one token of finite log-probability after every answer, got NaN or none")
    return out


def _check(source: Tensor, source_lengths: Tensor, max_length: int) -> None:
    if source.ndim != 2 or source_lengths.shape != source.shape[:1]:
        raise ValueError(
            f"expected source (B, n) and source_lengths (B,), got {tuple(source.shape)} and "
            f"{tuple(source_lengths.shape)}"
        )
    if len(source) < 1 or max_length < 1:
        raise ValueError(f"expected a source and max_length of at least 1, got {len(source)} and {max_length}")


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Evaluation mode (no dropout); afterwards every submodule has the mode it came in, also after an error."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    if modes:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
