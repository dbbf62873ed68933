"""What `benchmarks/layer_norm.py` measures is what it says it measures, and its stored results are complete."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks import layer_norm as benchmark

RESULTS = Path(benchmark.__file__).parent / "results" / "layer_norm.json"


def test_simplified_attention_is_the_mean_of_the_values():
    """Theorem 1's setting: with W_Q = W_K = 0 and no output projection, sum_j x_j W_V / n."""
    model = benchmark.simplified(2, 8, "post", torch.Generator().manual_seed(0))
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(1))
    attention = model.layers[1].attention
    expected = (x.mean(1) @ attention.value.weight.T).expand(1, 5, 8)
    torch.testing.assert_close(attention(x), expected)
    assert not any(getattr(attention, name).weight.any() for name in ("query", "key"))
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    assert biases
    assert not any(bias.any() for bias in biases)


def test_simplified_weights_have_variance_one_over_width():
    model = benchmark.simplified(1, 256, "pre", torch.Generator().manual_seed(0))
    layer = model.layers[0]
    for linear in (layer.attention.value, layer.feed_forward.expand, layer.feed_forward.contract):
        assert linear.weight.shape == (256, 256)
        assert abs(linear.weight.var().item() * 256 - 1) < 0.02


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_simplified_gradient_of_the_last_layer_is_the_outer_product_of_the_proof(norm):
    """dL/dW2 = sum over positions of (J_LN^T dL/dx) relu(x W1)^T, from the proof of Theorem 1, without autograd."""
    depth, width, seed = 3, 16, 5
    generator = torch.Generator().manual_seed(seed)
    model = benchmark.simplified(depth, width, norm, generator)
    output = torch.randn(benchmark.VOCABULARY, width, generator=generator) * width**-0.5
    x = torch.randn(1, benchmark.POSITIONS, width, generator=generator)
    tokens = torch.randint(benchmark.VOCABULARY, (benchmark.POSITIONS,), generator=generator)
    with torch.no_grad():
        for layer in model.layers[:-1]:
            x = layer(x)
        last = model.layers[-1]
        if norm == "post":
            inner = last.attention_norm(x + last.attention(x))
            hidden = last.feed_forward.expand(inner).relu()[0]
            before = inner[0] + last.feed_forward.contract(hidden)
        else:
            middle = x + last.attention(last.attention_norm(x))
            hidden = last.feed_forward.expand(last.feed_forward_norm(middle)).relu()[0]
            before = middle[0] + last.feed_forward.contract(hidden)
        final = F.layer_norm(before, (width,))
        error = (final @ output.T).softmax(-1) - F.one_hot(tokens, benchmark.VOCABULARY)
        gradient = error @ output / len(tokens)  # dL/dx of each position
        centred = before - before.mean(-1, keepdim=True)
        length = centred.norm(dim=-1, keepdim=True)
        y = centred / length
        gradient = gradient - gradient.mean(-1, keepdim=True) - y * (gradient * y).sum(-1, keepdim=True)
        expected = ((math.sqrt(width) / length * gradient).T @ hidden).norm().item()
    got = benchmark.simplified_gradients(norm, depth, width, "1/d", seed)
    assert len(got) == depth
    assert math.isclose(got[-1], expected, rel_tol=1e-3)  # eps = 1e-5 in the layers' norms


@pytest.mark.parametrize(("step", "warm_up", "expected"), [
    (1, 100, 0.02), (50, 100, 1.0), (100, 100, 2.0), (400, 100, 1.0),
    (1, 1, 2.0), (50, 1, 2.0), (100, 1, 2.0), (400, 1, 1.0),
])  # fmt: skip
def test_schedules_differ_during_warm_up_alone(step, warm_up, expected):
    assert math.isclose(benchmark.schedule(2.0, warm_up, 100)(step), expected)


def test_gradients_are_read_from_the_right_weights():
    model = benchmark.translator("pre", 0, width=8, heads=2, hidden=12, depth=2, dropout=0.0)
    for number, part in enumerate((model.encoder, model.decoder)):
        for level, layer in enumerate(part.layers):
            for digit, linear in enumerate((layer.feed_forward.expand, layer.feed_forward.contract)):
                linear.weight.grad = torch.zeros_like(linear.weight)
                linear.weight.grad[0, 0] = 100 * number + 10 * level + digit + 1
    assert benchmark.feed_forward_gradients(model) == {
        "encoder W1": [1, 11], "encoder W2": [2, 12], "decoder W1": [101, 111], "decoder W2": [102, 112],
    }  # fmt: skip


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_stream_is_what_enters_the_last_norm(norm):
    """The feed-forward sublayer's output plus what stood on the trunk before it."""
    model = benchmark.translator(norm, 0, width=8, heads=2, hidden=12, depth=2, dropout=0.0)
    last, seen = model.decoder.layers[-1], {}
    last.feed_forward.register_forward_hook(lambda _, given, result: seen.update(entered=given[0], left=result))
    last.feed_forward_norm.register_forward_hook(lambda _, given, result: seen.update(trunk=given[0]))
    stream = benchmark.gradients_on_dates(model, 4, 0)["stream"]
    before = seen["entered"] if norm == "post" else seen["trunk"]
    assert math.isclose(stream, (before + seen["left"]).square().mean().item(), abs_tol=1e-3)


def test_a_translator_differs_by_its_norms_alone():
    sizes = {"width": 8, "heads": 2, "hidden": 12, "depth": 2, "dropout": 0.0}
    post, pre = (benchmark.translator(norm, 3, **sizes).state_dict() for norm in ("post", "pre"))
    extra = {"encoder.norm.weight", "encoder.norm.bias", "decoder.norm.weight", "decoder.norm.bias"}
    assert set(pre) - set(post) == extra
    assert not set(post) - set(pre)
    assert all(torch.equal(post[name], pre[name]) for name in post)


@pytest.mark.parametrize("part", benchmark.PARTS)
def test_stored_results_hold_every_run_with_todays_settings(part):
    record = json.loads(RESULTS.read_text())[part]
    assert record["settings"] == json.loads(json.dumps(benchmark.settings()[part]))
    assert {"command", "commit", "hardware", "versions", "date"} <= set(record["provenance"])
    for key, _ in benchmark.RUNS[part]():
        found = [row for row in record["runs"] if all(row[name] == value for name, value in key.items())]
        assert len(found) == 1, key
    assert len(record["runs"]) == len(list(benchmark.RUNS[part]()))
