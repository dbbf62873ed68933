"""Local self-attention against a loop over the neighbourhood, and its limits."""

import pytest
import torch

from minirsa.complexity import measure
from minirsa.layers import LocalSelfAttention


def randomised(layer: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer


def attention_loop(layer: LocalSelfAttention, x: torch.Tensor) -> torch.Tensor:
    """softmax(q K^T / sqrt(c) + q P^T / sqrt(c)) V with plain loops over positions, heads and neighbours."""
    _, C, T, H, W = x.shape
    c = layer.width
    projected = torch.einsum("oc,bcthw->bothw", layer.projection.weight[:, :, 0, 0, 0], x)[0]
    half = [s // 2 for s in layer.kernel_size]
    offsets = [(i, j, k) for i in range(-half[0], half[0] + 1) for j in range(-half[1], half[1] + 1)
               for k in range(-half[2], half[2] + 1)]  # fmt: skip
    out = torch.zeros(1, C, T, H, W, dtype=x.dtype)
    for t, h, w in ((t, h, w) for t in range(T) for h in range(H) for w in range(W)):
        for head in range(layer.heads):
            channels = slice(head * c, (head + 1) * c)
            query = projected[:C][channels][:, t, h, w]
            scores, values = [], []
            for m, (i, j, k) in enumerate(offsets):
                if 0 <= t + i < T and 0 <= h + j < H and 0 <= w + k < W:
                    key = projected[C : 2 * C][channels][:, t + i, h + j, w + k]
                    position = 0 if layer.P is None else query @ layer.P[head, m]
                    scores.append((query @ key + position) / c**0.5)
                    values.append(projected[2 * C :][channels][:, t + i, h + j, w + k])
            out[0, channels, t, h, w] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return out


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("shape", [(1, 6, 3, 4, 5), (1, 6, 1, 2, 2)])
def test_layer_equals_plain_loops(positions, shape):
    layer = randomised(LocalSelfAttention(6, heads=3, kernel_size=(3, 3, 5), relative_positions=positions).double())
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x), attention_loop(layer, x), rtol=0, atol=1e-12)


def test_counted_forward_is_the_same_output():
    layer = randomised(LocalSelfAttention(6, heads=2, kernel_size=(3, 3, 3)).double())
    x = torch.randn(2, 6, 3, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(layer.counted_forward(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", ["meta", None])
def test_multiply_adds_are_counted_on_every_device(device):
    """Projection C x 3C; scores, positions and output M c a head each: 3 C C + 3 M C at each of T H W positions."""
    layer = LocalSelfAttention(8, heads=2, kernel_size=(3, 3, 3))
    cost = measure(layer, torch.rand(1, 8, 4, 6, 6), device=device)
    assert cost.macs == 4 * 6 * 6 * (3 * 8 * 8 + 3 * 27 * 8)


def test_weights_sum_to_one_and_vanish_outside_the_clip():
    layer = randomised(LocalSelfAttention(4, heads=2, kernel_size=(3, 3, 3)).double())
    weights = layer.kernels(torch.randn(2, 4, 2, 3, 3, dtype=torch.float64))
    assert weights.shape == (2, 2, 27, 2, 3, 3)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 2, 2, 3, 3, dtype=torch.float64))
    assert (weights[:, :, :9, 0] == 0).all()  # frame -1 does not exist
    assert (weights[:, :, 9:18, 0, 1, 1] > 0).all()


def test_gradcheck():
    layer = randomised(LocalSelfAttention(4, heads=2, kernel_size=(3, 3, 1)).double())
    x = torch.randn(1, 4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    parameters = tuple(layer.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *parameters))


@pytest.mark.parametrize("options", [{"channels": 6, "heads": 4}, {"channels": 4, "heads": 2, "kernel_size": (2, 3)}])
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError, match="must"):
        LocalSelfAttention(**options)


def test_wrong_shape_names_what_was_expected():
    with pytest.raises(ValueError, match=r"expected \(B, 4, T, H, W\).*got \(4, 2, 2, 2\)"):
        LocalSelfAttention(4, heads=2)(torch.zeros(4, 2, 2, 2))
