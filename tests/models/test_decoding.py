"""Greedy and beam search on a model small enough to search exhaustively."""

import itertools

import pytest
import torch
from torch import nn

from minirsa.data.translation import BOS as DATA_BOS
from minirsa.data.translation import EOS as DATA_EOS
from minirsa.data.translation import PAD as DATA_PAD
from minirsa.models.decoding import BOS, EOS, PAD, beam_search, evaluating, greedy


class History:
    """What was written so far, (rows, t), and which source it belongs to, (rows,)."""

    def __init__(self, tokens, source):
        self.tokens, self.source = tokens, source

    def select(self, rows):
        return History(self.tokens[rows], self.source[rows])


class Toy:
    """log p(next | all before, source) from a table drawn once for every history: no structure to be lucky with."""

    def __init__(self, vocabulary=6, sharpness=1.0, end=0.0):
        self.vocabulary, self.sharpness, self.end = vocabulary, sharpness, end

    def start(self, source, source_lengths):
        assert torch.equal(source_lengths, (source != PAD).sum(1))
        return History(torch.empty(len(source), 0, dtype=torch.int64), source[:, 0])

    def step(self, tokens, state):
        assert len(tokens) == len(state.tokens)
        written = torch.cat([state.tokens, tokens[:, None]], 1)
        rows = torch.stack([self.table((int(s), *t)) for s, t in zip(state.source, written.tolist())])
        return rows, History(written, state.source)

    def table(self, history):
        seed = sum((value + 1) * 31**place for place, value in enumerate(history)) % 2**31
        scores = torch.randn(self.vocabulary, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        scores[EOS] += self.end
        return (self.sharpness * scores).log_softmax(0)

    def log_probability(self, source, answer):
        history, total = (source, BOS), 0.0
        for token in answer:
            total += float(self.table(history)[token])
            history = (*history, token)
        return total


def sources(*values):
    return torch.tensor([[value, 4] for value in values]), torch.tensor([2] * len(values))


def answers(vocabulary, max_length):
    """Every answer that ends within max_length tokens."""
    words = [token for token in range(vocabulary) if token not in (PAD, BOS, EOS)]
    for length in range(max_length):
        for answer in itertools.product(words, repeat=length):
            yield [*answer, EOS]


def test_numbers_of_special_tokens_are_the_data_s():
    assert (PAD, BOS, EOS) == (DATA_PAD, DATA_BOS, DATA_EOS)


def test_greedy_takes_the_best_token_of_every_step():
    toy, (source, lengths) = Toy(), sources(*range(3, 23))
    decoded = greedy(toy, source, lengths, max_length=9)
    ended = 0
    for value, tokens, score in zip(range(3, 23), decoded.tokens.tolist(), decoded.scores.tolist()):
        history, wanted = (value, BOS), []
        while len(wanted) < 9 and (not wanted or wanted[-1] != EOS):
            table = toy.table(history)
            wanted.append(max(range(2, 6), key=lambda token: float(table[token])))
            history = (*history, wanted[-1])
        ended += wanted[-1] == EOS
        assert tokens == wanted + [PAD] * (decoded.tokens.shape[1] - len(wanted))
        assert score == pytest.approx(toy.log_probability(value, wanted))
    assert 0 < ended < 20, "both answers with and without an end have to be among them"


def test_a_beam_of_one_is_greedy_search():
    toy, (source, lengths) = Toy(), sources(*range(3, 43))
    decoded = greedy(toy, source, lengths, max_length=7)
    for (only,), tokens, score in zip(
        beam_search(toy, source, lengths, beam=1, max_length=7), decoded.tokens.tolist(), decoded.scores.tolist()
    ):
        assert only.tokens == [token for token in tokens if token != PAD]
        assert only.log_probability == pytest.approx(score)


class Fixed:
    """The same log-probabilities after every answer; its own state."""

    def __init__(self, *log_probabilities):
        self.row = torch.tensor(log_probabilities)

    def start(self, source, source_lengths):
        return self

    def step(self, tokens, state):
        return self.row.expand(len(tokens), -1), state

    def select(self, rows):
        return self


def test_of_equal_tokens_both_searches_take_the_first():
    source, lengths = sources(3, 4)
    for even in (Fixed(*[-2.0] * 50), Fixed(0.0, 0.0, -5.0, *[-1.0] * 300)):
        tokens = greedy(even, source, lengths, max_length=3).tokens.tolist()
        best = [answers[0].tokens for answers in beam_search(even, source, lengths, beam=1, max_length=3)]
        assert best == [[token for token in answer if token != PAD] for answer in tokens]
        assert tokens[0][0] == (EOS if even.row[2] == -2 else 3)


@pytest.mark.parametrize("search", [greedy, beam_search])
@pytest.mark.parametrize("row", [[float("nan")] * 5, [0.0, 0.0, *[-float("inf")] * 3], [-1.0, -1.0]])
def test_a_model_that_leaves_nothing_to_write_is_refused(search, row):
    """NaN after a diverged training, or only PAD and BOS: no search may return an answer of them, or none."""
    with pytest.raises(ValueError, match="at least one token of finite log-probability"):
        search(Fixed(*row), *sources(3, 4), max_length=3)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize(("beam", "max_length"), [(13, 2), (121, 4)])
def test_a_wide_beam_is_exhaustive_search(alpha, beam, max_length):
    """3 words and EOS: 1 + 12 answers of up to 2 tokens, 1 + 3 + 9 + 108 of up to 4, with an end or without."""
    toy, values = Toy(), range(3, 33)
    found = beam_search(toy, *sources(*values), beam=beam, max_length=max_length, alpha=alpha)
    for value, hypotheses in zip(values, found):
        scored = []
        for answer in answers(6, max_length):
            total = toy.log_probability(value, answer)
            scored.append((total / ((5 + len(answer)) / 6) ** alpha, total, answer))
        score, total, best = max(scored)
        assert hypotheses[0].tokens == best
        assert hypotheses[0].score == pytest.approx(score)
        assert hypotheses[0].log_probability == pytest.approx(total)
        assert len(hypotheses) == beam  # everything was found, in order
        ended = [answer.tokens for answer in hypotheses if answer.tokens[-1] == EOS]
        assert ended == [answer for *_, answer in sorted(scored, reverse=True)]


def test_a_beam_finds_more_than_greedy_search_and_never_repeats_itself():
    toy, values = Toy(vocabulary=8), range(3, 63)
    best = beam_search(toy, *sources(*values), beam=4, max_length=6, alpha=0.0)
    one = beam_search(toy, *sources(*values), beam=1, max_length=6, alpha=0.0)
    gains = [b[0].log_probability - o[0].log_probability for b, o in zip(best, one) if o[0].tokens[-1] == EOS]
    assert sum(gain > 1e-9 for gain in gains) > sum(gain < -1e-9 for gain in gains)
    for hypotheses in best:
        assert 1 <= len(hypotheses) <= 4
        assert len({tuple(answer.tokens) for answer in hypotheses}) == len(hypotheses)
        ended = [answer.tokens[-1] == EOS for answer in hypotheses]
        assert ended == sorted(ended, reverse=True), "answers without an end come last"
        for group in (True, False):
            scores = [answer.score for answer, end in zip(hypotheses, ended) if end == group]
            assert scores == sorted(scores, reverse=True)


def test_sources_do_not_influence_each_other():
    toy, values = Toy(end=1.0), range(3, 15)
    together = beam_search(toy, *sources(*values), beam=3, max_length=6)
    for value, hypotheses in zip(values, together):
        assert beam_search(toy, *sources(value), beam=3, max_length=6)[0] == hypotheses


def test_the_length_penalty_favours_long_answers():
    toy, values = Toy(end=1.0), range(3, 103)

    def mean_length(alpha):
        found = beam_search(toy, *sources(*values), beam=6, max_length=6, alpha=alpha)
        return sum(len(hypotheses[0].tokens) for hypotheses in found) / len(found)

    assert mean_length(0.0) < mean_length(0.6) < mean_length(3.0)
    hypothesis = beam_search(toy, *sources(3), beam=1, max_length=6)[0][0]
    assert hypothesis.score == pytest.approx(hypothesis.log_probability / ((5 + len(hypothesis.tokens)) / 6) ** 0.6)


def test_pad_and_bos_are_never_written():
    class Stubborn(Toy):
        def step(self, tokens, state):
            rows, state = super().step(tokens, state)
            rows[:, [PAD, BOS]] = 50.0
            return rows, state

    source, lengths = sources(3, 4)
    assert not set(greedy(Stubborn(end=-99.0), source, lengths, max_length=5).tokens.flatten().tolist()) & {PAD, BOS}
    for hypotheses in beam_search(Stubborn(), source, lengths, beam=50, max_length=3):
        assert not {token for answer in hypotheses for token in answer.tokens} & {PAD, BOS}


def test_evaluation_mode_is_left_as_it_was():
    net = nn.Sequential(nn.Dropout(), nn.Dropout())
    net[1].eval()
    modes = []

    def fail():
        with evaluating(net):
            modes.extend(module.training for module in net.modules())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert modes == [False, False, False]
    assert [module.training for module in net.modules()] == [True, True, False]


def test_impossible_searches_are_refused():
    source, lengths = sources(3, 4)
    with pytest.raises(ValueError, match="beam of at least 1, got 0"):
        beam_search(Toy(), source, lengths, beam=0, max_length=3)
    with pytest.raises(ValueError, match="max_length of at least 1"):
        greedy(Toy(), source, lengths, max_length=0)
    with pytest.raises(ValueError, match=r"\(B, n\)"):
        greedy(Toy(), source[0], lengths, max_length=3)
    with pytest.raises(ValueError, match=r"\(B,\)"):
        beam_search(Toy(), source, lengths[:1], max_length=3)
    with pytest.raises(ValueError, match="got 0"):
        greedy(Toy(), source[:0], lengths[:0], max_length=3)
