"""Checkers for the exercises of "Training RSANet-R50".

Each takes the reader's function, tries it on several inputs, and compares it with the equations. It returns a sentence
that says what was checked, or raises AssertionError that says what is wrong and on which input; what the function
itself raises comes through.

Book: chapter 16, "Exercises".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirsa.exercises.judging import compare, random_tensors

__all__ = ["check_accumulated_gradient", "check_class_accuracy", "check_rate"]


def check_rate(function: Callable[[int, int, float, int, float], float]) -> str:
    """Judge the learning rate of equation 16.2: (step, steps, peak, warmup, final fraction) -> rate.

    Warm-up of 0 steps and a final fraction of 0 or 1 are among the inputs.
    """
    settings = [(80, 0.02, 5, 1e-3), (50, 0.3, 4, 0.01), (12, 1.0, 0, 0.0), (7, 0.5, 6, 0.25), (9, 0.1, 3, 1.0)]
    count = 0
    for steps, peak, warmup, final in settings:
        for step in range(steps):
            if step < warmup:
                share = (step + 1) / warmup
            else:
                share = (1 + math.cos(math.pi * (step + 1 - warmup) / (steps - warmup))) / 2
            expected = peak * (final + (1 - final) * share)
            got = function(step, steps, peak, warmup, final)
            where = f"for step {step} of {steps}, peak {peak}, warm-up {warmup}, final fraction {final}"
            assert isinstance(got, (int, float)), f"{where} expected a number, got {type(got).__name__}"
            assert math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-12), f"{where} expected {expected}, got {got}"
            count += 1
    return f"Right for {count} steps of {len(settings)} schedules, with and without warm-up."


class _Watched(nn.Module):
    """A net without batch norm that remembers how many clips came through at once, and how many parts it kept."""

    def __init__(self, seed: int):
        super().__init__()
        first, second = random_tensors(seed, (5, 6), (3, 5))
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)
        self.seen: list[int] = []
        self.kept = self.most_kept = 0

    def forward(self, clips: Tensor) -> Tensor:
        self.seen.append(len(clips))
        scores = (clips @ self.first.T).tanh() @ self.second.T
        if scores.requires_grad:
            self.kept += 1
            self.most_kept = max(self.most_kept, self.kept)
            scores.register_hook(self._done)
        return scores

    def _done(self, gradient: Tensor) -> None:
        self.kept -= 1


def check_accumulated_gradient(
    function: Callable[[nn.Module, Tensor, Tensor, Sequence[int]], list[Tensor]],
) -> str:
    """Judge gradients of a batch's mean cross entropy, part by part: net, clips (B, ...), labels (B,), sizes -> list.

    sizes: clips of each part, in order, not all equal; they sum up to B. A gradient for each parameter, in the order of
    `net.parameters()`. Every part goes through the net alone and backwards before the next, gradients that the
    parameters hold from before must not count, and the parameters stay as they are.
    """
    cases = ([4, 4], [5, 2, 1], [1, 1, 6], [8], [3, 5])
    for seed, sizes in enumerate(cases):
        net = _Watched(seed)
        (clips,) = random_tensors(100 + seed, (sum(sizes), 6))
        labels = torch.arange(sum(sizes)) * (seed + 2) % 3
        parameters = list(net.parameters())
        expected = torch.autograd.grad(F.cross_entropy(net(clips), labels), parameters)
        parts = [(clips[i : i + 1], labels[i : i + 1]) for i in range(len(labels))]
        of_clip = [torch.autograd.grad(F.cross_entropy(net(clip), label), parameters) for clip, label in parts]
        shares = torch.tensor([1 / (size * len(sizes)) for size in sizes for _ in range(size)], dtype=clips.dtype)
        alike = [sum(share * own for share, own in zip(shares, grads)) for grads in zip(*of_clip)]
        old = random_tensors(200 + seed, *(tuple(parameter.shape) for parameter in parameters))
        for parameter, gradient in zip(parameters, old):
            parameter.grad = gradient.clone()
        before = [parameter.detach().clone() for parameter in parameters]
        net.seen.clear()
        net.kept = net.most_kept = 0
        got = function(net, clips.clone(), labels.clone(), list(sizes))
        where = f"for parts of {sizes} clips"
        assert isinstance(got, (list, tuple)), f"{where} expected a list of gradients, got {type(got).__name__}"
        assert len(got) == len(expected), f"{where} expected {len(expected)} gradients, got {len(got)}"
        for own, right, equal, held in zip(got, expected, alike, old):
            hint = ""
            if _like(own, right + held):
                hint = ", with the gradients from before counted in,"
            elif not torch.allclose(equal, right) and _like(own, equal):
                hint = ", with every part counted alike, whatever its size,"
            compare(own, right, where + hint)
        most = max(net.seen, default=0)
        assert most <= max(sizes), f"{where} {most} clips went through the net at once, {max(sizes)} are allowed"
        assert net.seen == sizes, f"{where} parts of {net.seen} clips went through the net"
        assert net.most_kept == 1, f"{where} {net.most_kept} parts were kept at once: go backwards after each of them"
        unchanged = all(torch.equal(parameter, value) for parameter, value in zip(parameters, before))
        assert unchanged, f"{where} the parameters were changed: only their gradients are asked for"
    return f"Right for {len(cases)} ways to cut a batch, and never more than one part was in the net."


def _like(own: object, other: Tensor) -> bool:
    return isinstance(own, Tensor) and own.shape == other.shape and torch.allclose(own, other)


def check_class_accuracy(function: Callable[[Tensor, Tensor], float]) -> str:
    """Judge the mean of the classes' accuracies: scores (N, K), labels (N,) -> a number in [0, 1].

    Only classes that some label names count.
    """
    cases = [(12, 3, [0, 1, 2]), (20, 5, [0, 3]), (7, 4, [2]), (30, 6, [0, 1, 1, 1, 1, 5])]
    for seed, (count, classes, used) in enumerate(cases):
        (scores,) = random_tensors(seed, (count, classes))
        labels = torch.tensor([used[i % len(used)] for i in range(count)])
        scores[torch.arange(0, count, 3), labels[::3]] += 3.0  # some are right for certain
        right = {k: [] for k in labels.tolist()}
        for label, row in zip(labels.tolist(), scores):
            right[label].append(float(row.argmax() == label))
        means = [sum(of) / len(of) for of in right.values()]
        expected = sum(means) / len(right)
        known = {
            ": that is the share of all clips": sum(map(sum, right.values())) / count,
            ": that counts classes without clips, too": sum(means) / classes,
        }
        got = function(scores.clone(), labels.clone())
        where = f"for {count} clips of classes {sorted(right)} out of {classes}"
        assert isinstance(got, (int, float, Tensor)), f"{where} expected a number, got {type(got).__name__}"
        hint = next((text for text, value in known.items() if math.isclose(float(got), value, abs_tol=1e-6)), "")
        assert math.isclose(float(got), expected, abs_tol=1e-6), (
            f"{where} expected {expected:.4f}, got {float(got):.4f}{hint}"
        )
    return f"Right for {len(cases)} sets of clips, classes that never occur among them."
