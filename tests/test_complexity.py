"""Counts that a reader can redo with a pencil, and what `measure` must leave alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minirsa.complexity import Complexity, measure, path_length, sequential_products


def test_linear_layer_multiplies_every_weight_once_per_row():
    assert measure(nn.Linear(5, 7), torch.zeros(3, 5)) == Complexity(params=5 * 7 + 7, macs=3 * 5 * 7)


def test_convolution_multiplies_every_weight_once_per_position():
    layer = nn.Conv3d(4, 6, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False)
    counted = measure(layer, torch.zeros(2, 4, 5, 8, 8))
    assert counted == Complexity(params=4 * 6 * 9, macs=2 * (5 * 4 * 4) * (4 * 6 * 9))


def test_grouped_convolution_counts_its_own_channels_only():
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    assert measure(layer, torch.zeros(1, 8, 10, 10)) == Complexity(params=72, macs=100 * 72)


class Attention(nn.Module):
    def forward(self, query, key, value):
        return F.scaled_dot_product_attention(query, key, value)


@pytest.mark.parametrize("device", ["meta", None])
def test_attention_is_two_products(device):
    batch, heads, tokens, width = 2, 3, 10, 4
    tensors = [torch.zeros(batch, heads, tokens, width) for _ in range(3)]
    counted = measure(Attention(), *tensors, device=device)
    assert counted == Complexity(params=0, macs=2 * batch * heads * tokens * tokens * width)


def test_torch_transformer_layer_is_counted_although_it_has_a_fused_path():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    tokens = 5
    projections, scores, mlp = 4 * tokens * 8 * 8, 2 * tokens * tokens * 8, 2 * tokens * 8 * 16
    assert measure(layer, torch.zeros(1, tokens, 8), device=None).macs == projections + scores + mlp
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("device", ["meta", None])
@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_recurrent_layers_multiply_input_and_state_once_per_gate_and_position(kind, gates, device):
    counted = measure(kind(6, 6, batch_first=True), torch.zeros(1, 5, 6), device=device)
    assert counted.macs == gates * 2 * 5 * 6 * 6


def test_shared_parameters_count_once():
    first = nn.Linear(4, 4, bias=False)
    assert measure(nn.Sequential(first, first), torch.zeros(1, 4)) == Complexity(params=16, macs=32)


class Elementwise(nn.Module):
    """A matrix product that hides from the counter, and its counted arrangement."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5))

    def forward(self, x):
        return (x[:, :, None] * self.weight).sum(1)

    def counted_forward(self, x):
        return x @ self.weight


def test_counted_forward_stands_in_for_forward_and_is_taken_out_again():
    module = nn.Sequential(Elementwise())
    assert measure(module, torch.zeros(2, 3)) == Complexity(params=15, macs=2 * 3 * 5)
    assert "forward" not in vars(module[0])


def test_measuring_leaves_mode_gradients_buffers_and_random_state_alone():
    norms = nn.BatchNorm2d(3), nn.BatchNorm2d(4)
    model = nn.Sequential(norms[0], nn.Conv2d(3, 4, 3), norms[1], nn.Dropout(), nn.Flatten(), nn.Linear(64, 2))
    images = torch.randn(2, 3, 6, 6)
    model(images).sum().backward()
    model.train()
    norms[1].eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradient = model[1].weight.grad.clone()
    for device in ("meta", None):
        before = torch.get_rng_state()
        measure(model, images, device=device)
        assert torch.equal(before, torch.get_rng_state())
    assert [module.training for module in model] == [True, True, False, True, True, True]
    assert torch.equal(gradient, model[1].weight.grad)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert images.device.type == "cpu"
    assert model(images).requires_grad


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


def test_random_numbers_drawn_while_measuring_do_not_count():
    before = torch.get_rng_state()
    measure(Noisy(), torch.zeros(4), device=None)
    assert torch.equal(before, torch.get_rng_state())


class ValueDependent(nn.Module):
    def forward(self, x):
        return x[x > 0] if x.sum().item() > 0 else x


def test_a_model_that_needs_values_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"ValueDependent does not run on the meta device.*device=None"):
        measure(ValueDependent(), torch.ones(3))
    assert measure(ValueDependent(), torch.ones(3), device=None) == Complexity(0, 0)


def test_a_failing_model_is_given_back_whole():
    model = nn.Sequential(Elementwise()).train()
    with pytest.raises(RuntimeError):
        measure(model, torch.zeros(2, 9), device=None)
    assert model.training
    assert "forward" not in vars(model[0])


def test_a_shape_in_place_of_a_tensor_is_refused():
    with pytest.raises(TypeError, match="got tuple as input 0"):
        measure(nn.Linear(5, 7), (3, 5))


def test_complexity_prints_in_the_papers_units():
    assert str(Complexity(22_034_302, 35_887_120_384)) == "22.034 M parameters, 35.887 G multiply-adds"


def test_products_that_need_each_other_form_a_chain_and_others_do_not():
    a, b, c = torch.randn(3, 4, 4)
    assert sequential_products(lambda: a + b) == 0
    assert sequential_products(lambda: (a @ b, b @ c, a @ c)) == 1
    assert sequential_products(lambda: ((a @ b) @ c, b @ c)) == 2
    assert sequential_products(lambda: (a @ b).T.relu()[:2] @ (b @ c) @ a) == 3


@pytest.mark.parametrize("length", [1, 4, 9])
def test_recurrence_waits_once_for_every_position_and_attention_twice_in_all(length):
    recurrent, x = nn.RNN(6, 6, batch_first=True), torch.randn(2, length, 6)
    assert sequential_products(recurrent, x) == length
    assert sequential_products(Attention(), x, x, x) == 2
    assert sequential_products(nn.Conv1d(6, 6, 3, padding=1), x.mT) == 1


def test_chain_through_a_buffer_filled_in_place_is_followed():
    weight = torch.randn(3, 3)

    def fill(length):
        states = torch.zeros(length + 1, 3)
        for i in range(length):
            states[i + 1] = (states[i] @ weight).tanh()
        return states

    assert sequential_products(fill, 5) == 5


def shifted(state, x, index):
    return torch.cat([torch.zeros_like(x[:1]), state[:-1]]) + x


def test_path_of_a_layer_that_passes_on_one_place_a_step():
    x = torch.randn(7, 3, dtype=torch.float64)
    assert path_length(shifted, x) == 6
    assert path_length(shifted, x, torch.zeros_like(x)) == 7  # the first step only takes in the input
    assert path_length(lambda state, x, index: state.mean(0) + x, x) == 1


def test_path_sees_through_a_sum_that_cancels():
    x = torch.randn(4, 8, dtype=torch.float64)
    assert path_length(lambda state, x, index: nn.functional.layer_norm(state.cumsum(0), (8,)), x) == 1


def test_path_that_does_not_exist_is_an_error():
    x = torch.randn(4, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="position 3 does not feel position 0 after 4 steps"):
        path_length(lambda state, x, index: 2 * state, x)
    with pytest.raises(ValueError, match="after 2 steps"):
        path_length(shifted, x, limit=2)
    with pytest.raises(ValueError, match=r"expected a sequence \(n, d\)"):
        path_length(shifted, x[None])
