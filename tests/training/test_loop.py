"""The training loop: the learning rate it promises, runs that repeat, weights that move only as they should."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from minirsa.data.motion import MotionConfig, MotionSet
from minirsa.models.rsanet import rsanet_small
from minirsa.training import Recipe, accuracy, fit, motion_batches, predict_scores

TINY = MotionConfig(height=12, width=12, frames=4)


def tiny_net(seed: int = 0):
    torch.manual_seed(seed)
    return rsanet_small(12, 4, widths=(4, 8, 8), queries=2, kernel_size=(3, 3, 3))


def test_rate_warms_up_linearly_and_falls_as_a_cosine():
    recipe = Recipe(steps=100, lr=2.0, warmup=0.1)
    assert [recipe.rate(step) for step in (0, 4, 9, 10, 55)] == pytest.approx([0.2, 1.0, 2.0, 2.0, 1.0])
    assert 0 < recipe.rate(99) < 0.01
    assert Recipe(steps=10, warmup=0.0, lr=1.0).rate(0) == 1.0


def test_same_recipe_gives_the_same_weights_and_another_seed_others():
    def run(seed):
        recipe = Recipe(steps=3, batch_size=4, seed=seed)
        model = tiny_net()
        return fit(model, motion_batches(recipe, TINY), recipe), model.state_dict()

    (losses, weights), (again, same), (others, _) = run(0), run(0), run(1)
    assert losses == again
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert losses != others


def test_batches_are_the_motion_set_in_order():
    recipe = Recipe(steps=2, batch_size=3, seed=5)
    batches = list(motion_batches(recipe, TINY))
    clips, labels = MotionSet(6, TINY, seed=5).batch(range(6))
    assert torch.equal(torch.cat([x for x, _ in batches]), clips)
    assert torch.equal(torch.cat([y for _, y in batches]), labels)


def test_training_lowers_the_loss_on_clips_seen_again():
    recipe = Recipe(steps=30, batch_size=6, lr=1e-2)
    batch = MotionSet(6, TINY, seed=0).batch(range(6))
    losses = fit(tiny_net(), [batch] * 30, recipe)
    assert losses[-1] < 0.5 * losses[0]


class Scale(nn.Module):
    """Logits 0 whatever the clip: the gradient is zero, so only weight decay can move a weight."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))

    def forward(self, clips):
        return 0 * (clips.flatten(1).sum(1, keepdim=True) * self.weight.sum() + self.bias.sum()).expand(-1, 2)


def test_weight_decay_moves_matrices_and_leaves_biases():
    model = Scale()
    recipe = Recipe(steps=1, lr=0.1, warmup=0.0, weight_decay=0.5)
    fit(model, [(torch.ones(2, 3, 1, 2, 2), torch.tensor([0, 1]))], recipe)
    torch.testing.assert_close(model.weight, torch.full((2, 2), 0.95))
    torch.testing.assert_close(model.bias, torch.ones(2))


def test_loss_that_is_not_finite_stops_the_run_and_names_the_step():
    clips, labels = MotionSet(4, TINY).batch(range(4))
    batches = [(clips, labels), (clips * float("nan"), labels)]
    with pytest.raises(FloatingPointError, match="step 1"):
        fit(tiny_net(), batches, Recipe(steps=2, batch_size=4))


def test_gradient_that_is_not_finite_stops_the_run_before_it_reaches_the_weights():
    class Root(nn.Module):
        """A finite loss whose gradient is not: the root at zero."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, 2))

        def forward(self, clips):
            return self.weight.sqrt().expand(len(clips), -1)

    model = Root()
    with pytest.raises(FloatingPointError, match="gradient of step 0"):
        fit(model, [(torch.ones(2, 3, 1, 2, 2), torch.tensor([0, 0]))], Recipe(steps=1))
    assert torch.equal(model.weight, torch.zeros(1, 2))


def test_scores_restore_the_mode_of_every_module_even_when_the_model_raises():
    model = tiny_net().train()
    model.stem_norm.eval()
    clips, _ = MotionSet(2, TINY).batch(range(2))
    predict_scores(model, clips)
    assert model.training
    assert not model.stem_norm.training
    with pytest.raises(ValueError, match="expected a video"):
        predict_scores(model, clips[:, :, :2])
    assert model.training


def test_a_loss_of_ones_own_gets_outputs_labels_and_clips():
    recipe = Recipe(steps=2, batch_size=4)
    batches = list(motion_batches(recipe, TINY))
    heard = []

    def squares(outputs, labels, clips):
        heard.append((outputs.shape, labels, clips))
        return (outputs.float() - torch.eye(12)[labels]).square().sum(1).mean()

    losses = fit(tiny_net(), batches, recipe, loss=squares)
    assert [shape for shape, _, _ in heard] == [(4, 12), (4, 12)]
    assert all(torch.equal(labels, batch[1]) for (_, labels, _), batch in zip(heard, batches))
    assert all(torch.equal(clips, batch[0]) for (_, _, clips), batch in zip(heard, batches))
    by_entropy = fit(tiny_net(), batches, recipe, loss=lambda outputs, labels, _: cross_entropy(outputs, labels))
    assert by_entropy == fit(tiny_net(), batches, recipe) != losses


def test_label_smoothing_beside_a_loss_of_ones_own_is_refused():
    recipe = Recipe(steps=1, batch_size=2, label_smoothing=0.1)
    with pytest.raises(ValueError, match="label_smoothing 0"):
        fit(tiny_net(), motion_batches(recipe, TINY), recipe, loss=lambda outputs, labels, clips: outputs.sum())


def test_too_few_batches_are_an_error():
    with pytest.raises(ValueError, match="expected 3 batches, got 1"):
        fit(tiny_net(), [MotionSet(4, TINY).batch(range(4))], Recipe(steps=3))


@pytest.mark.parametrize("wrong", [
    {"steps": 0}, {"steps": 2.5}, {"lr": 0.0}, {"lr": float("nan")}, {"batch_size": 0}, {"warmup": 1.0},
    {"clip_norm": 0}, {"clip_norm": -1}, {"weight_decay": -5}, {"label_smoothing": 2},
], ids=str)  # fmt: skip
def test_recipes_that_cannot_run_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Recipe(**wrong)


def test_scores_leave_the_mode_alone_and_do_not_depend_on_the_parts():
    model = tiny_net().train()
    clips, _ = MotionSet(5, TINY).batch(range(5))
    whole, parts = predict_scores(model, clips), predict_scores(model, clips, batch_size=2)
    assert model.training
    torch.testing.assert_close(whole, parts)


def test_accuracy_counts_right_answers():
    class Always(nn.Module):
        def forward(self, clips):
            return torch.eye(12)[[3]].expand(len(clips), -1)

    clips = torch.zeros(4, 3, 4, 2, 2)
    assert accuracy(Always(), clips, torch.tensor([3, 3, 0, 3])) == 0.75


def test_on_step_hears_every_loss():
    heard = []
    recipe = dataclasses.replace(Recipe(batch_size=2), steps=2)
    losses = fit(
        tiny_net(), motion_batches(recipe, TINY), recipe, on_step=lambda step, loss: heard.append((step, loss))
    )
    assert heard == list(enumerate(losses))
