"""Chapter 3's checkers: right answers pass, and answers that are wrong in one way each do not."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from minirsa.exercises import chapter03
from minirsa.layers.positions import sinusoidal_positions

# The worked solutions, as the chapter prints them.


def positions(length, width):
    rate = 10000.0 ** (-torch.arange(0, width, 2) / width)  # (C / 2,)
    angle = torch.arange(length)[:, None] * rate  # (n, C / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


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
    assert "16 channels" in chapter03.check_sinusoidal_positions(positions)
    assert "padding" in chapter03.check_decoder_mask(decoder_mask)
    assert "once" in chapter03.check_cached_step(cached_step)


def test_solutions_as_printed_in_the_chapter_are_accepted():
    book = Path(__file__).resolve().parents[2] / "book" / "03_transformer.ipynb"
    cells = json.loads(book.read_text(encoding="utf-8"))["cells"]
    (exercises,) = ["".join(cell["source"]) for cell in cells if "".join(cell["source"]).count("<summary>Solution") > 1]
    printed = {"torch": torch}
    for block in re.findall(r"```python\n(.*?)```", exercises, re.DOTALL):
        exec(block, printed)
    chapter03.check_sinusoidal_positions(printed["positions"])
    chapter03.check_decoder_mask(printed["decoder_mask"])
    chapter03.check_cached_step(printed["cached_step"])


def test_the_package_is_accepted():
    chapter03.check_sinusoidal_positions(sinusoidal_positions)


@pytest.mark.parametrize("wrong", [
    lambda n, C: positions(n + 1, C)[1:],  # counts from one
    lambda n, C: torch.cat([positions(n, C)[:, 0::2], positions(n, C)[:, 1::2]], 1),  # sines first, then cosines
    lambda n, C: positions(n, C).unflatten(1, (-1, 2)).flip(2).flatten(1),  # cosines at the even channels
    lambda n, C: torch.stack([a := torch.arange(n)[:, None] * 10000.0 ** (-torch.arange(C // 2) / C), a + math.pi / 2],
                             -1).sin().flatten(1),  # i / C in place of 2i / C
    lambda n, C: torch.stack([a := torch.arange(n)[:, None] * 1000.0 ** (-torch.arange(0, C, 2) / C), a + math.pi / 2],
                             -1).sin().flatten(1),  # another base
    lambda n, C: positions(n, C).T,
    lambda n, C: positions(n, C)[None],
    lambda n, C: positions(n, C).tolist(),
])  # fmt: skip
def test_wrong_positions_are_refused(wrong):
    with pytest.raises(AssertionError, match=r"for n = \d+, C = \d+"):
        chapter03.check_sinusoidal_positions(wrong)


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
