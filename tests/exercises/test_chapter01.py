"""The checkers of chapter 1 accept right answers and refuse known wrong ones."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from minirsa.exercises import chapter01

CHAPTER = Path(__file__).resolve().parents[2] / "book" / "01_luong_attention.ipynb"


@pytest.mark.parametrize("name", ["concat_scores", "local_weights", "attentional_step"])
def test_the_chapters_solutions_are_accepted(name):
    """The function as it stands under "Solution" on the page."""
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    exercises = prose[prose.index("## Exercises") :]
    (source,) = [code for code in re.findall(r"```python\n(.*?)```", exercises, re.DOTALL) if f"def {name}(" in code]
    functions = {"math": math, "torch": torch}
    exec(source, functions)
    assert getattr(chapter01, f"check_{name}")(functions[name]).startswith("Right")


def test_the_solution_by_hand_is_right():
    h_t, sources = torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 3.0], [math.log(2), 1.0], [0.0, 1.0]])
    weights = (sources @ h_t).softmax(0)
    torch.testing.assert_close(weights, torch.tensor([0.25, 0.5, 0.25]))
    torch.testing.assert_close(weights @ sources, torch.tensor([math.log(2) / 2, 1.5]))
    torch.testing.assert_close((sources[:2] @ h_t).softmax(0), torch.tensor([1 / 3, 2 / 3]))


def concat_scores(target, source, W_a, v_a, *, activation=torch.tanh):
    of_target, of_source = W_a.split(target.shape[1], dim=1)
    both = (target @ of_target.T)[:, None] + (source @ of_source.T)[None]
    return activation(both) @ v_a


def test_concat_scores_are_accepted():
    assert "tanh" in chapter01.check_concat_scores(concat_scores)


@pytest.mark.parametrize("wrong", [
    lambda target, source, W_a, v_a: concat_scores(target, source, W_a.roll(target.shape[1], 1), v_a),
    lambda target, source, W_a, v_a: concat_scores(target, source, W_a, v_a, activation=lambda x: x),
    lambda target, source, W_a, v_a: concat_scores(target, source, W_a, v_a).softmax(-1),
    lambda target, source, W_a, v_a: concat_scores(source, target, W_a, v_a),
    lambda target, source, W_a, v_a: concat_scores(target, source, W_a, v_a).T,
    lambda target, source, W_a, v_a: concat_scores(target, source, torch.cat(W_a.T.chunk(2), 1).T.reshape(W_a.shape),
                                                   v_a),
    lambda target, source, W_a, v_a: (target @ W_a[:, : target.shape[1]].T).tanh() @ v_a,
    lambda target, source, W_a, v_a: (target @ source.T),
])  # fmt: skip
def test_wrong_concat_scores_are_refused(wrong):
    with pytest.raises((AssertionError, RuntimeError)):
        chapter01.check_concat_scores(wrong)


def every_pair_end_to_end(target, source, W_a, v_a):
    n, m = len(target), len(source)
    pairs = torch.cat([target[:, None].expand(n, m, -1), source[None].expand(n, m, -1)], -1)
    return (pairs @ W_a.T).tanh() @ v_a


def every_state_once_a_pair(target, source, W_a, v_a):
    of_target, of_source = W_a.split(target.shape[1], dim=1)
    again = target[:, None].expand(-1, len(source), -1) @ of_target.T
    return (again + source @ of_source.T).tanh() @ v_a


@pytest.mark.parametrize(("wasteful", "reason"), [
    (every_pair_end_to_end, "is stored"),
    (every_state_once_a_pair, "multiply-adds"),
])  # fmt: skip
def test_concat_scores_that_multiply_every_pair_are_refused(wasteful, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter01.check_concat_scores(wasteful)


def local_weights(target, source, W_p, v_p, D, *, sigma=0.5, length=0, shift=0.0, window=True, renormalise=False):
    S = len(source)
    p = (S + length) * torch.sigmoid(torch.tanh(target @ W_p.T) @ v_p)[:, None]  # (n, 1)
    distance = torch.arange(S) + shift - p  # (n, S)
    scores = target @ source.T
    if window:
        scores = scores.masked_fill(distance.abs() > D, float("-inf"))
    weights = scores.softmax(-1) * torch.exp(-(distance**2) / (2 * (sigma * D) ** 2))
    if not window:
        weights = weights.masked_fill(distance.abs() > D, 0.0)
    return weights / weights.sum(-1, keepdim=True) if renormalise else weights


def test_local_weights_are_accepted():
    assert "sigma" in chapter01.check_local_weights(local_weights)


@pytest.mark.parametrize("wrong", [
    {"sigma": 1.0}, {"sigma": 0.25}, {"length": -1}, {"shift": 1.0}, {"window": False}, {"renormalise": True},
])  # fmt: skip
def test_wrong_local_weights_are_refused(wrong):
    with pytest.raises(AssertionError, match="largest error"):
        chapter01.check_local_weights(lambda *inputs: local_weights(*inputs, **wrong))


def test_local_weights_without_the_predicted_position_are_refused():
    def monotonic(target, source, W_p, v_p, D):
        distance = torch.arange(len(source)) - torch.arange(len(target))[:, None]
        return (target @ source.T).masked_fill(distance.abs() > D, float("-inf")).softmax(-1)

    with pytest.raises(AssertionError, match="largest error"):
        chapter01.check_local_weights(monotonic)


def attentional_step(model, tokens, state, *, fed=lambda state: state.fed, order="context first", mask=True, feed="h~"):
    embedded = torch.cat([model.target_embedding(tokens), fed(state)], 1)
    h, _ = model.decoder(embedded[:, None], (state.hidden, state.cell))
    scores = h @ state.memory.transpose(1, 2)  # (B, 1, n)
    if mask:
        scores = scores.masked_fill(~state.mask, float("-inf"))
    context = scores.softmax(-1) @ state.memory
    parts = [context, h] if order == "context first" else [h, context]
    attentional = model.combine(torch.cat(parts, 2)).tanh()[:, 0]
    scored = attentional if feed == "h~" else h[:, 0]
    return model.output(scored).log_softmax(-1), attentional


def test_attentional_step_is_accepted():
    assert "padding" in chapter01.check_attentional_step(attentional_step)


@pytest.mark.parametrize(("wrong", "reason"), [
    ({"fed": lambda state: torch.zeros_like(state.fed)}, "second step"),
    ({"fed": lambda state: state.hidden[-1]}, "first step"),
    ({"order": "state first"}, "first step"),
    ({"mask": False}, "first step"),
    ({"feed": "h"}, "log-prob"),
])  # fmt: skip
def test_wrong_steps_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter01.check_attentional_step(lambda *inputs: attentional_step(*inputs, **wrong))


def test_a_step_that_returns_one_thing_is_refused():
    with pytest.raises(AssertionError, match="two tensors"):
        chapter01.check_attentional_step(lambda *inputs: attentional_step(*inputs)[0])
