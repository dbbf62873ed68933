"""The checkers of chapter 4 accept right answers and refuse known wrong ones."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from minirsa.exercises import chapter04

CHAPTER = Path(__file__).resolve().parents[2] / "book" / "04_layer_norm.ipynb"


@pytest.mark.parametrize("name", ["layer_norm", "decoder_layer", "learning_rate"])
def test_the_chapters_solutions_are_accepted(name):
    """The function as it stands under "Solution" on the page."""
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    exercises = prose[prose.index("## Exercises") :]
    (source,) = [code for code in re.findall(r"```python\n(.*?)```", exercises, re.DOTALL) if f"def {name}(" in code]
    functions = {"math": math}
    exec(source, functions)
    assert getattr(chapter04, f"check_{name}")(functions[name]).startswith("Right")


def layer_norm(x, scale, shift, eps):
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return scale * centred / (variance + eps).sqrt() + shift


def test_layer_norm_is_accepted():
    assert "shapes" in chapter04.check_layer_norm(layer_norm)
    chapter04.check_layer_norm(lambda x, scale, shift, eps: F.layer_norm(x, x.shape[-1:], scale, shift, eps))


def centred(x, axis=-1):
    return x - x.mean(axis, keepdim=True)


@pytest.mark.parametrize("wrong", [
    lambda x, scale, shift, eps: scale * centred(x) / (x.var(-1, keepdim=True) + eps).sqrt() + shift,
    lambda x, scale, shift, eps: scale * centred(x) / (x.std(-1, correction=0, keepdim=True) + eps) + shift,
    lambda x, scale, shift, eps: scale * centred(x) / x.std(-1, correction=0, keepdim=True) + shift,
    lambda x, scale, shift, eps: scale * x / (x.var(-1, correction=0, keepdim=True) + eps).sqrt() + shift,
    lambda x, scale, shift, eps: scale * x / (x.square().mean(-1, keepdim=True) + eps).sqrt() + shift,
    lambda x, scale, shift, eps: layer_norm(x, torch.ones_like(scale), torch.zeros_like(shift), eps),
    lambda x, scale, shift, eps: scale * (layer_norm(x, torch.ones_like(scale), shift, eps)),
    lambda x, scale, shift, eps: scale * centred(x, 0) / (x.var(0, correction=0, keepdim=True) + eps).sqrt() + shift,
    lambda x, scale, shift, eps: F.layer_norm(x, x.shape, None, None, eps) * scale + shift,
    lambda x, scale, shift, eps: scale * centred(x) / (x.var(-1, correction=0, keepdim=True) + eps**2).sqrt() + shift,
    lambda x, scale, shift, eps: layer_norm(x, scale, shift, eps)[None],
])  # fmt: skip
def test_wrong_layer_norms_are_refused(wrong):
    with pytest.raises(AssertionError, match="for x of shape"):
        chapter04.check_layer_norm(wrong)


def sublayers(memory, self_attention, cross_attention, feed_forward):
    return self_attention, lambda x: cross_attention(x, memory), feed_forward


def decoder_layer(x, memory, self_attention, cross_attention, feed_forward, norms, order):
    parts = sublayers(memory, self_attention, cross_attention, feed_forward)
    for sublayer, norm in zip(parts, norms):
        x = norm(x + sublayer(x)) if order == "post" else x + sublayer(norm(x))
    return x


def test_both_orders_are_accepted():
    assert "both orders" in chapter04.check_decoder_layer(decoder_layer)


def normed_residual(x, *others):
    *parts, norms, order = others
    for sublayer, norm in zip(sublayers(*parts), norms):
        x = norm(x + sublayer(x)) if order == "post" else norm(x) + sublayer(norm(x))
    return x


def norm_of_the_branch(x, *others):
    *parts, norms, order = others
    for sublayer, norm in zip(sublayers(*parts), norms):
        x = x + norm(sublayer(x)) if order == "post" else x + sublayer(norm(x))
    return x


def no_residual(x, *others):
    *parts, norms, order = others
    for sublayer, norm in zip(sublayers(*parts), norms):
        x = norm(sublayer(x)) if order == "post" else sublayer(norm(x))
    return x


def side_by_side(x, *others):
    *parts, norms, order = others
    if order == "post":
        return decoder_layer(x, *others)
    return x + sum(sublayer(norm(x)) for sublayer, norm in zip(sublayers(*parts), norms))


def pre_with_last_norm(x, *others):
    *_, norms, order = others
    out = decoder_layer(x, *others)
    return norms[-1](out) if order == "pre" else out


def normed_memory(x, memory, *others):
    *_, norms, order = others
    return decoder_layer(x, norms[1](memory) if order == "pre" else memory, *others)


def no_cross_attention(x, memory, self_attention, cross_attention, feed_forward, norms, order):
    return decoder_layer(x, memory, self_attention, lambda x, memory: 0 * x, feed_forward, norms, order)


def cross_attention_to_itself(x, memory, self_attention, cross_attention, feed_forward, norms, order):
    both = F.pad(x, (0, 0, 0, memory.shape[1] - x.shape[1]))
    return decoder_layer(x, both, self_attention, cross_attention, feed_forward, norms, order)


def with_norms(choose):
    return lambda *given: decoder_layer(*given[:-2], choose(given[-2]), given[-1])


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda *given: decoder_layer(*given[:-1], "post"), "gave the post-LN layer"),
    (lambda *given: decoder_layer(*given[:-1], "pre"), "gave the pre-LN layer"),
    (lambda *given: decoder_layer(*given[:-1], {"pre": "post", "post": "pre"}[given[-1]]), "gave the pre-LN layer"),
    (normed_residual, 'order "pre"'),
    (norm_of_the_branch, 'order "post"'),
    (no_residual, 'order "post"'),
    (side_by_side, 'order "pre"'),
    (pre_with_last_norm, 'order "pre"'),
    (normed_memory, 'order "pre"'),
    (no_cross_attention, 'order "post"'),
    (cross_attention_to_itself, 'order "post"'),
    (with_norms(lambda norms: [norms[0], norms[0], norms[0]]), "order"),
    (with_norms(lambda norms: norms[::-1]), "order"),
    (lambda x, m, a, c, f, norms, order: decoder_layer(x, m, f, c, a, norms, order), "order"),
])  # fmt: skip
def test_wrong_orders_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter04.check_decoder_layer(wrong)


def learning_rate(step, warm_up, top):
    return top * min(step / warm_up, math.sqrt(warm_up / step))


def test_learning_rate_is_accepted():
    assert "schedules" in chapter04.check_learning_rate(learning_rate)


@pytest.mark.parametrize("wrong", [
    lambda step, warm_up, top: top * min(step / warm_up, 1.0),
    lambda step, warm_up, top: top * math.sqrt(warm_up / step),
    lambda step, warm_up, top: top * min(1.0, math.sqrt(warm_up / step)),
    lambda step, warm_up, top: top * min((step - 1) / warm_up, math.sqrt(warm_up / step)),
    lambda step, warm_up, top: top * min((step + 1) / warm_up, math.sqrt(warm_up / step)),
    lambda step, warm_up, top: top * min(step * warm_up**-1.5, step**-0.5),
    lambda step, warm_up, top: top * min(step / warm_up, step**-0.5),
    lambda step, warm_up, top: top * min(step / warm_up, warm_up / step),
    lambda step, warm_up, top: top * (step / warm_up if step <= warm_up else math.sqrt(1 / (step - warm_up))),
    lambda step, warm_up, top: torch.tensor(learning_rate(step, warm_up, top)),
])  # fmt: skip
def test_wrong_learning_rates_are_refused(wrong):
    with pytest.raises(AssertionError, match="at step"):
        chapter04.check_learning_rate(wrong)
