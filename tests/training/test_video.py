"""The order test tells nets that know the order of frames from nets that do not; the small nets are what they say."""

import pytest
import torch
from torch import nn

from minirsa.data.motion import MotionConfig, MotionSet
from minirsa.training import Recipe, fit, predict_scores
from minirsa.training.video import (
    CONFIG,
    SMALL,
    clip_batches,
    motion_clips,
    order_test,
    shuffle_frames,
    small_net,
)


class Oracle(nn.Module):
    """Knows pair and direction of clips whose pixels spell them: (pair in channel 0, time in channel 1)."""

    def __init__(self, knows_order: bool):
        super().__init__()
        self.knows_order = knows_order

    def forward(self, clips):
        pair = clips[:, 0].mean((1, 2, 3)).round().long()
        time = clips[:, 1].mean((2, 3))  # (B, T)
        turned = (time[:, -1] < time[:, 0]).long() if self.knows_order else torch.zeros_like(pair)
        return nn.functional.one_hot(2 * pair + turned, 12).float()


@pytest.fixture
def spelled():
    labels = torch.arange(12).repeat(4)
    clips = torch.zeros(48, 3, 8, 2, 2)
    clips[:, 0] = (labels // 2)[:, None, None, None].float()
    time = torch.linspace(-1, 1, 8)[None] * (1 - 2 * (labels % 2))[:, None]
    clips[:, 1] = time[..., None, None]
    return clips, labels


def test_a_net_that_knows_the_order_answers_the_other_label_backwards(spelled):
    report = order_test(Oracle(True), *spelled)
    assert (report.top1, report.pair, report.direction, report.reversed, report.unmoved) == (1, 1, 1, 1, 0)
    assert report.shuffled_pair == 1
    assert 0.2 < report.shuffled < 0.8  # a random order goes up as often as down


def test_a_net_without_order_knows_the_pair_and_does_not_notice_shuffled_or_reversed_frames(spelled):
    report = order_test(Oracle(False), *spelled)
    assert (report.top1, report.pair, report.shuffled, report.shuffled_pair) == (0.5, 1, 0.5, 1)
    assert (report.reversed, report.unmoved) == (0.5, 1)


def test_direction_looks_at_the_true_pair_only():
    class Fixed(nn.Module):
        def forward(self, clips):
            scores = torch.zeros(len(clips), 12)
            scores[:, 4], scores[:, 1] = 9.0, 1.0  # the best class belongs to another pair
            return scores

    report = order_test(Fixed(), torch.zeros(2, 3, 4, 2, 2), torch.tensor([1, 0]))
    assert (report.top1, report.pair, report.direction) == (0, 0, 0.5)


def test_order_test_refuses_labels_that_do_not_fit():
    with pytest.raises(ValueError, match="expected clips"):
        order_test(Oracle(True), torch.zeros(2, 3, 4, 2, 2), torch.zeros(3, dtype=torch.long))


def test_shuffled_clips_hold_the_same_frames_each_in_an_order_of_its_own():
    clips = torch.arange(8.0)[None, None, :, None, None].expand(50, 3, 8, 2, 2)
    shuffled = shuffle_frames(clips, 0)
    orders = shuffled[:, 0, :, 0, 0]
    assert torch.equal(orders.sort(1).values, clips[:, 0, :, 0, 0])
    assert len({tuple(order.tolist()) for order in orders}) > 45
    assert torch.equal(shuffled[:, 0], shuffled[:, 2])
    assert torch.equal(shuffled[..., 0, 0], shuffled[..., 1, 1])
    assert torch.equal(shuffled, shuffle_frames(clips, 0))
    assert not torch.equal(shuffled, shuffle_frames(clips, 1))


def test_clips_are_those_of_the_motion_set_about_zero():
    config = MotionConfig(height=16, width=16, frames=4)
    clips, labels = motion_clips(50, config, seed=3)
    plain, same = MotionSet(50, config, seed=3).batch(range(50))
    torch.testing.assert_close(clips, (plain - 0.5) / 0.25)
    assert torch.equal(labels, same)
    assert clips.abs().max() <= 2
    recipe = Recipe(steps=2, batch_size=5, seed=3)
    batches = list(clip_batches(recipe, config))
    torch.testing.assert_close(torch.cat([x for x, _ in batches]), clips[:10])


@pytest.mark.parametrize("name", SMALL)
def test_every_small_net_learns_on_one_batch(name):
    clips, labels = motion_clips(8, CONFIG, seed=0)
    net = small_net(name)
    assert predict_scores(net, clips).shape == (8, 12)
    losses = fit(net, [(clips, labels)] * 40, Recipe(steps=40, batch_size=8, lr=2e-3, warmup=0.0))
    assert losses[-1] < 0.7 * losses[0]


def test_an_unknown_small_net_is_refused_by_name():
    with pytest.raises(ValueError, match="TimeSformer joint"):
        small_net("TimeSformer")
