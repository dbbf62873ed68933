"""The checkers of chapter 7 accept right answers and refuse known wrong ones."""

import math

import pytest

from minirsa.data.transforms import mirror_labels
from minirsa.exercises import chapter07


def training_indices(length, num_frames, places):
    return [math.floor(length * (i + place) / num_frames) for i, place in enumerate(places)]


def released_training_indices(length, num_frames, places):
    """TSM's and the RSA release's: the last length % num_frames frames are never drawn, short videos give frame 0."""
    average = length // num_frames
    if average == 0:
        return [0] * num_frames
    return [average * i + math.floor(average * place) for i, place in enumerate(places)]


def test_training_indices_are_accepted():
    assert "every frame" in chapter07.check_training_indices(training_indices)


@pytest.mark.parametrize("wrong", [
    released_training_indices,
    lambda n, T, places: [math.floor(n * (i + 0.5) / T) for i in range(T)],
    lambda n, T, places: [math.floor(n * place) for place in places],
    lambda n, T, places: sorted(math.floor(n * place) for place in places),
    lambda n, T, places: [round(n * (i + place) / T) for i, place in enumerate(places)],
    lambda n, T, places: [i + 1 for i in training_indices(n, T, places)],
    lambda n, T, places: training_indices(n, T, places)[:-1],
    lambda n, T, places: [min(i * n // T + int(place * math.ceil(n / T)), n - 1) for i, place in enumerate(places)],
])  # fmt: skip
def test_wrong_training_indices_are_refused(wrong):
    with pytest.raises(AssertionError, match="frames, T = "):
        chapter07.check_training_indices(wrong)


def by_word(texts):
    exchange = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
    mirrored = [" ".join(exchange.get(word, word) for word in text.split()) for text in texts]
    return [texts.index(text) if text in texts else None for text in mirrored]


def test_mirror_labels_are_accepted():
    assert "Right" in chapter07.check_mirror_labels(by_word)
    assert "Right" in chapter07.check_mirror_labels(mirror_labels)


def by_substring(texts):
    mirrored = [text.replace("left", "?").replace("right", "left").replace("?", "right") for text in texts]
    return [texts.index(text) if text in texts else None for text in mirrored]


def sides_only(texts):
    exchange = {"left": "right", "right": "left"}
    mirrored = [" ".join(exchange.get(word, word) for word in text.split()) for text in texts]
    return [texts.index(text) if text in texts else None for text in mirrored]


@pytest.mark.parametrize("wrong", [
    by_substring,
    sides_only,
    lambda texts: [{0: 1, 1: 0, 2: 3, 3: 2}.get(i, i) for i in range(len(texts))],  # literal numbers
    lambda texts: list(range(len(texts))),
    lambda texts: [i if partner is None else partner for i, partner in enumerate(by_word(texts))],
    lambda texts: [-1 if partner is None else partner for partner in by_word(texts)],
    lambda texts: [None if partner == i else partner for i, partner in enumerate(by_word(texts))],
    lambda texts: by_word(texts)[:-1],
])  # fmt: skip
def test_wrong_mirror_labels_are_refused(wrong):
    with pytest.raises(AssertionError, match="partner"):
        chapter07.check_mirror_labels(wrong)
