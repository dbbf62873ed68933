"""The learning rate to the digits of the published logs, and which parameters decay."""

import math

import pytest
import torch
from torch import nn

from minirsa.models.rsanet import rsanet_r50, rsanet_small
from minirsa.training.recipes import PRESETS
from minirsa.training.schedule import (
    PUBLISHED_RUNS,
    learning_rate,
    learning_rates,
    parameter_groups,
    published_run,
    rate,
)


@pytest.mark.parametrize("name", list(PUBLISHED_RUNS))
def test_rates_are_those_of_the_published_log_to_its_five_digits(name):
    logged = [row.lr for row in published_run(name)]
    assert len(logged) == 80
    assert [f"{lr:.5f}" for lr in learning_rates(PRESETS[name])] == [f"{lr:.5f}" for lr in logged]


def test_published_runs_end_at_the_published_accuracies():
    last = published_run("ssv1-16f")[-1], published_run("ssv2-16f")[-2]
    assert [round(row.val_top1, 1) for row in last] == [54.0, 66.0]
    assert [row.epoch for row in last] == [79, 78]
    assert published_run("ssv2-16f")[0].val_top1 is None
    with pytest.raises(ValueError, match="did you mean 'ssv1-16f'"):
        published_run("ssv1-8f")


def test_rate_reaches_both_its_ends_exactly_and_is_monotone_between():
    rates = [rate(i, 50, peak=0.3, warmup=4, final_fraction=0.01) for i in range(50)]
    assert rates[3] == 0.3
    assert rates[-1] == pytest.approx(0.003)
    assert rates[:4] == sorted(rates[:4])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[26] == pytest.approx(0.003 + 0.297 / 2)  # half-way down: 23 of 46 steps
    assert rate(0, 1, peak=0.3, warmup=0, final_fraction=0.5) == 0.15
    for step in (-1, 50):
        with pytest.raises(ValueError, match="expected a step from 0 to 49"):
            rate(step, 50, peak=0.3, warmup=4, final_fraction=0.01)


def test_rate_changes_once_an_epoch_or_at_every_step():
    recipe = PRESETS["ssv1-8f"]
    assert len({learning_rate(recipe, 3, step, 10) for step in range(10)}) == 1
    stepped = recipe.replace(stepped_by="step")
    rates = [learning_rate(stepped, epoch, step, 10) for epoch in range(80) for step in range(10)]
    assert len(set(rates[:400])) == 400
    assert rates[49] == max(rates) == 0.02
    assert rates[-1] == pytest.approx(2e-5)
    assert learning_rates(recipe.replace(batch_size=128)) == pytest.approx([2 * lr for lr in learning_rates(recipe)])


def group_of(groups, parameter):
    (found,) = [group for group in groups if any(entry is parameter for entry in group["params"])]
    return found


def test_norms_and_biases_do_not_decay_and_the_classifier_bias_moves_twice_as_fast():
    recipe = PRESETS["ssv1-8f"]
    model = rsanet_r50(174, 8)
    groups = parameter_groups(model, recipe)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert {group_of(groups, p)["name"] for p in module.parameters()} == {"norms and biases"}
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0, 0.0]
    assert [group["lr_scale"] for group in groups] == [1.0, 1.0, 2.0]
    assert [id(p) for p in groups[2]["params"]] == [id(model.classifier.bias)]
    weights = [group_of(groups, p)["name"] for p in (model.stem.weight, model.classifier.weight)]
    for layer in model.relational_layers().values():  # P1 and I have no layer of their own; the release decays them too
        weights += [group_of(groups, parameter)["name"] for parameter in layer.parameters()]
    assert set(weights) == {"weights"}


def test_frozen_and_shared_parameters_and_plain_models():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm((1, 2)), nn.Linear(2, 2, bias=False))
    model[2].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    weights, others = parameter_groups(model, PRESETS["ssv1-8f"])
    assert [p is model[0].weight for p in weights["params"]] == [True]
    assert {id(p) for p in others["params"]} == {id(p) for p in model[1].parameters()}  # two axes, and still a norm
    with pytest.raises(ValueError, match="expected a model with parameters to train, got Identity"):
        parameter_groups(nn.Identity(), PRESETS["ssv1-8f"])


def test_one_step_moves_each_group_by_its_rate_and_decay():
    """Without a gradient only decay moves a weight; with one, the classifier's bias goes twice as far as a norm's."""
    recipe = PRESETS["motion-ci"].replace(lr=0.5, weight_decay=0.1, momentum=0.9)
    model = rsanet_small(12, 8)
    groups = parameter_groups(model, recipe)
    optimizer = torch.optim.SGD(groups, lr=recipe.peak_lr, momentum=0.9, nesterov=True)
    for group in optimizer.param_groups:
        group["lr"] = recipe.peak_lr * group["lr_scale"]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = torch.full_like(parameter, 1.0 if name.endswith("bias") else 0.0)
    optimizer.step()
    moved = {name: (parameter.detach() - before[name]) for name, parameter in model.named_parameters()}
    far = 0.5 * 1.9  # Nesterov's first step: the gradient and 0.9 of the momentum, which is the gradient
    torch.testing.assert_close(moved["classifier.bias"], torch.full((12,), -2 * far))
    torch.testing.assert_close(moved["stem_norm.bias"], torch.full_like(moved["stem_norm.bias"], -far))
    torch.testing.assert_close(moved["stem_norm.weight"], torch.zeros_like(moved["stem_norm.weight"]))
    torch.testing.assert_close(moved["stem.weight"], -0.1 * far * before["stem.weight"])
    assert math.isclose(far, 0.95)
