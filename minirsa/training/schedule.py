"""What the release's training does to the learning rate, and which parameters decay.

    epoch        0       1       2       3       4       5    ...    79
    rate      .00402  .00801  .01201  .01600  .02000  .01999        .00002     (lr 0.02, 80 epochs)
              `------ linear, 5 epochs ------'`--- cosine, to 1/1000 of the highest ---'

The rate is set once an epoch and reaches its ends exactly: the highest in the last epoch of the warm-up, the lowest in
the last of all. With n steps (epochs, or optimiser steps), w of them warm-up, f the final fraction and p = peak rate:

    rate(i) = p (f + (1 - f) (i + 1) / w)                               i < w
    rate(i) = p f + p (1 - f) (1 + cos(pi (i + 1 - w) / (n - w))) / 2   otherwise

Kim et al. 2021, the training logs of the public release; the cosine is Loshchilov and Hutter's (2017). `published_run`
gives those logs epoch by epoch. Book: chapter 16, The learning rate.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from minirsa.training.recipes import TrainingRecipe, unknown

REFERENCE = Path(__file__).parent / "reference"
PUBLISHED_RUNS = {"ssv1-16f": "rsanet_r50_ssv1_16f.csv", "ssv2-16f": "rsanet_r50_ssv2_16f.csv"}
"""{preset: file in `REFERENCE`} of the runs whose logs the authors published."""


def rate(step: int, steps: int, *, peak: float, warmup: int, final_fraction: float) -> float:
    """The rate of step 0, 1, ... steps - 1, as the module's docstring has it. Raises ValueError for another step."""
    if not 0 <= step < steps:
        raise ValueError(f"expected a step from 0 to {steps - 1}, got {step}")
    low = peak * final_fraction
    if step < warmup:
        return low + (peak - low) * (step + 1) / warmup
    progress = (step + 1 - warmup) / (steps - warmup)
    return low + (peak - low) * (1 + math.cos(math.pi * progress)) / 2


def learning_rate(recipe: TrainingRecipe, epoch: int, step: int = 0, steps: int = 1) -> float:
    """The rate of a recipe at step 0, 1, ... steps - 1 of epoch 0, 1, ... epochs - 1.

    With `stepped_by="epoch"` all steps of an epoch have one rate; with "step" it changes at each.
    """
    options = {"peak": recipe.peak_lr, "final_fraction": recipe.final_lr_fraction}
    if recipe.stepped_by == "epoch":
        return rate(epoch, recipe.epochs, warmup=recipe.warmup_epochs, **options)
    return rate(epoch * steps + step, recipe.epochs * steps, warmup=recipe.warmup_epochs * steps, **options)


def learning_rates(recipe: TrainingRecipe) -> list[float]:
    """The rate of every epoch (with `stepped_by="step"`: the rate that a single step an epoch would have)."""
    return [learning_rate(recipe, epoch) for epoch in range(recipe.epochs)]


def parameter_groups(model: nn.Module, recipe: TrainingRecipe) -> list[dict[str, object]]:
    """Three groups for an optimiser, empty ones left out; every trained parameter is in exactly one.

    weights: decay by `recipe.weight_decay`; those of relational layers (P1 and I too) as well, as in the release.
    norms and biases: do not decay.
    classifier bias: does not decay, and its rate is twice the others': the bias of `model.classifier`. The release does
        this to the bias of any convolution or linear layer; in these nets no other layer has one.

    Each group has "name", "params", "weight_decay" and "lr_scale", which the rate of every step is multiplied by.
    Raises ValueError for a model without parameters that are trained.
    """
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    weights, others, classifier = [], [], []
    head = getattr(model, "classifier", None)
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if module is head and name == "bias":
                classifier.append(parameter)
            elif isinstance(module, norms) or parameter.ndim <= 1:
                others.append(parameter)
            else:
                weights.append(parameter)
    if not seen:
        raise ValueError(f"expected a model with parameters to train, got {type(model).__name__} without any")
    groups = [
        {"name": "weights", "params": weights, "weight_decay": recipe.weight_decay, "lr_scale": 1.0},
        {"name": "norms and biases", "params": others, "weight_decay": 0.0, "lr_scale": 1.0},
        {"name": "classifier bias", "params": classifier, "weight_decay": 0.0, "lr_scale": 2.0},
    ]
    return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class PublishedEpoch:
    """One epoch of a published run, as logged; accuracies in percent, None where the epoch was not validated."""

    epoch: int
    lr: float
    train_loss: float
    train_top1: float
    train_top5: float
    train_clips_per_s: float
    val_loss: float | None
    val_top1: float | None
    val_top5: float | None
    val_class_accuracy: float | None


def published_run(name: str) -> tuple[PublishedEpoch, ...]:
    """The 80 epochs of RSANet-R50 with 16 frames on Something-Something: "ssv1-16f" or "ssv2-16f".

    Read from the training logs of the public release (KimManjin/RSA): eight GPUs of 32 GB, batch 64. Raises ValueError
    for another name.
    """
    if name not in PUBLISHED_RUNS:
        raise ValueError(unknown(name, PUBLISHED_RUNS, "published run"))
    with open(REFERENCE / PUBLISHED_RUNS[name], newline="", encoding="utf-8") as file:
        rows = [{key: float(value) if value else None for key, value in row.items()} for row in csv.DictReader(file)]
    return tuple(PublishedEpoch(**row | {"epoch": int(row["epoch"])}) for row in rows)
