"""What `benchmarks/attention_cost.py` times are the layers of the table, and the committed numbers are its own."""

import json
import math

import pytest
import torch

from benchmarks import attention_cost as cost
from benchmarks.provenance import ROOT
from minirsa import published
from minirsa.layers.attention import scaled_dot_product_attention, window_mask

RESULTS = ROOT / "benchmarks" / "results" / "attention_cost.json"


@pytest.fixture(scope="module")
def committed():
    return json.loads(RESULTS.read_text())


def test_layers_are_those_of_the_published_table():
    assert tuple(published.ATTENTION_COMPLEXITY.column("layer")) == cost.TABLE


@pytest.mark.parametrize("name", [*cost.TABLE, cost.FUSED])
def test_every_layer_keeps_the_shape(name):
    x = cost.sequence(40, 8)
    assert cost.build(name, 8)(x).shape == x.shape


def test_both_forms_of_attention_and_a_window_as_wide_as_the_sequence_agree():
    x = cost.sequence(20, 8)
    full = scaled_dot_product_attention(x, x, x)
    for layer in (cost.build("Self-Attention", 8), cost.build(cost.FUSED, 8)):
        torch.testing.assert_close(layer(x), full)
    torch.testing.assert_close(cost.build("Self-Attention (restricted)", 8, r=39)(x), full)
    near = scaled_dot_product_attention(x, x, x, mask=window_mask(20, 5))
    torch.testing.assert_close(cost.build("Self-Attention (restricted)", 8, r=5)(x), near)


def test_convolution_looks_at_the_last_k_positions_only():
    x = cost.sequence(12, 4).requires_grad_()
    cost.build("Convolutional", 4, k=3)(x)[0, 7].sum().backward()
    assert x.grad[0].abs().sum(1).nonzero().flatten().tolist() == [5, 6, 7]


def test_ticks_of_the_recurrence_are_the_recurrence():
    """n steps of `path_steps`, each of which makes all states at once, give what a loop over positions gives."""
    step, from_zero = cost.path_steps()["Recurrent"]
    assert from_zero
    x = torch.randn(6, 4, dtype=torch.float64)
    state = torch.zeros_like(x)
    for index in range(6):
        state = step(state, x, index)
    loop, h = [], torch.zeros(4, dtype=torch.float64)
    for i in range(6):
        alone = torch.stack([h, torch.zeros_like(h)]), torch.stack([torch.zeros_like(h), x[i]])
        h = step(*alone, 0)[1]  # the second position's state, from a first one whose last state was h
        loop.append(h)
    torch.testing.assert_close(state, torch.stack(loop))


def test_counted_exponents_are_the_tables(committed):
    table = {"n^2 d": (2, 1, 0, 0), "n d^2": (1, 2, 0, 0), "k n d^2": (1, 2, 1, 0), "r n d": (1, 1, 0, 1)}
    counted = cost.counted()
    for row in published.ATTENTION_COMPLEXITY:
        found = counted["layers"][row.layer]["exponents"]
        assert tuple(found[size] for size in "ndkr") == table[row.operations], row.layer
    assert counted == committed["operations"]


def test_counted_chains_are_the_tables(committed):
    assert cost.waiting() == committed["sequential"]
    for row in published.ATTENTION_COMPLEXITY:
        chain = committed["sequential"][row.layer]
        grows = [int(n) == waits for n, waits in chain.items()]
        assert all(grows) if row.sequential == "n" else len(set(chain.values())) == 1, row.layer


def test_measured_paths_are_the_tables(committed):
    assert cost.paths((9, 27)) == {
        name: {n: steps[n] for n in ("9", "27")} for name, steps in committed["paths"]["layers"].items()
    }
    k, r = committed["kernel"], committed["paths"]["r"]
    formulas = {
        "Self-Attention": lambda n: 1,
        "Recurrent": lambda n: n,
        "Convolutional": lambda n: math.ceil((n - 1) / (k - 1)),
        "Convolutional (dilated)": lambda n: round(math.log(n, k)),
        "Self-Attention (restricted)": lambda n: math.ceil((n - 1) / (r // 2)),
    }
    for name, steps in committed["paths"]["layers"].items():
        assert steps == {n: formulas[name](int(n)) for n in steps}, name


def test_slope_finds_the_exponent_of_a_power():
    sizes = [1, 2, 4, 8, 16]
    assert cost.slope(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    fits = cost.exponents(sizes, [[5 + size**2 for size in sizes], [size**2 for size in sizes]])
    assert fits["largest three"][2] == fits["all"][2] == 2.0
    assert fits["all"][1] < fits["largest three"][1] < 2  # a constant bends the small sizes most
    assert fits["all"][0] == pytest.approx((fits["all"][1] + 2) / 2, abs=0.01)


def test_full_attention_keeps_the_weights_and_the_fused_one_does_not():
    n, d = 128, 8
    x = cost.sequence(n, d)
    kept = {name: cost.saved_bytes(cost.build(name, d), x) / 4 for name in (*cost.TABLE, cost.FUSED)}
    assert kept["Self-Attention"] >= n * n
    assert kept[cost.FUSED] < 3 * n * d
    assert kept["Recurrent"] < 4 * n * d
    assert kept["Self-Attention"] - n * n < 3 * n * d
    weights = 3 * 64 * 64
    assert cost.saved_bytes(cost.build("Convolutional", 64), cost.sequence(4, 64)) < 4 * weights, "weights are not kept"


def test_every_case_is_timed_in_every_round():
    cases = {(name, 16, 8): (cost.build(name, 8), cost.sequence(16, 8)) for name in cost.TABLE}
    taken = cost.clock(cases, 3)
    assert {case: len(times) for case, times in taken.items()} == dict.fromkeys(cases, 3)
    assert all(time > 0 for times in taken.values() for time in times)


def test_committed_results_say_where_they_come_from(committed):
    assert committed["provenance"]["command"].startswith("python -m benchmarks.attention_cost")
    assert "1 threads" in committed["provenance"]["hardware"]
    for axis in ("over n", "over d"):
        sizes = committed[axis][axis[-1]]
        for row in committed[axis]["layers"].values():
            assert len(row["ms"]) == len(sizes)
            fits = {which: cost.slope(sizes[part], row["ms"][part]) for which, part in
                    (("all", slice(None)), ("largest three", slice(-3, None)))}  # fmt: skip
            for which, (middle, least, greatest) in row["exponents"].items():
                assert least <= middle <= greatest
                assert fits[which] == pytest.approx(middle, abs=0.15)
