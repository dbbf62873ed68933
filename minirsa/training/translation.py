"""Training for translation: teacher forcing, cross entropy without the padding, and the Transformer's learning rate.

    source (B, n), target (B, m) -> model(source, source_lengths, target[:, :-1]) -> logits (B, m - 1, V)
                                 -> cross entropy against target[:, 1:] -> Adam

Vaswani et al. 2017, section 5 (optimiser, eq. 3, label smoothing). Book: chapter 3, Training; chapters 1 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirsa.data.translation import PAD, Batch
from minirsa.models.decoding import greedy


def noam_rate(width: int, warmup: int, scale: float = 1.0) -> Callable[[int], float]:
    """The learning rate of step 1, 2, ...: scale * width^-0.5 * min(step^-0.5, step * warmup^-1.5).

    Grows linearly for `warmup` steps, to scale / sqrt(width * warmup), then falls as 1 / sqrt(step).
    Vaswani et al. 2017, eq. 3, which has scale = 1, width = 512, warmup = 4000: at most 7.0e-4.
    """
    if width < 1 or warmup < 1 or not 0 < scale < math.inf:
        raise ValueError(f"expected width and warmup of at least 1 and a scale above 0, got {width}, {warmup}, {scale}")

    def rate(step: int) -> float:
        if step < 1:
            raise ValueError(f"expected steps counted from 1, got {step}")
        return scale * width**-0.5 * min(step**-0.5, step * warmup**-1.5)

    return rate


def translation_loss(logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy over the tokens to be written: logits (B, m - 1, V), target (B, m) -> scalar.

    `target` begins with BOS, so logits at place t answer for token t + 1; padding is left out. With label smoothing e
    the wanted distribution is 1 - e on the right token plus e / V on every token (Szegedy et al. 2016; Vaswani et al.
    use 0.1), and the least possible loss is that distribution's entropy, not zero.

    Raises ValueError for shapes that do not fit, a target of padding alone, smoothing outside [0, 1).
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"expected label smoothing in [0, 1), got {label_smoothing}")
    if logits.ndim != 3 or target.ndim != 2 or logits.shape[:2] != (len(target), target.shape[1] - 1):
        raise ValueError(
            f"expected logits (B, m - 1, V) for a target (B, m), got {tuple(logits.shape)} for {tuple(target.shape)}"
        )
    if not (target[:, 1:] != PAD).any():
        raise ValueError("expected at least one token to be written, got a target of nothing but padding")
    return F.cross_entropy(
        logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD, label_smoothing=label_smoothing
    )


def fit_translation(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    rate: Callable[[int], float],
    steps: int,
    label_smoothing: float = 0.0,
    clip_norm: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-9,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train `model` in place with Adam for `steps` batches; the loss of every step comes back.

    model(source (B, n), source_lengths (B,), target[:, :-1]) -> logits (B, m - 1, V).
    rate: learning rate of step 1, 2, ... steps (`noam_rate`, or any function).
    clip_norm: largest norm of the gradient. betas, eps: Adam's, the defaults from Vaswani et al. 2017, section 5.3.
    on_step(step, loss): called after each step.

    Raises FloatingPointError at the first loss or gradient that is not finite, naming the step, and ValueError when
    there are fewer batches than `steps`.
    """
    if steps < 1 or not clip_norm > 0:
        raise ValueError(f"expected at least one step and clip_norm above 0, got {steps} and {clip_norm}")
    optimizer = torch.optim.Adam(model.parameters(), lr=rate(1), betas=betas, eps=eps)
    model.train()
    losses: list[float] = []
    for step, batch in zip(range(1, steps + 1), batches):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        logits = model(batch.source, batch.source_lengths, batch.target[:, :-1])
        loss = translation_loss(logits, batch.target, label_smoothing=label_smoothing)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of step {step} is {loss.item()}: lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient of step {step} is not finite: lower the learning rate")
        optimizer.step()
        losses.append(loss.item())
        if on_step is not None:
            on_step(step, losses[-1])
    if len(losses) < steps:
        raise ValueError(f"expected {steps} batches, got {len(losses)}")
    return losses


def right_answers(model: nn.Module, batch: Batch) -> Tensor:
    """Which sources get exactly the right answer, EOS included, by greedy search: bool (B,)."""
    wanted = batch.target[:, 1:]
    got = greedy(model, batch.source, batch.source_lengths, max_length=wanted.shape[1]).tokens
    got = F.pad(got, (0, wanted.shape[1] - got.shape[1]), value=PAD)
    return (got == wanted).all(1)


def exact_match(model: nn.Module, batch: Batch) -> float:
    """Share of whole answers that are right (greedy search), in [0, 1]."""
    return right_answers(model, batch).float().mean().item()
