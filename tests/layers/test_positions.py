"""Positions: the paper's formula number by number, shifts as rotations, and decoding that starts later."""

import math

import pytest
import torch
from torch.testing import assert_close

from minirsa.layers.positions import LearnedPositions, SinusoidalPositions, sinusoidal_positions


def test_sinusoids_are_the_papers_formula():
    table = sinusoidal_positions(7, 6, dtype=torch.float64)
    for position in range(7):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-15)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-15)


def test_base_and_start():
    table = sinusoidal_positions(9, 4, base=100.0)
    assert table[3, 2].item() == pytest.approx(math.sin(3 / 10), abs=1e-7)
    assert_close(sinusoidal_positions(4, 4, base=100.0, start=5), table[5:])


def test_a_shift_is_one_rotation_for_all_positions():
    width, shift = 8, 3
    table = sinusoidal_positions(20, width, dtype=torch.float64)
    rotation = torch.zeros(width, width, dtype=torch.float64)
    for i in range(width // 2):
        angle = torch.tensor(shift / 10000 ** (2 * i / width), dtype=torch.float64)
        rotation[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor(
            [[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]]
        )
    assert_close(table[:-shift] @ rotation.T, table[shift:])


@pytest.mark.parametrize("length", [3, 64, 65, 300])
def test_module_adds_the_table_at_any_length_and_start(length):
    layer, x = SinusoidalPositions(6), torch.zeros(2, length, 6)
    assert_close(layer(x)[1], sinusoidal_positions(length, 6))
    assert_close(layer(x, start=10)[0], sinusoidal_positions(length, 6, start=10))
    assert_close(layer(x.double())[0], sinusoidal_positions(length, 6, dtype=torch.float64))
    assert not list(layer.parameters())
    assert not layer.state_dict()


def test_float64_positions_are_exact_after_a_float32_model_is_converted():
    layer = SinusoidalPositions(6).double()
    assert_close(
        layer(torch.zeros(1, 9, 6, dtype=torch.float64))[0],
        sinusoidal_positions(9, 6, dtype=torch.float64),
        atol=1e-15,
        rtol=0,
    )


def test_learned_positions_are_added_and_learn():
    layer = LearnedPositions(5, 4)
    x = torch.zeros(2, 3, 4)
    assert_close(layer(x)[0], layer.table[:3])
    assert_close(layer(x, start=2)[1], layer.table[2:])
    layer(x).sum().backward()
    assert_close(layer.table.grad, torch.tensor([2.0, 2, 2, 0, 0])[:, None].expand(5, 4))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sinusoidal_positions(4, 5), "even width.*5"),
        (lambda: sinusoidal_positions(-1, 4), "length"),
        (lambda: sinusoidal_positions(4, 4, base=0), "base"),
        (lambda: SinusoidalPositions(3), "even width"),
        (lambda: SinusoidalPositions(4)(torch.zeros(2, 3, 4, dtype=torch.long)), "floating point, got torch.int64"),
        (lambda: SinusoidalPositions(4)(torch.zeros(2, 3, 6)), r"\(B, n, 4\)"),
        (lambda: SinusoidalPositions(4)(torch.zeros(2, 3, 4), start=-1), "start"),
        (lambda: LearnedPositions(0, 4), "length"),
        (lambda: LearnedPositions(5, 4)(torch.zeros(2, 6, 4)), "5 learned ones.*0 to 5"),
        (lambda: LearnedPositions(5, 4)(torch.zeros(2, 3, 4), start=3), "3 to 5"),
    ],
)
def test_errors_say_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_learned_positions_start_small():
    torch.manual_seed(0)
    assert LearnedPositions(100, 50).table.std().item() == pytest.approx(0.02, rel=0.1)
