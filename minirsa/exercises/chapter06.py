"""Checkers for the exercises of "DeiT: distillation through attention".

Each takes the reader's function, tries it on random float64 inputs of several sizes, and compares it with loops
written from the equations. It returns a sentence that says what was checked, or raises AssertionError that says what
is wrong and on which input, and names the mistake where it knows it; what the function itself raises comes through.

Book: chapter 6, "Exercises".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from minirsa.exercises.judging import compare, random_tensors

__all__ = ["check_soft_loss", "check_token_loss", "check_two_heads"]

SIZES = ((4, 3), (3, 3), (5, 8), (3, 20), (1, 2))  # B, K


def check_soft_loss(function: Callable[[Tensor, Tensor, Tensor, float, float], Tensor]) -> str:
    """Judge equation 6.1: logits (B, K), the teacher's (B, K), labels (B,), lambda, tau -> scalar, mean over B.

    The divergence runs from the teacher's distribution to the student's, sum of p_t log(p_t / p_s), and the teacher
    gets no gradient. One input has logits in the thousands, where exp alone overflows.
    """
    settings = ((0.1, 2.5), (0.5, 2.0), (0.25, 1.5), (0.3, 0.5), (0.9, 4.0))  # lambda, tau
    for seed, ((batch, classes), (weight, tau)) in enumerate(zip(SIZES, settings)):
        logits, teacher, labels = _problem(seed, batch, classes)
        where = f"for B = {batch}, K = {classes}, lambda = {weight}, tau = {tau}"
        own = _cross_entropy(logits, labels)
        divergence = _divergence(teacher / tau, logits / tau)

        def total(taught: Tensor, share: float = weight, own: Tensor = own) -> Tensor:
            return (1 - share) * own + share * taught

        mistakes = {
            "tau^2 is missing in front of the divergence": total(divergence),
            "the divergence is multiplied by tau: it must be tau^2": total(tau * divergence),
            "the divergence has the wrong direction: it is p_t log(p_t / p_s), summed": total(
                tau**2 * _divergence(logits / tau, teacher / tau)
            ),
            "lambda and 1 - lambda are exchanged": total(tau**2 * divergence, 1 - weight),
            "the label's part stands without 1 - lambda": own + weight * tau**2 * divergence,
            "the divergence is averaged over the classes too: it is a sum over them": total(
                tau**2 * divergence / classes
            ),
            "the batch is summed: it must be a mean": batch * total(tau**2 * divergence),
            "the label's part uses logits / tau: only the divergence has a temperature": total(
                tau**2 * divergence, own=_cross_entropy(logits / tau, labels)
            ),
            "only the student is softened: both logits are divided by tau": total(
                tau**2 * _divergence(teacher, logits / tau)
            ),
            "only the teacher is softened: both logits are divided by tau": total(
                tau**2 * _divergence(teacher / tau, logits)
            ),
            "the temperature does nothing": total(_divergence(teacher, logits)),
            "this is the cross entropy to the teacher, its own entropy included": total(
                tau**2 * (divergence + _entropy(teacher / tau))
            ),
            "the sign of the divergence is wrong": total(-(tau**2) * divergence),
        }
        learner, expert = logits.clone().requires_grad_(), teacher.clone().requires_grad_()
        got = function(learner, expert, labels.clone(), weight, tau)
        _judge(got, total(tau**2 * divergence), where, mistakes)
        assert got.requires_grad, f"{where} no gradient reaches the student: do not detach its logits"
        _, reached = torch.autograd.grad(got, (learner, expert), allow_unused=True)
        assert reached is None or not reached.any(), f"{where} a gradient reaches the teacher: detach its logits"
    logits, teacher, labels = _problem(99, 3, 4)
    got = function(1e3 * logits, 1e3 * teacher, labels.clone(), 0.5, 2.0)
    expected = (_cross_entropy(1e3 * logits, labels) + 4 * _divergence(500 * teacher, 500 * logits)) / 2
    compare(got, expected, "with logits in the thousands")
    return f"Right for {len(SIZES)} sizes and temperatures, and for large logits; the teacher stays as it is."


def check_token_loss(function: Callable[[tuple[Tensor, Tensor], Tensor, Tensor, Tensor, float], Tensor]) -> str:
    """Judge equation 6.4 for mixed images: (class, distillation) logits (B, K) each, the teacher's (B, K), labels.

    `first` and `second` (B,) are the labels of the two images in each mixture, `share` is that of the first. The class
    head learns both labels by their shares, the distillation head the teacher's one decision; scalar, mean over B.
    """
    for seed, ((batch, classes), share) in enumerate(zip(SIZES, (0.8, 0.5, 0.3, 0.65, 1.0))):
        own, teacher, first = _problem(seed + 20, batch, classes)
        taught, _, second = _problem(seed + 40, batch, classes)
        decision = torch.tensor([max(range(classes), key=row.tolist().__getitem__) for row in teacher])
        where = f"for B = {batch}, K = {classes}, share = {share}"

        def labelled(logits: Tensor, share: float = share, first: Tensor = first, second: Tensor = second) -> Tensor:
            return share * _cross_entropy(logits, first) + (1 - share) * _cross_entropy(logits, second)

        told, decided = labelled(own), _cross_entropy(taught, decision)
        mistakes = {
            "the two parts are added: each counts one half": told + decided,
            "the teacher is missing": told,
            "the labels are missing": decided,
            "the second label is missing": (_cross_entropy(own, first) + decided) / 2,
            "the labels count equally: the first has the share, the second the rest": (labelled(own, 0.5) + decided)
            / 2,
            "the shares are exchanged: the share is the first label's": (labelled(own, 1 - share) + decided) / 2,
            "the heads are exchanged: the class logits come first": (labelled(taught) + _cross_entropy(own, decision))
            / 2,
            "the teacher judges the class head: it must judge the distillation head": (
                told + _cross_entropy(own, decision)
            )
            / 2,
            "the distillation head learns the labels: it must learn the teacher's decision": (told + labelled(taught))
            / 2,
            "this keeps the teacher's probabilities: its decision is the class with the largest logit": (
                told + _divergence(teacher, taught) + _entropy(teacher)
            )
            / 2,
            "the teacher's smallest logit was taken": (told + _cross_entropy(taught, teacher.argmin(1))) / 2,
            "the batch is summed: it must be a mean": batch * (told + decided) / 2,
        }
        if batch == classes:
            across = (told + _cross_entropy(taught, teacher.argmax(0))) / 2
            mistakes["argmax runs over the batch: it must run over the classes"] = across
        got = function((own.clone(), taught.clone()), teacher.clone(), first.clone(), second.clone(), share)
        _judge(got, (told + decided) / 2, where, mistakes)
    return f"Right for {len(SIZES)} sizes and shares."


def check_two_heads(function: Callable[..., Tensor | tuple[Tensor, Tensor]]) -> str:
    """Judge the output of the distilled model: tokens (B, 2 + N, D), two nn.Linear(D, K), training -> logits.

    Class token first, distillation token second, patches behind. In training the two logits (B, K), in that order, as
    a tuple; otherwise their mean.
    """
    sizes = ((3, 4, 6, 5), (2, 16, 8, 2), (1, 1, 2, 3))  # B, N, D, K
    for seed, (batch, patches, width, classes) in enumerate(sizes):
        tokens, *parameters = random_tensors(
            seed, (batch, 2 + patches, width), (classes, width), (classes,), (classes, width), (classes,)
        )
        heads = _heads(parameters)
        where = f"for B = {batch}, N = {patches}, D = {width}, K = {classes}"
        own, taught = (
            tokens[:, i] @ weight.T + bias for i, (weight, bias) in enumerate((parameters[:2], parameters[2:]))
        )
        got = function(tokens.clone(), *heads, True)
        assert isinstance(got, tuple), f"{where} in training expected a tuple of two logits, got {type(got).__name__}"
        assert len(got) == 2, f"{where} in training expected two logits, got {len(got)}"
        mistakes = {
            "the order is class logits, distillation logits": [taught, own],
            "the tokens are the first two, not the last": [heads[i](tokens[:, i - 2]) for i in (0, 1)],
            "the tokens are exchanged: the class token stands first": [heads[i](tokens[:, 1 - i]) for i in (0, 1)],
            "each token has a head of its own": [heads[0](tokens[:, i]) for i in (0, 1)],
            "each head reads a token of its own": [heads[i](tokens[:, 0]) for i in (0, 1)],
        }
        mistakes = {reason: torch.stack(wrong) for reason, wrong in mistakes.items()}
        _judge(torch.stack(got), torch.stack([own, taught]), f"{where}, in training,", mistakes)
        mistakes = {
            "the logits are added: it must be their mean": own + taught,
            "the mean is of the logits, as in the published code, not of the probabilities": (
                own.softmax(1) + taught.softmax(1)
            )
            / 2,
            "only the class head answers": own,
            "only the distillation head answers": taught,
        }
        got = function(tokens.clone(), *heads, False)
        assert isinstance(got, Tensor), f"{where} in evaluation expected one tensor, got {type(got).__name__}"
        _judge(got, (own + taught) / 2, f"{where}, in evaluation,", mistakes)
    return f"Right for {len(sizes)} sizes: two logits in training, their mean in evaluation."


def _problem(seed: int, batch: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a student and a teacher (B, K), and labels (B,)."""
    logits, teacher, draws = random_tensors(seed, (batch, classes), (batch, classes), (batch, classes))
    return 2 * logits, 2 * teacher, draws.argmax(1)


def _log_probabilities(row: Tensor) -> list[float]:
    """The softmax's logarithms for one image, without overflow."""
    top = max(row.tolist())
    total = math.fsum(math.exp(z - top) for z in row.tolist())
    return [z - top - math.log(total) for z in row.tolist()]


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log p(label), image by image."""
    losses = [-_log_probabilities(row)[label] for row, label in zip(logits, labels.tolist())]
    return torch.tensor(math.fsum(losses) / len(losses), dtype=torch.float64)


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """Mean of sum p log(p / q) with p, q the softmax of the two logits, class by class."""
    losses = []
    for row, other in zip(first, second):
        p, q = _log_probabilities(row), _log_probabilities(other)
        losses.append(math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q)))
    return torch.tensor(math.fsum(losses) / len(losses), dtype=torch.float64)


def _entropy(logits: Tensor) -> Tensor:
    """Mean of -sum p log p."""
    losses = [-math.fsum(math.exp(a) * a for a in _log_probabilities(row)) for row in logits]
    return torch.tensor(math.fsum(losses) / len(losses), dtype=torch.float64)


def _heads(parameters: list[Tensor]) -> list[nn.Linear]:
    """Two linear heads from (weight, bias, weight, bias)."""
    heads = []
    for weight, bias in (parameters[:2], parameters[2:]):
        head = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        head.load_state_dict({"weight": weight, "bias": bias})
        heads.append(head)
    return heads


def _judge(got: object, right: Tensor, where: str, mistakes: Mapping[str, Tensor]) -> None:
    """`compare`, but an answer that a known mistake gives is told so."""
    if isinstance(got, Tensor) and got.shape == right.shape and not torch.allclose(got, right, 1e-9, 1e-9):
        for reason, wrong in mistakes.items():
            same = got.shape == wrong.shape and torch.allclose(got, wrong, 1e-9, 1e-9)
            assert not same, f"{where} {reason}"
    compare(got, right, where)
