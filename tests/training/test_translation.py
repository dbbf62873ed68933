"""Training for translation: equation 3, a loss that padding does not enter, runs that repeat, answers counted whole."""

import math

import pytest
import torch
from torch import nn

from minirsa.data.translation import BOS, EOS, PAD, TARGET, Batch, DateSet
from minirsa.training.translation import exact_match, fit_translation, noam_rate, right_answers, translation_loss


class Echo(nn.Module):
    """Writes what `answers` says, whatever the source; for counting right answers."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def start(self, source, source_lengths):
        return EchoState(torch.arange(len(source)), 0)

    def step(self, tokens, state):
        wanted = [self.answers[row][state.place] if state.place < len(self.answers[row]) else 3 for row in state.rows]
        scores = torch.nn.functional.one_hot(torch.tensor(wanted), len(TARGET)).double()
        return scores.log_softmax(1), EchoState(state.rows, state.place + 1)


class EchoState:
    def __init__(self, rows, place):
        self.rows, self.place = rows, place

    def select(self, rows):
        return EchoState(self.rows[rows], self.place)


class Bag(nn.Module):
    """The smallest thing that can be trained: logits from the last target token alone."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(len(TARGET), len(TARGET))

    def forward(self, source, source_lengths, target_in):
        return self.table(target_in)


def test_rate_is_equation_3():
    rate = noam_rate(512, 4000)
    assert rate(4000) == pytest.approx(512**-0.5 * 4000**-0.5)
    assert rate(4000) == pytest.approx(6.99e-4, rel=1e-3)
    assert rate(1) == pytest.approx(rate(4000) / 4000)
    assert rate(2000) == pytest.approx(rate(4000) / 2)
    assert rate(16000) == pytest.approx(rate(4000) / 2)
    assert max(range(1, 9000), key=rate) == 4000
    assert noam_rate(64, 100, 2.0)(100) == pytest.approx(2 * noam_rate(64, 100)(100))
    with pytest.raises(ValueError, match="from 1, got 0"):
        rate(0)
    with pytest.raises(ValueError, match="warmup"):
        noam_rate(512, 0)


def test_loss_leaves_padding_out_and_answers_for_the_next_token():
    target = torch.tensor([[BOS, 5, 6, EOS, PAD], [BOS, 7, EOS, PAD, PAD]])
    logits = torch.randn(2, 4, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_p = logits.log_softmax(-1)
    by_hand = -(log_p[0, 0, 5] + log_p[0, 1, 6] + log_p[0, 2, EOS] + log_p[1, 0, 7] + log_p[1, 1, EOS]) / 5
    torch.testing.assert_close(translation_loss(logits, target), by_hand)
    changed = logits.clone()
    changed[0, 3] = changed[1, 2:] = 100.0  # what is predicted after the end
    torch.testing.assert_close(translation_loss(changed, target), by_hand)
    smooth = translation_loss(logits, target, label_smoothing=0.1)
    uniform = -torch.cat([log_p[0, :3], log_p[1, :2]]).mean()
    torch.testing.assert_close(smooth, 0.9 * by_hand + 0.1 * uniform)
    with pytest.raises(ValueError, match=r"\(B, m - 1, V\)"):
        translation_loss(logits, target[:, 1:])


def test_loss_refuses_what_has_none():
    logits = torch.zeros(2, 3, 7)
    with pytest.raises(ValueError, match="nothing but padding"):
        translation_loss(logits, torch.tensor([[BOS, PAD, PAD, PAD]] * 2))
    for smoothing in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"smoothing in \[0, 1\)"):
            translation_loss(logits, torch.full((2, 4), EOS), label_smoothing=smoothing)


def test_training_repeats_and_learns():
    def run():
        torch.manual_seed(0)
        model, data = Bag(), DateSet(8 * 60, seed=0)
        losses = fit_translation(model, data.batches(8), rate=lambda step: 0.05, steps=60)
        return losses, model.table.weight.detach().clone()

    (losses, weights), (again, same) = run(), run()
    assert losses == again
    assert torch.equal(weights, same)
    assert losses[-1] < 0.75 * losses[0]


def test_rate_clipping_and_callback_are_used():
    batches = list(DateSet(12, seed=0).batches(4))
    torch.manual_seed(0)
    model = Bag()
    before, seen = model.table.weight.detach().clone(), []
    rates = {1: 0.0, 2: 0.0, 3: 1e-3}
    losses = fit_translation(
        model, batches, rate=rates.__getitem__, steps=3, on_step=lambda step, loss: seen.append((step, loss))
    )
    assert seen == list(enumerate(losses, 1))
    moved = (model.table.weight - before).abs().max().item()
    assert 0 < moved <= 1.01e-3, "only the third step moves, by its own rate"
    assert model.training
    model = Bag()
    fit_translation(model, batches, rate=lambda step: 1.0, steps=1, clip_norm=1e-6)
    assert model.table.weight.grad.norm().item() == pytest.approx(1e-6, rel=1e-3)


def test_broken_runs_say_so():
    batches = list(DateSet(8, seed=0).batches(4))
    with pytest.raises(ValueError, match="expected 5 batches, got 2"):
        fit_translation(Bag(), batches, rate=lambda step: 1e-3, steps=5)
    with pytest.raises(ValueError, match="at least one step"):
        fit_translation(Bag(), batches, rate=lambda step: 1e-3, steps=0)
    broken = Bag()
    broken.table.weight.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="loss of step 1"):
        fit_translation(broken, batches, rate=lambda step: 1e-3, steps=2)


def test_answers_count_only_when_they_are_whole():
    target = torch.tensor([[BOS, 5, 6, EOS, PAD]] * 5)
    batch = Batch(torch.full((5, 3), 4), torch.full((5,), 3), target)
    answers = [[5, 6, EOS], [5, 7, EOS], [5, EOS], [5, 6, 6, EOS], [5, 6, 6, 6, 6]]
    assert right_answers(Echo(answers), batch).tolist() == [True, False, False, False, False]
    assert exact_match(Echo(answers), batch) == pytest.approx(0.2)


def test_answers_shorter_than_all_targets_are_wrong():
    batch = DateSet(4, seed=1).batch(range(4))
    assert not right_answers(Echo([[EOS]] * 4), batch).any()
    assert right_answers(Echo(batch.target[:, 1:].tolist()), batch).all()
