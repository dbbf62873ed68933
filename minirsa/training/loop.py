"""The training loop of the book's small nets: AdamW, linear warm-up and cosine, one recipe, one seed.

    recipe, batches -> for every step: loss = cross entropy(model(clips), labels) -> gradient -> step -> losses

A run is its `Recipe` and the data's seed: on one machine the same call gives the same weights. Training sets are
drawn as they are needed (`motion_batches`), so that no clip is seen twice. Book: chapter 13, Training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirsa.data.motion import MotionConfig, MotionSet


@dataclass(frozen=True)
class Recipe:
    """How a small net is trained; every number that a run depends on, in plain Python.

    steps, batch_size: optimiser steps, and clips a step.
    lr, warmup: highest learning rate, reached linearly after this fraction of the steps; a cosine then falls to 0.
    weight_decay: AdamW's, on weights with more than one axis: norms and biases do not decay.
    label_smoothing: share of the target spread over all classes.
    clip_norm: largest norm of the gradient.
    seed: of the training clips (`motion_batches`); the caller seeds the weights.
    """

    steps: int = 300
    batch_size: int = 16
    lr: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    clip_norm: float = 5.0
    seed: int = 0

    def __post_init__(self):
        if not (isinstance(self.steps, int) and isinstance(self.batch_size, int) and isinstance(self.seed, int)):
            raise ValueError(f"expected whole numbers for steps, batch_size and seed, got {self}")
        if self.steps < 1 or self.batch_size < 1 or not 0 < self.lr < math.inf or not self.clip_norm > 0:
            raise ValueError(f"expected steps, batch_size, lr and clip_norm above 0, got {self}")
        if not (0 <= self.warmup < 1 and 0 <= self.label_smoothing <= 1 and 0 <= self.weight_decay < math.inf):
            raise ValueError(f"expected warmup in [0, 1), label_smoothing in [0, 1], weight_decay from 0, got {self}")

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ... steps - 1."""
        warm = self.warmup * self.steps
        if step < warm:
            return self.lr * (step + 1) / math.ceil(warm)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / (self.steps - warm)))


def motion_batches(recipe: Recipe, config: MotionConfig, *, device: str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
    """The training batches of a recipe, drawn from the motion set one after the other: (B, 3, T, H, W), (B,)."""
    clips = MotionSet(recipe.steps * recipe.batch_size, config, seed=recipe.seed, device=device)
    for step in range(recipe.steps):
        yield clips.batch(range(step * recipe.batch_size, (step + 1) * recipe.batch_size))


def fit(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    recipe: Recipe,
    *,
    loss: Callable[[Any, Tensor, Tensor], Tensor] | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train `model` in place on `batches` of (clips, labels); the loss of every step comes back.

    `loss(outputs, labels, clips)`, a mean over the batch, takes the place of cross entropy (distillation needs the
    clips as well, for the teacher). `on_step(step, loss)` is called after each step.

    Raises FloatingPointError at the first loss or gradient that is not finite, naming the step, and ValueError when
    there are fewer batches than `recipe.steps`, or when a recipe with label smoothing, which belongs to cross entropy,
    comes with another loss.
    """
    if loss is not None and recipe.label_smoothing:
        raise ValueError(
            f"expected label_smoothing 0 beside another loss than cross entropy, got {recipe.label_smoothing}"
        )
    smoothing = recipe.label_smoothing
    criterion = loss or (lambda outputs, labels, _: F.cross_entropy(outputs, labels, label_smoothing=smoothing))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
    model.train()
    losses: list[float] = []
    for step, (clips, labels) in zip(range(recipe.steps), batches):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        value = criterion(model(clips), labels, clips)
        if not torch.isfinite(value):
            raise FloatingPointError(f"the loss of step {step} is {value.item()}: lower lr={recipe.lr} or clip_norm")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient of step {step} is not finite: lower lr={recipe.lr} or clip_norm")
        optimizer.step()
        losses.append(value.item())
        if on_step is not None:
            on_step(step, losses[-1])
    if len(losses) < recipe.steps:
        raise ValueError(f"expected {recipe.steps} batches, got {len(losses)}")
    return losses


@torch.no_grad()
def predict_scores(model: nn.Module, clips: Tensor, batch_size: int = 48) -> Tensor:
    """Logits of many clips, in evaluation mode and in parts: (N, 3, T, H, W) -> (N, num_classes).

    Every module is left in the mode (training or evaluation) it came in, also when the model raises.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return torch.cat([model(part) for part in clips.split(batch_size)])
    finally:
        for module, mode in modes:
            module.training = mode


def accuracy(model: nn.Module, clips: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in [0, 1] over clips (N, 3, T, H, W) with labels (N,): one view of each."""
    return (predict_scores(model, clips).argmax(1) == labels).float().mean().item()
