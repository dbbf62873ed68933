"""Chapter 3's checkers: right answers pass, and answers that are wrong in one way each do not."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from minirsa.exercises import chapter03

# The worked solutions, as the chapter prints them.


def smoothed_loss(scores, right, epsilon):
    log_p = scores.log_softmax(-1)  # (N, V)
    of_right = log_p.gather(1, right[:, None])[:, 0]
    return -((1 - epsilon) * of_right + epsilon * log_p.mean(1)).mean()


def decoder_mask(tokens):
    length = tokens.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return causal & (tokens != 0)[:, None, :]


def cached_step(attention, x, keys, values):
    def split(y):  # (B, 1, C) -> (B, heads, 1, d)
        return y.unflatten(-1, (attention.heads, -1)).transpose(1, 2)

    query, key, value = split(attention.query(x)), split(attention.key(x)), split(attention.value(x))
    keys, values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
    weights = (query @ keys.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
    output = (weights @ values).transpose(1, 2).flatten(2)
    return attention.output(output), keys, values


def test_worked_solutions_are_accepted():
    assert "smoothing" in chapter03.check_smoothed_loss(smoothed_loss)
    assert "padding" in chapter03.check_decoder_mask(decoder_mask)
    assert "once" in chapter03.check_cached_step(cached_step)


def test_solutions_as_printed_in_the_chapter_are_accepted():
    book = Path(__file__).resolve().parents[2] / "book" / "03_transformer.ipynb"
    cells = json.loads(book.read_text(encoding="utf-8"))["cells"]
    (exercises,) = ["".join(cell["source"]) for cell in cells if "".join(cell["source"]).count("<summary>Solution") > 1]
    printed = {"torch": torch}
    for block in re.findall(r"```python\n(.*?)```", exercises, re.DOTALL):
        exec(block, printed)
    chapter03.check_smoothed_loss(printed["smoothed_loss"])
    chapter03.check_decoder_mask(printed["decoder_mask"])
    chapter03.check_cached_step(printed["cached_step"])


def test_the_loss_of_torch_is_accepted():
    chapter03.check_smoothed_loss(lambda s, r, e: nn.functional.cross_entropy(s, r, label_smoothing=e))


def over_the_others(scores, right, epsilon):
    log_p = scores.log_softmax(-1)
    of_right = log_p.gather(1, right[:, None])[:, 0]
    others = (log_p.sum(1) - of_right) / (scores.shape[1] - 1)
    return -((1 - epsilon) * of_right + epsilon * others).mean()


@pytest.mark.parametrize("wrong", [
    lambda s, r, e: nn.functional.cross_entropy(s, r),  # no smoothing
    over_the_others,
    lambda s, r, e: smoothed_loss(s, r, 1 - e),
    lambda s, r, e: smoothed_loss(s, r, e) * len(s),  # the sum
    lambda s, r, e: -smoothed_loss(s, r, e),
    lambda s, r, e: smoothed_loss(s, r, e) + e * s.log_softmax(-1).mean() * (1 - s.shape[1]),  # epsilon on every token
    lambda s, r, e: smoothed_loss(s.softmax(-1), r, e),  # softmax twice
    lambda s, r, e: nn.functional.cross_entropy(s, r, label_smoothing=e, reduction="none"),
    lambda s, r, e: float(smoothed_loss(s, r, e)),
])  # fmt: skip
def test_wrong_losses_are_refused(wrong):
    with pytest.raises(AssertionError, match=r"for N = \d+, V = \d+"):
        chapter03.check_smoothed_loss(wrong)


def test_a_loss_that_overflows_is_refused():
    def unstable(scores, right, epsilon):
        q = torch.full_like(scores, epsilon / scores.shape[1])
        q[torch.arange(len(scores)), right] += 1 - epsilon
        return -(q * scores.softmax(-1).log()).sum(1).mean()

    with pytest.raises(AssertionError, match="size 1000"):
        chapter03.check_smoothed_loss(unstable)


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda t: torch.ones(t.shape[1], t.shape[1], dtype=torch.bool).tril().expand(len(t), -1, -1), "must not attend"),
    (lambda t: (t != 0)[:, None].expand(-1, t.shape[1], -1), "must not attend to position"),
    (lambda t: ~decoder_mask(t), "attend"),
    (lambda t: decoder_mask(t).transpose(1, 2), "attend"),
    (lambda t: decoder_mask(t).tril(-1), "may attend"),
    (lambda t: decoder_mask(t) & (t != 0)[:, :, None], "may attend"),
    (lambda t: decoder_mask(t) | torch.eye(t.shape[1], dtype=torch.bool), "must not attend"),
    (lambda t: decoder_mask(t).float(), "torch.bool"),
    (lambda t: decoder_mask(t)[:, None], "expected shape"),
    (lambda t: decoder_mask(t[:1]), "expected shape"),
])  # fmt: skip
def test_wrong_masks_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter03.check_decoder_mask(wrong)


def variant(
    *, scale=None, axis=-1, keep_keys=True, keep_values=True, front=False, output=True, joined=False, old=False
):
    def step(attention, x, keys, values):
        def split(y):
            y = y.unflatten(-1, (-1, attention.heads) if joined else (attention.heads, -1))
            return y.permute(0, 3, 1, 2) if joined else y.transpose(1, 2)

        query, key, value = split(attention.query(x)), split(attention.key(x)), split(attention.value(x))
        all_keys = torch.cat([key, keys] if front else [keys, key], 2)
        all_values = torch.cat([value, values] if front else [values, value], 2)
        divisor = {None: query.shape[-1] ** 0.5, "one": 1.0, "d": query.shape[-1], "C": attention.width**0.5}[scale]
        seen = (keys, values) if old and keys.shape[2] else (all_keys, all_values)
        weights = (query @ seen[0].transpose(2, 3) / divisor).softmax(axis)
        mixed = (weights @ seen[1]).transpose(1, 2).flatten(2)
        mixed = attention.output(mixed) if output else mixed
        return mixed, all_keys if keep_keys else key, all_values if keep_values else value

    return step


@pytest.mark.parametrize("wrong", [
    variant(scale="one"), variant(scale="d"), variant(scale="C"), variant(axis=1), variant(keep_keys=False),
    variant(keep_values=False), variant(front=True), variant(output=False), variant(joined=True), variant(old=True),
    lambda attention, x, keys, values: cached_step(attention, x, keys, values)[0],
])  # fmt: skip
def test_wrong_steps_are_refused(wrong):
    with pytest.raises(AssertionError, match="at step"):
        chapter03.check_cached_step(wrong)


def test_the_variants_differ_by_their_mistake_alone():
    chapter03.check_cached_step(variant())


def test_using_the_layer_itself_or_projecting_twice_is_refused():
    def with_forward(attention, x, keys, values):
        attention(x)
        return cached_step(attention, x, keys, values)

    def twice(attention, x, keys, values):
        attention.key(x)
        return cached_step(attention, x, keys, values)

    with pytest.raises(AssertionError, match="own forward"):
        chapter03.check_cached_step(with_forward)
    with pytest.raises(AssertionError, match="`key` saw 2 tokens"):
        chapter03.check_cached_step(twice)
