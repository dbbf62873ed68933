"""Attention: equation 1 as loops, torch's kernels and modules, masks, restriction, the cache, and clear errors."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from minirsa.layers.attention import (
    KeyValueCache,
    MultiHeadAttention,
    RestrictedSelfAttention,
    causal_mask,
    masked_softmax,
    padding_mask,
    restricted_attention,
    scaled_dot_product_attention,
    window_mask,
)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomized(module, seed=0):
    """Every parameter random, in float64: zeros at the start would hide errors."""
    module = module.double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 3)
    return module


def attention_in_loops(query, key, value, mask=None):
    """Equation 1, one query and one key at a time: (n, d), (m, d), (m, e) -> (n, e)."""
    output = torch.zeros(len(query), value.shape[1], dtype=query.dtype)
    for i in range(len(query)):
        allowed = [j for j in range(len(key)) if mask is None or mask[i, j]]
        powers = [math.exp(float(query[i] @ key[j]) / math.sqrt(query.shape[1])) for j in allowed]
        for j, power in zip(allowed, powers):
            output[i] += power / sum(powers) * value[j]
    return output


@pytest.fixture
def triple():
    return draw(2, 3, 5, 4, seed=1), draw(2, 3, 7, 4, seed=2), draw(2, 3, 7, 6, seed=3)


@pytest.fixture
def mask():
    """(5, 7), row 2 allows nothing."""
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(4)) > 0.5
    mask[2] = False
    mask[3, 0] = True
    return mask


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_equation_1_in_loops_with_and_without_weights(triple, mask, masked):
    mask = mask if masked else None
    expected = torch.stack(
        [torch.stack([attention_in_loops(*(x[b, h] for x in triple), mask) for h in range(3)]) for b in range(2)]
    )
    assert_close(scaled_dot_product_attention(*triple, mask=mask), expected)
    output, weights = scaled_dot_product_attention(*triple, mask=mask, return_weights=True)
    assert_close(output, expected)
    assert_close(weights @ triple[2], expected)


def test_attention_equals_torch_where_every_row_sees_something(triple):
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(5)) > 0.3
    mask[:, 3] = True
    assert_close(
        scaled_dot_product_attention(*triple, mask=mask), F.scaled_dot_product_attention(*triple, attn_mask=mask)
    )
    assert_close(scaled_dot_product_attention(*triple, scale=0.3), F.scaled_dot_product_attention(*triple, scale=0.3))


@pytest.mark.parametrize("return_weights", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_fully_masked_rows_give_zeros_and_finite_gradients(triple, mask, return_weights, dtype):
    triple = [x.to(dtype).requires_grad_() for x in triple]
    output = scaled_dot_product_attention(*triple, mask=mask, return_weights=return_weights)
    if return_weights:
        output, weights = output
        assert (weights[..., 2, :] == 0).all()
        assert (weights[..., ~mask] == 0).all()
    assert (output[..., 2, :] == 0).all()
    assert (output[..., 3, :] != 0).all()
    output.sum().backward()
    for x in triple:
        assert x.grad.isfinite().all()
    assert (triple[0].grad[..., 2, :] == 0).all()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_a_row_without_a_key_makes_no_nan_on_the_way_either(triple, mask, monkeypatch):
    seen = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *x, attn_mask, **o: seen.append(attn_mask) or kernel(*x, **o)
    )
    scaled_dot_product_attention(*triple, mask=mask)
    assert seen[0].any(-1).all()  # what a fused kernel does with an empty row depends on the device
    scores = draw(5, 7).requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=True):
        masked_softmax(scores, mask).square().sum().backward()


@pytest.mark.parametrize("return_weights", [False, True])
def test_no_keys_at_all_give_zeros(return_weights):
    output = scaled_dot_product_attention(draw(2, 5, 4), draw(2, 0, 4), draw(2, 0, 3), return_weights=return_weights)
    output = output[0] if return_weights else output
    assert output.shape == (2, 5, 3)
    assert (output == 0).all()


def test_masked_softmax_adds_up_to_one_or_zero(mask):
    scores = draw(3, 5, 7)
    weights = masked_softmax(scores, mask)
    assert_close(weights.sum(-1), torch.tensor([1.0, 1, 0, 1, 1], dtype=torch.float64).expand(3, 5))
    assert (weights[:, ~mask] == 0).all()
    assert_close(masked_softmax(scores), scores.softmax(-1))


def test_masked_softmax_stands_scores_of_any_size():
    scores = torch.tensor([[1e4, -1e4, 3e4]])
    assert_close(masked_softmax(scores, torch.tensor([[True, True, False]])), torch.tensor([[1.0, 0.0, 0.0]]))


def test_gradients_of_each_attention_in_float64(mask):
    # 2 queries see something, one sees nothing: the gradient must be right there too
    inputs = [draw(1, 3, 2, seed=1), draw(1, 4, 2, seed=2), draw(1, 4, 3, seed=3)]
    inputs = [x.requires_grad_() for x in inputs]
    small = torch.tensor([[True, False, True, True], [False] * 4, [True, True, False, False]])
    for weighted in (False, True):
        assert torch.autograd.gradcheck(
            partial(scaled_dot_product_attention, mask=small, return_weights=weighted), inputs
        )
    window = [draw(1, 5, 2, seed=s).requires_grad_() for s in (1, 2, 3)]
    keep = torch.tensor([[True, True, False, True, True]])
    assert torch.autograd.gradcheck(lambda q, k, v: restricted_attention(q, k, v, 3, mask=keep), window)
    for module in (MultiHeadAttention(4, 2), RestrictedSelfAttention(4, 2, size=3)):
        assert torch.autograd.gradcheck(randomized(module), (draw(1, 4, 4).requires_grad_(),))


def test_dropout_zeroes_weights_and_keeps_their_expectation(triple):
    torch.manual_seed(0)
    ones = torch.ones(1, 1, 400, 2, dtype=torch.float64)
    output, weights = scaled_dot_product_attention(draw(1, 1, 200, 2), ones, ones, dropout=0.5, return_weights=True)
    assert_close(weights.sum(-1), torch.ones(1, 1, 200, dtype=torch.float64))  # as they were before dropout
    assert output.std() > 0.01
    assert_close(output.mean(), torch.tensor(1.0, dtype=torch.float64), atol=0.02, rtol=0)
    with pytest.raises(ValueError, match="dropout"):
        scaled_dot_product_attention(*triple, dropout=1.0)


def test_permuting_the_keys_changes_nothing_and_permuting_the_tokens_permutes_the_output():
    layer, x = randomized(MultiHeadAttention(8, 2)), draw(2, 6, 8)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert_close(layer(x, x[:, order]), layer(x))
    assert_close(layer(x[:, order]), layer(x)[:, order])


@pytest.mark.parametrize("size", [1, 3, 5, 13, 99])
def test_restricted_attention_is_full_attention_under_a_window(size):
    query, key, value = draw(2, 3, 11, 4, seed=1), draw(2, 3, 11, 4, seed=2), draw(2, 3, 11, 5, seed=3)
    expected = scaled_dot_product_attention(query, key, value, mask=window_mask(11, size))
    assert_close(restricted_attention(query, key, value, size), expected)
    keep = torch.rand(2, 1, 1, 11, generator=torch.Generator().manual_seed(6)) > 0.4
    expected = scaled_dot_product_attention(query, key, value, mask=window_mask(11, size) & keep)
    assert_close(restricted_attention(query, key, value, size, mask=keep), expected)


def test_restricted_attention_stores_nothing_of_size_n_by_n():
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    length, width, size = 500, 4, 5
    x = draw(length, width)
    with Watch():
        restricted_attention(x, x, x, size)
    assert largest <= length * width * size < length * length


def test_one_head_and_identity_projections_are_scaled_dot_product_attention():
    layer, x, memory = MultiHeadAttention(5, 1).double(), draw(2, 4, 5), draw(2, 6, 5, seed=1)
    with torch.no_grad():
        for projection in (layer.query, layer.key, layer.value, layer.output):
            projection.weight.copy_(torch.eye(5))
    assert_close(layer(x, memory), scaled_dot_product_attention(x, memory, memory))


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_same_weights_as_torch_multihead_attention_give_the_same_output(heads, bias):
    ours = randomized(MultiHeadAttention(8, heads, bias=bias))
    theirs = nn.MultiheadAttention(8, heads, bias=bias, batch_first=True).double().eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.out_proj.weight.copy_(ours.output.weight)
        if bias:
            theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
            theirs.out_proj.bias.copy_(ours.output.bias)
    x, memory = draw(3, 5, 8), draw(3, 6, 8, seed=1)
    mask = torch.rand(5, 6, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[:, 1] = True
    expected, weights = theirs(x, memory, memory, attn_mask=~mask, average_attn_weights=False)
    got, own = ours(x, memory, mask=mask, return_weights=True)
    assert_close(got, expected)
    assert_close(own, weights)
    assert_close(ours(x, memory, mask=mask), expected)


def test_masks_of_two_three_and_four_axes_mean_the_same():
    layer, x = randomized(MultiHeadAttention(8, 4)), draw(2, 5, 8)
    causal = causal_mask(5)
    expected = layer(x, mask=causal)
    assert_close(layer(x, mask=causal.expand(2, 5, 5)), expected)
    assert_close(layer(x, mask=causal.expand(2, 4, 5, 5)), expected)
    assert_close(layer(x, mask=causal.expand(2, 1, 5, 5)), expected)
    by_head = torch.rand(2, 4, 5, 5, generator=torch.Generator().manual_seed(0)) > 0.3
    _, weights = layer(x, mask=by_head, return_weights=True)
    assert (weights[~by_head] == 0).all()
    assert (weights[by_head] > 0).all()


def test_padding_changes_nothing_and_tokens_do():
    layer, tokens = randomized(MultiHeadAttention(8, 2)), torch.tensor([[5, 3, 0, 0], [2, 4, 7, 1]])
    x, mask = draw(2, 4, 8), padding_mask(tokens)
    assert mask.tolist() == [[[True, True, False, False]], [[True] * 4]]
    changed = x.clone()
    changed[0, 2:] = 100.0
    assert_close(layer(changed, mask=mask)[0, :2], layer(x, mask=mask)[0, :2])
    assert_close(layer(x, mask=mask)[0, :2], layer(x[:1, :2])[0])
    changed[0, 1] = 100.0
    assert not torch.allclose(layer(changed, mask=mask)[0, 0], layer(x, mask=mask)[0, 0])


def test_causal_mask_hides_the_future_and_nothing_else():
    assert causal_mask(3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert causal_mask(2, 4).tolist() == [[True, True, True, False], [True] * 4]
    layer, x = randomized(MultiHeadAttention(8, 2)), draw(1, 6, 8)
    before = layer(x, mask=causal_mask(6))
    x[:, 4] += 1
    after = layer(x, mask=causal_mask(6))
    assert_close(after[:, :4], before[:, :4])
    assert not (after[:, 4:] == before[:, 4:]).any()


def test_window_mask():
    assert window_mask(4, 3).int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]


def test_restricted_layer_equals_the_full_layer_under_a_window():
    full, restricted = randomized(MultiHeadAttention(8, 2)), RestrictedSelfAttention(8, 2, size=5).double().eval()
    restricted.load_state_dict(full.state_dict())
    x, keep = draw(2, 9, 8), padding_mask(torch.tensor([[1] * 6 + [0] * 3, [1] * 9]))
    assert_close(restricted(x), full(x, mask=window_mask(9, 5)))
    assert_close(restricted(x, mask=keep), full(x, mask=window_mask(9, 5) & keep))


def test_cache_gives_what_the_whole_sequence_gives():
    layer, x = randomized(MultiHeadAttention(8, 2)), draw(3, 6, 8)
    whole = layer(x, mask=causal_mask(6))
    cache = KeyValueCache()
    assert cache.length == 0
    parts = [layer(x[:, :2], mask=causal_mask(2), cache=cache)]
    parts += [layer(x[:, i : i + 1], cache=cache) for i in range(2, 6)]
    assert cache.length == 6
    assert_close(torch.cat(parts, 1), whole)


def test_cache_of_a_memory_is_filled_once_and_read_afterwards():
    layer, x, memory = randomized(MultiHeadAttention(8, 2)), draw(2, 3, 8), draw(2, 5, 8, seed=1)
    cache = KeyValueCache()
    assert_close(layer(x, memory, cache=cache), layer(x, memory))
    assert cache.length == 5
    assert_close(layer(x, memory * 100, cache=cache), layer(x, memory))


def test_cache_of_a_memory_refuses_another_memory():
    layer, cache = MultiHeadAttention(8, 2), KeyValueCache()
    layer(X[:, :1], X, cache=cache)
    with pytest.raises(ValueError, match="memory that is stored, 5 long, got 4"):
        layer(X[:, :1], X[:, :4], cache=cache)


def test_restricted_layer_takes_a_mask_of_any_axes():
    layer, x, mask = (
        RestrictedSelfAttention(8, 2, size=3),
        draw(2, 5, 8).float(),
        torch.tensor([True, False, True] + [True] * 2),
    )
    expected = layer(x, mask=mask.expand(2, 1, 5))
    assert torch.equal(layer(x, mask=mask), expected)
    assert torch.equal(layer(x, mask=mask[None]), expected)


def test_cache_selects_rows_with_repeats():
    layer, x = randomized(MultiHeadAttention(8, 2)), draw(3, 4, 8)
    cache = KeyValueCache()
    layer(x[:, :3], cache=cache)
    rows = torch.tensor([2, 2, 0])
    chosen = cache.select(rows)
    assert_close(layer(x[rows, 3:], cache=chosen), layer(x[:, 3:], cache=cache)[rows])
    assert KeyValueCache().select(rows).length == 0


def test_half_precision_stays_half_precision():
    layer = MultiHeadAttention(8, 2).to(torch.bfloat16)
    assert layer(draw(2, 3, 8).bfloat16(), mask=causal_mask(3)).dtype == torch.bfloat16


X = torch.zeros(2, 5, 8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MultiHeadAttention(10, 4), "heads must divide width.*10.*4"),
        (lambda: MultiHeadAttention(8, 0), "heads must divide width"),
        (lambda: MultiHeadAttention(8, 2.0), "heads must divide width"),
        (lambda: MultiHeadAttention(8, 2, dropout=1.5), "dropout"),
        (lambda: RestrictedSelfAttention(10, 4, size=3), "heads must divide width"),
        (lambda: RestrictedSelfAttention(8, 4, size=4), "odd"),
        (lambda: MultiHeadAttention(8, 2)(X[0]), r"\(B, n, 8\).*\(5, 8\)"),
        (lambda: MultiHeadAttention(8, 2)(X[..., :6]), r"\(B, n, 8\).*\(2, 5, 6\)"),
        (lambda: MultiHeadAttention(8, 2)(X, X[:1]), "batch 2.*1"),
        (lambda: MultiHeadAttention(8, 2)(X, mask=torch.ones(5, 5)), "torch.bool.*float32"),
        (lambda: MultiHeadAttention(8, 2)(X, mask=[[True]]), "torch.bool.*list"),
        (lambda: MultiHeadAttention(8, 2)(X, mask=torch.ones(5, 6, dtype=torch.bool)), r"\(2, 2, 5, 5\)"),
        (lambda: MultiHeadAttention(8, 2)(X, mask=torch.ones(5, dtype=torch.bool)), "mask"),
        (lambda: RestrictedSelfAttention(8, 2, size=3)(X, mask=torch.ones(2, 1, 5)), "torch.bool"),
        (lambda: scaled_dot_product_attention(X, X, X, mask=torch.zeros(5, 5)), "torch.bool"),
        (lambda: scaled_dot_product_attention(X, X, X, mask=torch.ones(2, 1, 5, 5, dtype=torch.bool)), "broadcasts"),
        (lambda: scaled_dot_product_attention(X, X[..., :4], X), "query"),
        (lambda: scaled_dot_product_attention(X, X, X[:, :3]), "value"),
        (lambda: scaled_dot_product_attention(X, X[:1], X[:1]), "leading axes"),
        (lambda: masked_softmax(X, torch.ones(5, 8)), "torch.bool"),
        (lambda: restricted_attention(X, X, X, 2), "odd"),
        (lambda: restricted_attention(X, X[:, :3], X, 3), "query and key"),
        (lambda: window_mask(5, 0), "odd"),
        (lambda: causal_mask(5, 3), "5 queries and 3 keys"),
        (lambda: padding_mask(X), "whole numbers"),
        (lambda: padding_mask(torch.zeros(3, dtype=torch.long)), "whole numbers"),
        (lambda: KeyValueCache(X[None], X[None]).append(X[None, :1], X[None, :1]), "batch, heads"),
        (lambda: KeyValueCache().append(X[None], X[None, :, :3]), "a value for each key"),
        (lambda: scaled_dot_product_attention(X[:, :0], X, X), "without empty axes"),
        (lambda: window_mask(-1, 3), "length from 0, got -1"),
        (lambda: window_mask(5, 2.5), "odd.*2.5"),
    ],
)
def test_errors_say_what_was_expected_and_what_came(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_dropout_of_the_layer_acts_in_training_only():
    layer, x = MultiHeadAttention(8, 2, dropout=0.5).double(), draw(2, 6, 8)
    torch.manual_seed(0)
    assert not torch.equal(layer.train()(x), layer(x))
    assert_close(layer.eval()(x), layer(x, return_weights=True)[0])
    assert torch.equal(layer(x), layer(x))
