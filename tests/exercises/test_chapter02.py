"""The checkers of chapter 2 accept right answers and refuse known wrong ones, by name where the mistake has one."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from minirsa.exercises import chapter02
from minirsa.layers.attention import masked_softmax, restricted_attention, scaled_dot_product_attention, window_mask

BOOK = Path(__file__).resolve().parents[2] / "book"


@pytest.fixture(scope="module")
def solutions():
    """The functions that the chapter prints as worked solutions."""
    cells = json.loads((BOOK / "02_self_attention.ipynb").read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    names = {"torch": torch, "math": math}
    for source in re.findall(r"```python\n(.*?)```", prose, re.DOTALL):
        exec(source, names)
    return names


def test_the_chapters_solutions_are_right(solutions):
    chapter02.check_attention(solutions["my_attention"])
    chapter02.check_multi_head(solutions["my_multi_head"])
    chapter02.check_restricted_attention(solutions["my_restricted"])


def attention(query, key, value, mask, scale=None):
    """Another right answer, which never makes a NaN."""
    scores = query @ key.T / (scale or math.sqrt(query.shape[1]))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    scores = scores - scores.amax(1, keepdim=True).clamp(min=-1e300)
    weights = scores.exp()
    return weights @ value / weights.sum(1, keepdim=True).clamp(min=1e-300)


def test_attention_is_accepted():
    assert "large scores" in chapter02.check_attention(attention)
    chapter02.check_attention(lambda q, k, v, mask: scaled_dot_product_attention(q, k, v, mask=mask))


def over_queries(query, key, value, mask):
    scores = query @ key.T / math.sqrt(query.shape[1])
    return (scores if mask is None else scores.masked_fill(~mask, -1e9)).softmax(0) @ value


def upside_down(query, key, value, mask):
    return attention(query, key, value, mask if mask is None else ~mask)


def masked_with(filling):
    def function(query, key, value, mask):
        scores = query @ key.T / math.sqrt(query.shape[1])
        return (scores if mask is None else scores.masked_fill(~mask, filling)).softmax(1) @ value

    return function


def masked_afterwards(query, key, value, mask):
    weights = (query @ key.T / math.sqrt(query.shape[1])).softmax(1)
    return (weights if mask is None else weights * mask) @ value


def overflowing(query, key, value, mask):
    weights = (query @ key.T / math.sqrt(query.shape[1])).exp()
    weights = weights if mask is None else weights * mask
    return weights @ value / weights.sum(1, keepdim=True).clamp(min=1e-300)


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda q, k, v, mask: attention(q, k, v, mask, 1), "not divided by sqrt"),
    (lambda q, k, v, mask: attention(q, k, v, mask, q.shape[1]), "divided by d"),
    (lambda q, k, v, mask: attention(q, k, v, mask, 1 / math.sqrt(q.shape[1])), "multiplied by sqrt"),
    (lambda q, k, v, mask: attention(q, k, v, mask, math.sqrt(k.shape[0])), "number of keys"),
    (over_queries, "over the queries"),
    (lambda q, k, v, mask: q @ k.T / math.sqrt(q.shape[1]) @ v, "softmax is missing"),
    (lambda q, k, v, mask: attention(q, k, v, None), "mask is ignored"),
    (upside_down, "upside down"),
    (masked_with(0.0), "minus infinity"),
    (masked_with(-1e9), "without any key must give zeros"),
    (masked_with(float("-inf")), "NaN"),
    (lambda q, k, v, mask: masked_with(float("-inf"))(q, k, v, mask).nan_to_num(0), "must be NaN"),
    (lambda q, k, v, mask: attention(q.nan_to_num(0), k, v, mask), "must be NaN"),
    (lambda q, k, v, mask: attention(q, k, v, mask) + 0 * q.sum(), "the other outputs"),
    (masked_afterwards, "do not add up to 1"),
    (overflowing, "scores in the thousands"),
    (lambda q, k, v, mask: attention(q, k, v, mask)[None], "expected shape"),
    (lambda q, k, v, mask: attention(q, k, v, mask).tolist(), "expected a tensor"),
    (lambda q, k, v, mask: attention(q, k, v, mask).float().double(), "largest error"),
])  # fmt: skip
def test_wrong_attentions_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter02.check_attention(wrong)


def split(x, heads):
    """(n, C) -> (heads, n, d)."""
    return x.unflatten(1, (heads, -1)).transpose(0, 1)


def joined(x):
    return x.transpose(0, 1).flatten(1)


def multi_head(x, W_Q, W_K, W_V, W_O, heads, split=split, join=joined):
    query, key, value = split(x @ W_Q, heads), split(x @ W_K, heads), split(x @ W_V, heads)
    weights = (query @ key.mT / math.sqrt(query.shape[2])).softmax(-1)
    return join(weights @ value) @ W_O


def with_options(**options):
    return lambda *arguments: multi_head(*arguments, **options)


def across_positions(x, heads):
    return x.reshape(heads, len(x), -1)


def every_hth(x, heads):
    return x.unflatten(1, (-1, heads)).permute(2, 0, 1)


def divided_by_the_whole_width(x, W_Q, W_K, W_V, W_O, heads):
    return multi_head(x, W_Q / math.sqrt(heads), W_K, W_V, W_O, heads)


def softmax_over_heads(x, W_Q, W_K, W_V, W_O, heads):
    query, key, value = (split(x @ W, heads) for W in (W_Q, W_K, W_V))
    return joined((query @ key.mT / math.sqrt(query.shape[2])).softmax(0) @ value) @ W_O


def test_multi_head_is_accepted():
    assert "one head a channel" in chapter02.check_multi_head(multi_head)


@pytest.mark.parametrize(("wrong", "reason"), [
    (with_options(split=across_positions), "cuts across positions"),
    (with_options(split=across_positions, join=lambda x: x.reshape(x.shape[1], -1)), "cuts across positions"),
    (with_options(split=every_hth), "neighbouring channels"),
    (with_options(split=every_hth, join=lambda x: x.permute(1, 2, 0).flatten(1)), "neighbouring channels"),
    (with_options(join=lambda x: x.reshape(x.shape[1], -1)), "before the channels are joined"),
    (with_options(join=lambda x: x.permute(1, 2, 0).flatten(1)), "stay together"),
    (divided_by_the_whole_width, "head's own"),
    (lambda *a: multi_head(*a[:-1], 1), "one head as wide"),
    (lambda *a: multi_head(*a[:4], torch.eye(len(a[4]), dtype=a[4].dtype), a[5]), "output projection"),
    (lambda x, Q, K, V, O, heads: multi_head(x, Q.T, K.T, V.T, O.T, heads), "largest error"),
    (lambda x, Q, K, V, O, heads: multi_head(x, K, Q, V, O, heads), "largest error"),
    (softmax_over_heads, "largest error"),
])  # fmt: skip
def test_wrong_multi_heads_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter02.check_multi_head(wrong)


def restricted(query, key, value, size, window=True):
    n, reach = len(query), size // 2
    places = torch.arange(n)[:, None] + torch.arange(-reach, reach + 1)  # (n, r)
    inside = (places >= 0) & (places < n)
    places = places.clamp(0, n - 1)
    scores = (query[:, None] * key[places]).sum(2) / math.sqrt(query.shape[1])  # (n, r)
    weights = (scores.masked_fill(~inside, float("-inf")) if window else scores).softmax(1)
    return (weights[:, :, None] * value[places]).sum(1)


def zeros_beyond_the_ends(query, key, value, size):
    reach = size // 2
    keys, values = (F.pad(x, (0, 0, reach, reach)).unfold(0, size, 1) for x in (key, value))  # (n, d, r)
    weights = ((query[:, :, None] * keys).sum(1) / math.sqrt(query.shape[1])).softmax(1)
    return (weights[:, None] * values).sum(2)


def full_with_mask(query, key, value, size):
    return scaled_dot_product_attention(query, key, value, mask=window_mask(len(query), size))


def test_restricted_attention_is_accepted():
    assert "no intermediate" in chapter02.check_restricted_attention(restricted)
    chapter02.check_restricted_attention(restricted_attention)


def one_by_one(query, key, value, size):
    """Slow, but it stores little: allowed."""
    rows = []
    for i in range(len(query)):
        part = slice(max(0, i - size // 2), i + size // 2 + 1)
        rows.append(masked_softmax(key[part] @ query[i] / math.sqrt(query.shape[1])) @ value[part])
    return torch.stack(rows)


def test_a_loop_over_positions_is_accepted():
    chapter02.check_restricted_attention(one_by_one)


@pytest.mark.parametrize(("wrong", "reason"), [
    (full_with_mask, "2 n r max.* = 12000 are allowed"),
    (lambda q, k, v, size: attention(q, k, v, window_mask(len(q), size)), "an intermediate of shape"),
    (lambda q, k, v, size: attention(q, k, v, None), "every position"),
    (lambda q, k, v, size: restricted(q, k, v, 2 * size + 1), "to each side"),
    (lambda q, k, v, size: attention(q, k, v, window_mask(len(q), size).tril()), "forwards as well"),
    (zeros_beyond_the_ends, "beyond the ends"),
    (lambda q, k, v, size: restricted(q, k, v, size, window=False), "largest error"),
    (lambda q, k, v, size: restricted(q * math.sqrt(q.shape[1]), k, v, size), "largest error"),
])  # fmt: skip
def test_wrong_restricted_attentions_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter02.check_restricted_attention(wrong)
