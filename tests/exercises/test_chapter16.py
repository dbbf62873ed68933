"""The checkers of chapter 16 accept right answers and refuse known wrong ones."""

import math

import pytest
import torch
import torch.nn.functional as F

from minirsa.exercises import chapter16
from minirsa.training.schedule import rate


def own_rate(step, steps, peak, warmup, final):
    low = peak * final
    if step < warmup:
        return low + (peak - low) * (step + 1) / warmup
    return low + (peak - low) * (1 + math.cos(math.pi * (step + 1 - warmup) / (steps - warmup))) / 2


def test_the_rate_is_accepted_and_is_the_packages():
    assert "158 steps" in chapter16.check_rate(own_rate)
    assert "schedules" in chapter16.check_rate(
        lambda step, steps, peak, warmup, final: rate(step, steps, peak=peak, warmup=warmup, final_fraction=final)
    )


def from_zero(step, steps, peak, warmup, final):
    """The first step stands still."""
    return own_rate(step, steps, peak, warmup, final) if step >= warmup else peak * step / warmup


def early_cosine(step, steps, peak, warmup, final):
    """One step behind, so that the last step does not reach the final rate."""
    if step < warmup:
        return own_rate(step, steps, peak, warmup, final)
    share = (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
    return peak * (final + (1 - final) * share)


def cosine_over_all(step, steps, peak, warmup, final):
    """The cosine as if there were no warm-up."""
    if step < warmup:
        return own_rate(step, steps, peak, warmup, final)
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * (step + 1) / steps)) / 2)


def half_cosine(step, steps, peak, warmup, final):
    if step < warmup:
        return own_rate(step, steps, peak, warmup, final)
    return peak * (final + (1 - final) * math.cos(math.pi / 2 * (step + 1 - warmup) / (steps - warmup)))


@pytest.mark.parametrize("wrong", [
    from_zero, early_cosine, cosine_over_all, half_cosine,
    lambda step, steps, peak, warmup, final: own_rate(step, steps, peak, warmup, 0.0),
    lambda step, steps, peak, warmup, final: max(own_rate(step, steps, peak, warmup, 0.0), peak * final),
    lambda step, steps, peak, warmup, final: own_rate(step, steps, peak, warmup, final / peak),
    lambda step, steps, peak, warmup, final: own_rate(step, steps, peak, 0, final),
    lambda step, steps, peak, warmup, final: peak * (step + 1) / warmup if step < warmup
    else own_rate(step, steps, peak, warmup, final),
    lambda step, steps, peak, warmup, final: str(own_rate(step, steps, peak, warmup, final)),
    lambda step, steps, peak, warmup, final: math.nan,
])  # fmt: skip
def test_wrong_rates_are_refused(wrong):
    with pytest.raises((AssertionError, ZeroDivisionError), match=r"for step|division"):
        chapter16.check_rate(wrong)


def accumulated(net, clips, labels, sizes, *, share=None, clear=True):
    if clear:
        net.zero_grad()
    for part, own in zip(clips.split(sizes), labels.split(sizes)):
        part_share = share(len(part), sizes) if share else len(part) / len(clips)
        (F.cross_entropy(net(part), own) * part_share).backward()
    return [parameter.grad for parameter in net.parameters()]


def summed(net, clips, labels, sizes):
    net.zero_grad()
    for part, own in zip(clips.split(sizes), labels.split(sizes)):
        (F.cross_entropy(net(part), own, reduction="sum") / len(clips)).backward()
    return [parameter.grad for parameter in net.parameters()]


def by_autograd(net, clips, labels, sizes):
    total = None
    for part, own in zip(clips.split(sizes), labels.split(sizes)):
        found = torch.autograd.grad(F.cross_entropy(net(part), own), list(net.parameters()))
        found = [gradient * len(part) / len(clips) for gradient in found]
        total = found if total is None else [a + b for a, b in zip(total, found)]
    return total


@pytest.mark.parametrize("right", [accumulated, summed, by_autograd])
def test_accumulated_gradients_are_accepted(right):
    assert "one part" in chapter16.check_accumulated_gradient(right)


def last_part_only(net, clips, labels, sizes):
    for part, own in zip(clips.split(sizes), labels.split(sizes)):
        net.zero_grad()
        (F.cross_entropy(net(part), own) / len(sizes)).backward()
    return [parameter.grad for parameter in net.parameters()]


def equal_parts(net, clips, labels, sizes):
    """Cuts the batch anew, as DataLoaders do."""
    return accumulated(net, clips, labels, -(-len(clips) // (len(sizes) - 1 or 1)))


def all_at_once(net, clips, labels, sizes):
    return list(torch.autograd.grad(F.cross_entropy(net(clips), labels), list(net.parameters())))


def one_backward(net, clips, labels, sizes):
    """Every part's graph is kept until the end: nothing is saved."""
    net.zero_grad()
    scores = torch.cat([net(part) for part in clips.split(sizes)])
    F.cross_entropy(scores, labels).backward()
    return [parameter.grad for parameter in net.parameters()]


def with_a_step(net, clips, labels, sizes):
    found = accumulated(net, clips, labels, sizes)
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    return found


@pytest.mark.parametrize(("wrong", "reason"), [
    (one_backward, "parts were kept at once"),
    (with_a_step, "parameters were changed"),
    (lambda net, clips, labels, sizes: accumulated(net, clips, labels, 1), "went through the net"),
    (lambda *given: [g - 1 for g in accumulated(*given, clear=False)], "error"),
    (lambda *given: accumulated(*given, clear=False), "from before counted in"),
    (lambda *given: accumulated(*given, share=lambda own, sizes: 1 / len(sizes)), "counted alike"),
    (lambda *given: accumulated(*given, share=lambda own, sizes: 1 / len(sizes)), "error"),
    (lambda *given: accumulated(*given, share=lambda own, sizes: 1.0), "error"),
    (lambda *given: accumulated(*given, clear=False), "error"),
    (equal_parts, "clips went through"),
    (last_part_only, "error"),
    (all_at_once, "clips went through"),
    (lambda *given: accumulated(*given)[0], "list"),
    (lambda *given: accumulated(*given)[:1], "gradients"),
])  # fmt: skip
def test_wrong_accumulated_gradients_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter16.check_accumulated_gradient(wrong)


def class_accuracy(scores, labels):
    right = scores.argmax(1) == labels
    return sum(right[labels == k].double().mean().item() for k in labels.unique()) / len(labels.unique())


def by_counting(scores, labels):
    seen = labels.bincount(minlength=scores.shape[1])
    right = labels[scores.argmax(1) == labels].bincount(minlength=scores.shape[1])
    return (right[seen > 0] / seen[seen > 0]).mean()


@pytest.mark.parametrize("right", [class_accuracy, by_counting])
def test_class_accuracies_are_accepted(right):
    assert "never occur" in chapter16.check_class_accuracy(right)


def absent_count_as_zero(scores, labels):
    seen = labels.bincount(minlength=scores.shape[1])
    right = labels[scores.argmax(1) == labels].bincount(minlength=scores.shape[1])
    return (right / seen.clamp(min=1)).mean()


def over_predicted(scores, labels):
    """Precision in the place of recall."""
    answers = scores.argmax(1)
    found = [(labels[answers == k] == k).double().mean().item() for k in answers.unique()]
    return sum(found) / len(found)


@pytest.mark.parametrize("wrong", [
    absent_count_as_zero, over_predicted,
    lambda scores, labels: (scores.argmax(1) == labels).double().mean().item(),
    lambda scores, labels: class_accuracy(-scores, labels),
    lambda scores, labels: 100 * class_accuracy(scores, labels),
    lambda scores, labels: math.nan,
    lambda scores, labels: None,
])  # fmt: skip
def test_wrong_class_accuracies_are_refused(wrong):
    with pytest.raises(AssertionError, match=r"for \d+ clips of classes"):
        chapter16.check_class_accuracy(wrong)


def test_the_two_likely_mistakes_are_named():
    with pytest.raises(AssertionError, match="share of all clips"):
        chapter16.check_class_accuracy(lambda scores, labels: (scores.argmax(1) == labels).double().mean())
    with pytest.raises(AssertionError, match="classes without clips"):
        chapter16.check_class_accuracy(absent_count_as_zero)
