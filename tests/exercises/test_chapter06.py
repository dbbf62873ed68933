"""The checkers of chapter 6 accept right answers and refuse known wrong ones, by name where the mistake has one."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from minirsa.exercises import chapter06
from minirsa.models.deit import soft_distillation, token_distillation

BOOK = Path(__file__).resolve().parents[2] / "book"


@pytest.fixture(scope="module")
def solutions():
    """The functions that the chapter prints as worked solutions."""
    cells = json.loads((BOOK / "06_deit.ipynb").read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    names = {"torch": torch, "F": F}
    for source in re.findall(r"```python\n(.*?)```", prose, re.DOTALL):
        exec(source, names)
    return names


def test_the_chapters_solutions_are_right(solutions):
    chapter06.check_soft_loss(solutions["my_soft_loss"])
    chapter06.check_token_loss(solutions["my_token_loss"])
    chapter06.check_two_heads(solutions["my_two_heads"])


def soft(logits, teacher, labels, weight, tau, *, scale=None, detach=True, reduction="batchmean"):
    teacher = teacher.detach() if detach else teacher
    student = (logits / tau).log_softmax(-1)
    divergence = F.kl_div(student, (teacher / tau).log_softmax(-1), reduction=reduction, log_target=True)
    scale = tau**2 if scale is None else scale
    return (1 - weight) * F.cross_entropy(logits, labels) + weight * scale * divergence


def wrong_direction(logits, teacher, labels, weight, tau):
    student, teacher = ((z / tau).log_softmax(-1) for z in (logits, teacher.detach()))
    divergence = F.kl_div(teacher, student, reduction="batchmean", log_target=True)
    return (1 - weight) * F.cross_entropy(logits, labels) + weight * tau**2 * divergence


def forgotten_logarithm(logits, teacher, labels, weight, tau):
    """kl_div is given probabilities where it expects their logarithms."""
    student, teacher = ((z / tau).softmax(-1) for z in (logits, teacher.detach()))
    divergence = F.kl_div(student, teacher, reduction="batchmean")
    return (1 - weight) * F.cross_entropy(logits, labels) + weight * tau**2 * divergence


def overflowing(logits, teacher, labels, weight, tau):
    student, teacher = ((z / tau).exp() for z in (logits, teacher.detach()))
    student, teacher = (z / z.sum(1, keepdim=True) for z in (student, teacher))
    divergence = (teacher * (teacher / student).log()).sum(1).mean()
    return (1 - weight) * F.cross_entropy(logits, labels) + weight * tau**2 * divergence


def test_soft_loss_is_accepted():
    assert "teacher stays" in chapter06.check_soft_loss(soft)
    chapter06.check_soft_loss(lambda z, t, y, weight, tau: soft_distillation(z, t, y, weight=weight, temperature=tau))
    chapter06.check_soft_loss(
        lambda z, t, y, weight, tau: (
            (1 - weight) * F.cross_entropy(z, y)
            + weight * tau**2 * F.cross_entropy(z / tau, (t.detach() / tau).softmax(1))
            + weight * tau**2 * ((t.detach() / tau).softmax(1) * (t.detach() / tau).log_softmax(1)).sum(1).mean()
        )
    )


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda z, t, y, weight, tau: soft(z, t, y, weight, tau, scale=1), r"tau\^2 is missing"),
    (lambda z, t, y, weight, tau: soft(z, t, y, weight, tau, scale=tau), r"multiplied by tau: it must be tau\^2"),
    (wrong_direction, "wrong direction"),
    (lambda z, t, y, weight, tau: soft(z, t, y, weight, tau, detach=False), "reaches the teacher"),
    (lambda z, t, y, weight, tau: soft(z.detach(), t, y, weight, tau), "do not detach"),
    (lambda z, t, y, weight, tau: soft(z, t, y, 1 - weight, tau), "exchanged"),
    (lambda z, t, y, weight, tau: soft(z, t, y, weight, tau) + weight * F.cross_entropy(z, y), "without 1 - lambda"),
    (lambda z, t, y, weight, tau: soft(z, t, y, weight, tau, scale=tau**2 / z.shape[1]), "averaged over the classes"),
    (lambda z, t, y, weight, tau: len(z) * soft(z, t, y, weight, tau), "batch is summed"),
    (lambda z, t, y, weight, tau: (
        soft(z, t, y, weight, tau) + (1 - weight) * (F.cross_entropy(z / tau, y) - F.cross_entropy(z, y))
    ), "only the divergence has a temperature"),
    (lambda z, t, y, weight, tau: soft(z, t * tau, y, weight, tau), "only the student is softened"),
    (lambda z, t, y, weight, tau: (
        soft(z * tau, t, y, weight, tau) + (1 - weight) * (F.cross_entropy(z, y) - F.cross_entropy(z * tau, y))
    ), "only the teacher is softened"),
    (lambda z, t, y, weight, tau: soft(z, t, y, weight, 1.0), "temperature does nothing"),
    (lambda z, t, y, weight, tau: (
        (1 - weight) * F.cross_entropy(z, y) + weight * tau**2 * F.cross_entropy(z / tau, (t / tau).softmax(1))
    ), "its own entropy"),
    (lambda z, t, y, weight, tau: soft(z, t, y, weight, tau, scale=-(tau**2)), "sign"),
    (forgotten_logarithm, "largest error"),
    (lambda z, t, y, weight, tau: soft(z, t, y, weight, tau, reduction="none").sum(1), "shape"),
    (overflowing, "in the thousands"),
    (lambda z, t, y, weight, tau: soft(z, t, y, weight, tau).item(), "expected a tensor, got float"),
])  # fmt: skip
def test_wrong_soft_losses_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter06.check_soft_loss(wrong)


def token_loss(logits, teacher, first, second, share, *, weight=0.5, heads=(0, 1), choice=lambda t: t.argmax(1)):
    own, taught = (logits[i] for i in heads)
    told = share * F.cross_entropy(own, first) + (1 - share) * F.cross_entropy(own, second)
    return (1 - weight) * told + weight * F.cross_entropy(taught, choice(teacher))


def learns_labels(logits, teacher, first, second, share):
    return sum(share * F.cross_entropy(z, first) + (1 - share) * F.cross_entropy(z, second) for z in logits) / 2


def mixed_module(logits, teacher, first, second, share):
    one, two = (token_distillation(logits, teacher, labels) for labels in (first, second))
    return share * one + (1 - share) * two


def test_token_loss_is_accepted():
    assert "shares" in chapter06.check_token_loss(token_loss)
    chapter06.check_token_loss(mixed_module)


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda z, t, a, b, share: 2 * token_loss(z, t, a, b, share), "each counts one half"),
    (lambda z, t, a, b, share: token_loss(z, t, a, b, share, weight=0), "teacher is missing"),
    (lambda z, t, a, b, share: token_loss(z, t, a, b, share, weight=1), "labels are missing"),
    (lambda z, t, a, b, share: token_loss(z, t, a, b, 1.0), "second label is missing"),
    (lambda z, t, a, b, share: token_loss(z, t, a, b, 0.5), "count equally"),
    (lambda z, t, a, b, share: token_loss(z, t, a, b, 1 - share), "shares are exchanged"),
    (lambda z, t, a, b, share: token_loss(z, t, a, b, share, heads=(1, 0)), "heads are exchanged"),
    (lambda z, t, a, b, share: token_loss(z, t, a, b, share, heads=(0, 0)), "judges the class head"),
    (learns_labels, "learns the labels"),
    (lambda z, t, a, b, share: token_loss(z, t, a, b, share, choice=lambda t: t.softmax(1)), "probabilities"),
    (lambda z, t, a, b, share: token_loss(z, t, a, b, share, choice=lambda t: t.argmin(1)), "smallest logit"),
    (lambda z, t, a, b, share: token_loss(
        z, t, a, b, share, choice=lambda t: t.argmax(0 if len(t) == t.shape[1] else 1)
    ), "over the batch"),
    (lambda z, t, a, b, share: len(a) * token_loss(z, t, a, b, share), "batch is summed"),
    (lambda z, t, a, b, share: token_loss(z, t, a, b, share, weight=0.4), "largest error"),
    (lambda z, t, a, b, share: token_loss(z, t, a, b, share)[None], "shape"),
])  # fmt: skip
def test_wrong_token_losses_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter06.check_token_loss(wrong)


def two_heads(tokens, own, taught, training):
    both = own(tokens[:, 0]), taught(tokens[:, 1])
    return both if training else (both[0] + both[1]) / 2


def test_two_heads_are_accepted():
    assert "mean" in chapter06.check_two_heads(two_heads)


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda x, own, taught, training: two_heads(x, own, taught, False), "tuple of two logits, got Tensor"),
    (lambda x, own, taught, training: two_heads(x, own, taught, True), "expected one tensor, got tuple"),
    (lambda x, own, taught, training: two_heads(x, own, own, training), "a head of its own"),
    (lambda x, own, taught, training: two_heads(x[:, :1].expand(-1, 2, -1), own, taught, training), "reads a token"),
    (lambda x, own, taught, training: two_heads(x[:, -2:], own, taught, training), "first two, not the last"),
    (lambda x, own, taught, training: two_heads(x.flip(1)[:, -2:], own, taught, training), "tokens are exchanged"),
    (lambda x, own, taught, training: (
        two_heads(x, own, taught, True)[::-1] if training else two_heads(x, own, taught, False)
    ), "the order is class logits"),
    (lambda x, own, taught, training: (
        two_heads(x, own, taught, True) if training else 2 * two_heads(x, own, taught, False)
    ), "logits are added"),
    (lambda x, own, taught, training: (
        two_heads(x, own, taught, True) if training
        else (own(x[:, 0]).softmax(1) + taught(x[:, 1]).softmax(1)) / 2
    ), "mean is of the logits"),
    (lambda x, own, taught, training: two_heads(x, own, taught, True) if training else own(x[:, 0]), "only the class"),
    (lambda x, own, taught, training: (
        two_heads(x, own, taught, True) if training else taught(x[:, 1])
    ), "only the distillation"),
    (lambda x, own, taught, training: (
        two_heads(x, own, taught, True) if training else two_heads(x, own, taught, False)[0]
    ), "shape"),
])  # fmt: skip
def test_wrong_two_heads_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter06.check_two_heads(wrong)
