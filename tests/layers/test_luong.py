"""Luong's attention against loops over his equations, and what padding, position and window may change."""

import math

import pytest
import torch

from minirsa.layers.luong import SCORES, AlignmentScore, LocalAttention, LuongAttention

LOCAL = [(alignment, score) for alignment in ("monotonic", "predictive") for score in SCORES]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module.double()


def score_loop(score, h_t, h_s):
    """One number, from the equations of section 3.1 as they are printed."""
    if score.kind == "dot":
        return sum(h_t[i] * h_s[i] for i in range(len(h_t)))
    if score.kind == "general":
        W = score.W_a.weight
        return sum(h_t[i] * W[i, j] * h_s[j] for i in range(len(h_t)) for j in range(len(h_s)))
    return score.v_a.weight[0] @ torch.tanh(score.W_a.weight @ torch.cat([h_t, h_s]))


def global_loop(layer, target, source):
    """Equation 7 and the weighted mean, one target state and one source state at a time, for one sentence."""
    contexts, weights = torch.zeros_like(target), torch.zeros(len(target), len(source), dtype=target.dtype)
    for t, h_t in enumerate(target):
        exponentials = [torch.exp(score_loop(layer.score, h_t, h_s)) for h_s in source]
        for s, h_s in enumerate(source):
            weights[t, s] = exponentials[s] / sum(exponentials)
            contexts[t] += weights[t, s] * h_s
    return contexts, weights


def local_loop(layer, target, source, start=0):
    """Equations 7, 9 and 10 and the window [p_t - D, p_t + D], for one sentence."""
    contexts, weights = torch.zeros_like(target), torch.zeros(len(target), len(source), dtype=target.dtype)
    sigma = layer.window / 2
    for t, h_t in enumerate(target):
        p = float(start + t)
        if layer.alignment == "predictive":
            inner = layer.v_p.weight[0] @ torch.tanh(layer.W_p.weight @ h_t)
            p = len(source) / (1 + torch.exp(-inner))
        near = [s for s in range(len(source)) if p - layer.window <= s <= p + layer.window]
        exponentials = {s: torch.exp(score_loop(layer.score, h_t, source[s])) for s in near}
        for s in near:
            weights[t, s] = exponentials[s] / sum(exponentials.values())
            if layer.alignment == "predictive":
                weights[t, s] = weights[t, s] * torch.exp(-((s - p) ** 2) / (2 * sigma**2))
            contexts[t] += weights[t, s] * source[s]
    return contexts, weights


@pytest.mark.parametrize("score", SCORES)
def test_global_attention_is_the_loop(score):
    layer = randomised(LuongAttention(4, score))
    target, source = draw(3, 5, 4), draw(3, 7, 4, seed=1)
    context, weights = layer(target, source, return_weights=True)
    for b in range(3):
        expected = global_loop(layer, target[b], source[b])
        torch.testing.assert_close((context[b], weights[b]), expected)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 5, dtype=torch.float64))
    torch.testing.assert_close(layer(target, source), context)


@pytest.mark.parametrize(("alignment", "score"), LOCAL)
@pytest.mark.parametrize("window", [1, 2, 9])
def test_local_attention_is_the_loop(alignment, score, window):
    layer = randomised(LocalAttention(4, window, alignment=alignment, score=score))
    target, source = draw(2, 5, 4), draw(2, 7, 4, seed=1)
    context, weights = layer(target, source, start=1, return_weights=True)
    for b in range(2):
        expected = local_loop(layer, target[b], source[b], start=1)
        torch.testing.assert_close((context[b], weights[b]), expected)
    torch.testing.assert_close(layer(target, source, start=1), context)


def test_scores_of_three_words_by_hand():
    """h_t = (1, 2) on the words (2, 0), (0, 1), (1, 1): dot 2, 2, 3, so weights 1 : 1 : e."""
    target = torch.tensor([[[1.0, 2.0]]], dtype=torch.float64)
    source = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]], dtype=torch.float64)
    context, weights = LuongAttention(2, "dot")(target, source, return_weights=True)
    expected = torch.tensor([1.0, 1.0, math.e], dtype=torch.float64) / (2 + math.e)
    torch.testing.assert_close(weights[0, 0], expected)
    torch.testing.assert_close(context[0, 0], torch.stack([2 + math.e * torch.ones(()), 1 + math.e * torch.ones(())])
                               .double() / (2 + math.e))  # fmt: skip


def test_general_with_the_identity_is_dot():
    general, dot = randomised(AlignmentScore(4, "general")), AlignmentScore(4, "dot")
    with torch.no_grad():
        general.W_a.weight.copy_(torch.eye(4))
    target, source = draw(2, 3, 4), draw(2, 5, 4, seed=1)
    torch.testing.assert_close(general(target, source), dot(target, source))


@pytest.mark.parametrize("score", SCORES)
def test_a_window_wider_than_the_source_is_global_attention(score):
    local = randomised(LocalAttention(4, 20, alignment="monotonic", score=score))
    full = LuongAttention(4, score).double()
    full.load_state_dict(local.state_dict())
    target, source = draw(2, 3, 4), draw(2, 5, 4, seed=1)
    torch.testing.assert_close(local(target, source), full(target, source))


LAYERS = [lambda score=score: LuongAttention(4, score) for score in SCORES]
LAYERS += [lambda a=a, score=score: LocalAttention(4, 2, alignment=a, score=score) for a, score in LOCAL]


@pytest.mark.parametrize("make", LAYERS)
def test_padding_changes_nothing_and_words_do(make):
    layer = randomised(make())
    target, source = draw(2, 3, 4), draw(2, 5, 4, seed=1)
    mask = torch.tensor([[[True] * 5], [[True] * 3 + [False] * 2]])
    context, weights = layer(target, source, mask=mask, return_weights=True)
    assert (weights[1, :, 3:] == 0).all()
    torch.testing.assert_close(context[1], layer(target[1:], source[1:, :3])[0])
    other = source.clone()
    other[1, 3:] = 1e3
    torch.testing.assert_close(layer(target, other, mask=mask), context, rtol=0, atol=0)
    other[1, 2] += 1
    assert not torch.allclose(layer(target, other, mask=mask)[1], context[1])


def test_a_target_without_a_word_to_look_at_gets_zeros():
    target, source = draw(1, 4, 4), draw(1, 3, 4, seed=1)
    nothing = torch.zeros(1, 1, 3, dtype=torch.bool)
    for layer in (LuongAttention(4).double(), LocalAttention(4, 2).double()):
        context, weights = layer(target, source, mask=nothing, return_weights=True)
        assert (context == 0).all()
        assert (weights == 0).all()
    local = LocalAttention(4, 1, alignment="monotonic").double()
    context = local(target, source, start=2)  # p_t = 2, 3, 4, 5 in a source of three: the last two see none
    assert [bool((row == 0).all()) for row in context[0]] == [False, False, True, True]


def test_monotonic_windows_follow_the_step():
    layer = LocalAttention(4, 1, alignment="monotonic").double()
    target, source = draw(1, 4, 4), draw(1, 6, 4, seed=1)
    whole, weights = layer(target, source, return_weights=True)
    assert [(row > 0).nonzero().flatten().tolist() for row in weights[0]] == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    single = [layer(target[:, t : t + 1], source, start=t) for t in range(4)]
    torch.testing.assert_close(torch.cat(single, 1), whole)


def test_predicted_positions_lie_in_the_source_and_use_its_own_length():
    layer = randomised(LocalAttention(4, 2))
    target = draw(2, 50, 4)
    positions = layer.positions(target, torch.tensor([6, 3]))
    assert ((positions > 0) & (positions < torch.tensor([[6], [3]]))).all()
    torch.testing.assert_close(positions[1], layer.positions(target, torch.tensor([6, 6]))[1] / 2)


def test_gaussian_falls_off_around_the_predicted_position():
    layer = LocalAttention(4, 2, score="dot").double()
    torch.nn.init.zeros_(layer.v_p.weight)  # sigmoid(0) = 1/2: p_t = S / 2
    source = draw(1, 1, 4).expand(1, 8, 4)  # all scores are equal: 1/5 for each of the window's five words
    _, weights = layer(draw(1, 1, 4, seed=1), source, return_weights=True)
    bell = [math.exp(-((s - 4) ** 2) / 2) / 5 for s in (2, 3, 4, 5, 6)]  # sigma = D / 2 = 1
    torch.testing.assert_close(weights[0, 0], torch.tensor([0, 0, *bell, 0], dtype=torch.float64))


@pytest.mark.parametrize("make", LAYERS)
def test_gradients_are_those_of_the_function(make):
    layer = randomised(make(), seed=3)
    target, source = draw(2, 3, 4).requires_grad_(), draw(2, 5, 4, seed=1).requires_grad_()
    mask = torch.tensor([[[True] * 5], [[True] * 4 + [False]]])
    parameters = dict(layer.named_parameters())

    def run(target, source, *values):
        named = dict(zip(parameters, values))
        return torch.func.functional_call(layer, named, (target, source), {"mask": mask, "return_weights": True})

    assert torch.autograd.gradcheck(run, (target, source, *parameters.values()))


def test_the_predicted_position_learns():
    layer = randomised(LocalAttention(4, 2))
    layer(draw(2, 3, 4), draw(2, 9, 4, seed=1)).sum().backward()
    assert layer.W_p.weight.grad.abs().sum() > 0
    assert layer.v_p.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("make", [
    lambda: LuongAttention(4, "cosine"), lambda: LuongAttention(0), lambda: LocalAttention(4, 0),
    lambda: LocalAttention(4, 2.5),
    lambda: LocalAttention(4, 2, alignment="local-m"), lambda: LocalAttention(4, 2, score=None),
])  # fmt: skip
def test_options_that_do_not_fit_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


@pytest.mark.parametrize("layer", [LuongAttention(4), LocalAttention(4, 2)])
@pytest.mark.parametrize(("target", "source", "mask", "reason"), [
    ((2, 3, 5), (2, 4, 5), None, "target"),
    ((2, 3, 4), (2, 4, 5), None, "source"),
    ((2, 3, 4), (1, 4, 4), None, "one source for each target"),
    ((3, 4), (2, 4, 4), None, "target"),
    ((2, 3, 4), (2, 0, 4), None, "source"),
    ((2, 3, 4), (2, 5, 4), torch.ones(2, 1, 5), "torch.bool"),
    ((2, 3, 4), (2, 5, 4), torch.ones(2, 1, 4, dtype=torch.bool), "broadcasts"),
])  # fmt: skip
def test_inputs_that_do_not_fit_are_refused(layer, target, source, mask, reason):
    with pytest.raises(ValueError, match=reason):
        layer(torch.zeros(target), torch.zeros(source), mask=mask)


def test_windows_keep_their_place_in_half_precision():
    """bfloat16 has 8 bits: 599 would become 600. The window has to lie around step 599 itself."""
    layer, x = LocalAttention(4, 2, alignment="monotonic").bfloat16(), torch.zeros(1, 600, 4, dtype=torch.bfloat16)
    context, weights = layer(x, x, return_weights=True)
    assert context.dtype == weights.dtype == torch.bfloat16
    assert weights[0, 595].nonzero().flatten().tolist() == [593, 594, 595, 596, 597]
    predictive = LocalAttention(4, 2).bfloat16()
    assert predictive(x, x).dtype == torch.bfloat16
    assert predictive.positions(x, torch.tensor([600])).dtype == torch.float32


def test_local_attention_refuses_masks_that_are_no_padding():
    layer, target, source = LocalAttention(4, 2), torch.zeros(1, 2, 4), torch.zeros(1, 3, 4)
    with pytest.raises(ValueError, match="behind the words"):
        layer(target, source, mask=torch.tensor([[[True, False, True]]]))
    with pytest.raises(ValueError, match="padding mask"):
        layer(target, source, mask=torch.ones(1, 2, 3, dtype=torch.bool))


def test_score_refuses_states_of_another_width():
    with pytest.raises(ValueError, match="4"):
        AlignmentScore(4)(torch.zeros(2, 3), torch.zeros(2, 4))
