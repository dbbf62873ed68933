"""The translation benchmark: what it feeds, what it counts, and that its committed results are whole."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import translation
from minirsa.data.translation import PAD, SOURCE, TARGET, DateSet
from minirsa.models.seq2seq import Seq2Seq

RESULTS = Path(translation.__file__).parent / "results" / "translation.json"


def test_reversing_turns_the_words_round_and_leaves_the_padding():
    source = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0], [9, 0, 0, 0]])
    turned = translation.reverse(source, torch.tensor([4, 2, 1]))
    assert turned.tolist() == [[6, 5, 4, 3], [8, 7, 0, 0], [9, 0, 0, 0]]


def test_a_reversed_net_sees_reversed_sources_in_training_and_in_decoding():
    torch.manual_seed(0)
    plain = Seq2Seq(len(SOURCE), len(TARGET), width=8, attention=None).eval()
    batch = DateSet(3, seed=0).batch(range(3))
    backwards = translation.Reversed(plain)
    turned = translation.reverse(batch.source, batch.source_lengths)
    expected = plain(turned, batch.source_lengths, batch.target[:, :-1])
    torch.testing.assert_close(backwards(batch.source, batch.source_lengths, batch.target[:, :-1]), expected)
    state = backwards.start(batch.source, batch.source_lengths)
    scores, _ = backwards.step(batch.target[:, 0], state)
    torch.testing.assert_close(scores, expected[:, 0].log_softmax(-1))


def test_alignment_hits_count_only_characters_that_words_spell():
    gold = torch.tensor([[True, True, False], [False, False, False], [False, False, True]])
    assert translation.alignment_hits(torch.tensor([[0.4, 0.1, 0.5], [1, 0, 0], [0, 0, 1.0]]), gold) == (1, 2)
    assert translation.alignment_hits(torch.tensor([[0.4, 0.5, 0.1], [1, 0, 0], [0, 0, 1.0]]), gold) == (2, 2)


def test_test_lines_are_of_the_number_of_dates_asked_for():
    for dates in (1, 2, 3):
        lines = translation.test_set("korean", dates)
        assert all(lines[row][1].count(" ") == dates - 1 for row in range(20))
    assert translation.test_set("korean", 1)[0] != translation.test_set("korean", 2)[0]


class Knows(torch.nn.Module):
    """Writes the target of any line of the test sets: a translator that is always right."""

    def __init__(self, language):
        super().__init__()
        self.answers = {}
        for dates in (1, 2, 3):
            batch = translation.test_set(language, dates).batch(range(translation.TEST_LINES))
            for source, target in zip(batch.source.tolist(), batch.target.tolist()):
                key = tuple(token for token in source if token != PAD)
                self.answers[key] = [token for token in target if token != PAD][1:]

    def start(self, source, source_lengths):
        keys = [tuple(token for token in row if token != PAD) for row in source.tolist()]
        return [self.answers[key] for key in keys], 0

    def step(self, tokens, state):
        answers, place = state
        scores = torch.full((len(answers), 16), -9.0)
        for row, answer in enumerate(answers):
            scores[row, answer[min(place, len(answer) - 1)]] = 0.0
        return scores, (answers, place + 1)


def test_a_translator_that_is_always_right_scores_one_everywhere():
    report = translation.judge(Knows("english"), "english")
    assert report["right"] == {"1": 1.0, "2": 1.0, "3": 1.0}
    assert report["alignment"] is None
    assert sum(total for _, total in report["by length"].values()) == 2 * translation.TEST_LINES
    assert all(right == total > 0 for right, total in report["by length"].values())


def test_lengths_that_a_translator_gets_wrong_are_counted_as_wrong():
    model = Knows("english")
    model.answers = {words: answer[: -1 if len(words) < 12 else -2] for words, answer in model.answers.items()}
    model.answers = {words: [*answer, 2] for words, answer in model.answers.items()}  # EOS too early in long lines
    report = translation.judge(model, "english")
    for bucket, (right, total) in report["by length"].items():
        assert right == (total if int(bucket.split("-")[0]) < 12 else 0)
    assert report["right"]["1"] > report["right"]["2"] == report["right"]["3"] == 0


@pytest.mark.parametrize("variant", translation.VARIANTS)
def test_every_variant_trains(variant, monkeypatch):
    monkeypatch.setattr(translation, "TEST_LINES", 4)
    report = translation.run(variant, 0, steps=2)
    attends = variant != "transformer" and not variant.startswith("none")
    for language in translation.LANGUAGES:
        assert set(report[language]["right"]) == {"1", "2", "3"}
        assert (report[language]["alignment"] is not None) == attends
    assert report["parameters"] > 10_000


def test_committed_results_are_whole_and_of_this_code():
    record = json.loads(RESULTS.read_text())
    assert record["provenance"]["command"] == "python -m benchmarks.translation --output " + str(
        RESULTS.relative_to(RESULTS.parents[2])
    )
    runs = record["runs"]
    keys = [(run["variant"], run["seed"]) for run in runs]
    assert keys == [(variant, seed) for variant in translation.VARIANTS for seed in (0, 1, 2)]
    for run in runs:
        for language in translation.LANGUAGES:
            right = run[language]["right"]
            assert all(0 <= share <= 1 for share in right.values())
            counted = sum(right for right, _ in run[language]["by length"].values())
            assert counted == pytest.approx(translation.TEST_LINES * (right["1"] + right["2"]), abs=1e-3)
        assert run["parameters"] == sum(p.numel() for p in translation.build(run["variant"]).parameters())
