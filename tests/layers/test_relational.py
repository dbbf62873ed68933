"""Relational self-attention: the release's outputs, three forms and plain loops that agree, and every option."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from minirsa.layers import RelationalSelfAttention, relational_self_attention_loop
from minirsa.layers.relational import contract, l2_normalize, neighbourhood

RELEASE = np.load(Path(__file__).parent / "rsa_release_outputs.npz")
CASES = json.loads(str(RELEASE["meta"]))


def randomised(seed: int = 0, **options) -> RelationalSelfAttention:
    """A float64 layer with every parameter random: initial zeros and identities would hide errors."""
    options = {"channels": 8, "queries": 2, "kernel_size": (3, 3, 3)} | options
    layer = RelationalSelfAttention(**options).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer


def video(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_forms_agree(layer: RelationalSelfAttention, x: torch.Tensor) -> None:
    expected = relational_self_attention_loop(layer, x)
    for form in (layer.forward, layer.counted_forward, layer.attention_form):
        torch.testing.assert_close(form(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_release_weights_give_the_release_outputs(case):
    options = CASES[case] | {"kernel_size": tuple(CASES[case]["kernel_size"]), "stride": tuple(CASES[case]["stride"])}
    tensors = {key[2:]: torch.tensor(RELEASE[key]) for key in RELEASE.files if key.startswith(f"{case}.")}
    x, y = tensors.pop("x"), tensors.pop("y")
    layer = RelationalSelfAttention(**options).double().load_release(tensors)
    torch.testing.assert_close(layer(x), y, rtol=0, atol=1e-10)
    torch.testing.assert_close(relational_self_attention_loop(layer, x), y, rtol=0, atol=1e-10)


def test_release_kernels_of_another_shape_are_refused():
    long, high = randomised(kernel_size=(5, 3, 3)), randomised(kernel_size=(3, 5, 3))
    names = {"H1": "H1.weight", "H2": "H2.weight", "G": "G.weight"}
    tensors = {names.get(name, name): value for name, value in long.state_dict().items()}
    long.load_release(tensors)
    with pytest.raises(ValueError, match=r"weight: cannot fill"):
        high.load_release(tensors)


@pytest.mark.parametrize("tensors", ["missing", "unknown", "shape"])
def test_release_tensors_that_do_not_fit_are_refused(tensors):
    layer = randomised()
    given = {key[2:]: torch.tensor(RELEASE[key]) for key in RELEASE.files if key.startswith("0.")}
    given = {key: value for key, value in given.items() if key not in ("x", "y")}
    if tensors == "missing":
        del given["P1"]
    elif tensors == "unknown":
        given["P2"] = given["P1"]
    else:
        given["P1"] = given["P1"][:, :2]
    with pytest.raises(ValueError, match=r"P1|P2"):
        layer.load_release(given)


@pytest.mark.parametrize("decomposed", [True, False])
@pytest.mark.parametrize(("kernel", "context"), list(itertools.product(["V", "R", "VR"], repeat=2)))
def test_forms_agree_for_every_kernel_and_context(kernel, context, decomposed):
    assert_forms_agree(randomised(kernel=kernel, context=context, decomposed=decomposed), video(2, 8, 3, 4, 5))


@pytest.mark.parametrize("options", [
    {"latent": 3}, {"latent": 7}, {"groups": 1}, {"groups": 2}, {"groups": 2, "decomposed": False},
    {"queries": 1}, {"queries": 8}, {"stride": 2}, {"stride": (2, 2, 1)}, {"kernel_size": (1, 3, 5)},
    {"kernel_size": (5, 7, 7)}, {"stride": (2, 1, 2), "decomposed": False}, {"channels": 40, "queries": 2},
], ids=str)  # fmt: skip
def test_forms_agree_for_every_option(options):
    channels = options.get("channels", 8)
    assert_forms_agree(randomised(**options), video(1, channels, 3, 4, 3))


@pytest.mark.parametrize("shape", [(1, 8, 1, 1, 1), (1, 8, 1, 4, 3), (1, 8, 2, 1, 7), (3, 8, 5, 3, 1)])
def test_short_odd_and_tiny_clips(shape):
    assert_forms_agree(randomised(kernel_size=(5, 5, 5)), video(*shape))


@pytest.mark.parametrize("options", [
    {}, {"kernel": "V"}, {"kernel": "R", "context": "R"}, {"groups": 1, "latent": 3}, {"decomposed": False},
    {"stride": 2}, {"context": "V"},
], ids=str)  # fmt: skip
def test_gradcheck(options):
    layer = randomised(channels=4, **({"kernel_size": (3, 3, 1)} | options))
    x = video(1, 4, 2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize("options", [{}, {"stride": (2, 1, 1)}, {"kernel": "V"}, {"context": "V"}], ids=str)
def test_frames_at_once_changes_neither_outputs_nor_gradients(options, frames):
    x = video(1, 8, 5, 4, 3)
    results = []
    for at_once in (None, frames):
        layer, given = randomised(frames_at_once=at_once, **options), x.clone().requires_grad_()
        y = layer(given)
        grads = torch.autograd.grad(y.square().sum(), [given, *layer.parameters()])
        with torch.no_grad():
            torch.testing.assert_close(layer(x), y, rtol=1e-12, atol=1e-12)
        results.append((y, *grads))
    for whole, parts in zip(*results):
        torch.testing.assert_close(whole, parts, rtol=1e-10, atol=1e-10)


def test_channels_last_applies_to_layer_and_input():
    layer = RelationalSelfAttention(8, queries=2, kernel_size=(3, 3, 3))
    x = torch.randn(2, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = layer(x)
    turned = layer.to(memory_format=torch.channels_last_3d)(x.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(turned, expected)


def test_initial_spread_is_that_of_the_release():
    """He, fan-out, over all kernels of a convolution: std sqrt(2 / (kernels M)); P1 sqrt(1 / (M D)); I the identity."""
    torch.manual_seed(0)
    layer = RelationalSelfAttention(64, queries=2, kernel_size=(5, 7, 7), latent=16)
    M, c, D = 245, 32, 16
    expected = {"H1": 2 / (c * D * M), "H2": 2 / (D * M), "G": 2 / (c * M), "P1": 1 / (M * D)}
    for name, variance in expected.items():
        assert getattr(layer, name).std().item() == pytest.approx(variance**0.5, rel=0.06), name
    assert torch.equal(layer.I, torch.eye(c))


def test_gradient_of_the_gradient():
    layer = randomised(channels=2, queries=1, kernel_size=(1, 3, 1))
    assert torch.autograd.gradgradcheck(layer, (video(1, 2, 1, 2, 1).requires_grad_(),))


def test_wide_keys_take_the_grouped_convolution_and_agree():
    """More than 16 channels a query leave the channel-by-channel path; both are exact."""
    narrow, wide = randomised(channels=32, queries=2), randomised(channels=34, queries=2)
    for layer in (narrow, wide):
        x = video(1, layer.channels, 2, 4, 3)
        torch.testing.assert_close(layer(x), layer.counted_forward(x), rtol=1e-10, atol=1e-10)


def test_kernels_times_context_is_the_output():
    layer = randomised(context="V")
    x = video(2, 8, 3, 4, 4)
    kernels = layer.kernels(x)
    assert kernels.basic.shape == kernels.relational.shape == (2, 2, 27, 3, 4, 4)
    value = neighbourhood(layer.project(x)[2], layer.kernel_size)
    y = torch.einsum("blmthw,bmcthw->bclthw", kernels.total, value).flatten(1, 2)
    torch.testing.assert_close(y, layer(x), rtol=1e-10, atol=1e-10)


def test_basic_kernel_depends_on_the_query_alone_and_the_relational_kernel_does_not():
    layer = randomised()
    x = video(1, 8, 3, 5, 5)
    changed = x.clone()
    changed[:, :, 1, 2, 3] += 1  # a neighbour of position (1, 2, 2)
    here = (0, slice(None), slice(None), 1, 2, 2)
    before, after = layer.kernels(x), layer.kernels(changed)
    torch.testing.assert_close(before.basic[here], after.basic[here], rtol=0, atol=0)
    assert (before.relational[here] - after.relational[here]).abs().max() > 1e-3


def test_reversed_clip_has_the_same_basic_kernels_and_other_relational_kernels():
    layer = randomised()
    x = video(1, 8, 5, 4, 4)
    forwards, backwards = layer.kernels(x), layer.kernels(x.flip(2))
    torch.testing.assert_close(forwards.basic, backwards.basic.flip(3), rtol=1e-12, atol=1e-12)
    assert (forwards.relational - backwards.relational.flip(3)).abs().max() > 1e-2


def test_parts_that_are_off_are_zero():
    x = video(1, 8, 2, 3, 3)
    assert (randomised(kernel="R").kernels(x).basic == 0).all()
    assert (randomised(kernel="V").kernels(x).relational == 0).all()


def test_reach_is_the_neighbourhood():
    """A change at one position moves the outputs in its 3x3x3 neighbourhood and no other."""
    layer = randomised()
    x = video(1, 8, 5, 6, 6)
    changed = x.clone()
    changed[:, :, 2, 3, 3] += 1
    moved = (layer(x) - layer(changed)).abs().amax(1)[0] > 1e-12
    expected = torch.zeros(5, 6, 6, dtype=torch.bool)
    expected[1:4, 2:5, 2:5] = True
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_and_finite(dtype):
    layer = RelationalSelfAttention(16, queries=2, kernel_size=(3, 5, 5))
    x = 300 * torch.randn(1, 16, 4, 8, 8, generator=torch.Generator().manual_seed(0))  # squares overflow in float16
    expected = layer(x)
    half = layer.to(dtype)(x.to(dtype))
    assert half.dtype == dtype
    error = (half.float() - expected).norm() / expected.norm()
    assert error < 0.03


def test_norm_of_half_precision_is_taken_in_float32():
    x = torch.full((1, 4), 200.0, dtype=torch.float16)  # the sum of squares, 160000, exceeds float16
    torch.testing.assert_close(l2_normalize(x, 1), torch.full((1, 4), 0.5, dtype=torch.float16))


def test_autocast_trains():
    layer = RelationalSelfAttention(16, queries=2, kernel_size=(3, 3, 3))
    x = torch.randn(1, 16, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    y.float().square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in layer.parameters())
    torch.testing.assert_close(y.float(), layer(x), rtol=0.1, atol=0.1 * float(y.detach().float().abs().max()))


def test_contract_is_a_matrix_product_at_every_position():
    a, b = video(2, 3, 4, 2, 2, 3), video(2, 4, 5, 2, 2, 3, seed=2)
    torch.testing.assert_close(contract(a, b), torch.einsum("blkthw,bkdthw->bldthw", a, b))


@pytest.mark.parametrize(("options", "words"), [
    ({"queries": 3}, "queries must divide channels"),
    ({"kernel": "Q"}, "kernel and context"),
    ({"context": ""}, "kernel and context"),
    ({"kernel_size": (4, 3, 3)}, "three odd numbers"),
    ({"kernel_size": (3, 3)}, "three odd numbers"),
        ({"kernel_size": 3}, "three odd numbers"),
    ({"groups": 3}, "groups must divide"),
    ({"latent": 0}, "latent must be positive"),
    ({"kernel": "V", "latent": 3}, "latent must be 4"),
    ({"decomposed": False, "latent": 4}, "no latent dimension"),
    ({"frames_at_once": 0}, "frames_at_once"),
    ({"frames_at_once": 2, "decomposed": False}, "frames_at_once"),
    ({"stride": 0}, "stride"),
], ids=str)  # fmt: skip
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        RelationalSelfAttention(**({"channels": 8, "queries": 2} | options))


@pytest.mark.parametrize("shape", [(8, 3, 4, 4), (1, 6, 3, 4, 4), (1, 8, 0, 4, 4)])
def test_wrong_shape_names_what_was_expected_and_got(shape):
    with pytest.raises(ValueError, match=r"expected \(B, 8, T, H, W\).*got") as error:
        RelationalSelfAttention(8, queries=2)(torch.zeros(shape))
    assert str(tuple(shape)) in str(error.value)
