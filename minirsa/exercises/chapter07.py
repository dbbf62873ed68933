"""Checkers for the exercises of "Video as data".

Each takes the reader's function, tries it on inputs whose answers are known, and returns a sentence that says what was
checked, or raises AssertionError that says what is wrong and on which input; what the function itself raises comes
through.

Book: chapter 7, "Exercises".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

__all__ = ["check_mirror_labels", "check_training_indices"]


def check_training_indices(function: Callable[[int, int, list[float]], Sequence[int]]) -> str:
    """Judge training-time segment sampling: (length, num_frames, places) -> num_frames frame numbers.

    `places` holds one number in [0, 1) a segment; frame i must be floor(length * (i + places[i]) / num_frames),
    equation 7.2. Places are multiples of 1/64 and num_frames powers of two, so that no rounding can decide.
    """
    generator = torch.Generator().manual_seed(0)
    tried = 0
    for length in (1, 3, 7, 8, 9, 15, 16, 56, 63, 117):
        for num_frames in (1, 4, 8, 16):
            for draw in range(3):
                sixty_fourths = torch.randint(64, (num_frames,), generator=generator).tolist()
                if draw == 1:
                    sixty_fourths = [63] * num_frames  # the end of every segment must be reached
                places = [place / 64 for place in sixty_fourths]
                expected = [length * (64 * i + p) // (64 * num_frames) for i, p in enumerate(sixty_fourths)]
                got = [int(i) for i in function(length, num_frames, list(places))]
                where = f"for {length} frames, T = {num_frames}, places {places[:4]}"
                assert len(got) == num_frames, f"{where} expected {num_frames} numbers, got {len(got)}"
                assert all(0 <= i < length for i in got), f"{where} got {got}: there are frames 0 to {length - 1}"
                assert got == expected, f"{where} expected {expected}, got {got}"
                tried += 1
    return f"Right for all {tried} draws: short videos too, and every frame can be drawn."


def check_mirror_labels(function: Callable[[list[str]], Sequence[int | None]]) -> str:
    """Judge the derivation of mirror partners: list of label texts -> for each the partner's number or None.

    A label without a word of side or turning is its own partner; one whose mirrored text is missing has None.
    """
    sides = [
        "Pushing something from left to right",
        "Pushing something from right to left",
        "Turning the camera left while filming something",
        "Turning the camera right while filming something",
        "Putting something upright on the table",
        "Moving something down",
    ]
    cases = [
        (sides, [1, 0, 3, 2, 4, 5]),
        ([sides[i] for i in (3, 0, 5, 2, 4, 1)], [3, 5, 2, 0, 4, 1]),
        (["turning something clockwise", "moving something up", "turning something counterclockwise"], [2, 1, 0]),
        (["Pulling something from left to right", "Dropping something"], [None, 1]),
        (["turning something counterclockwise"], [None]),
        (["Something falling like a feather"], [0]),
    ]
    for texts, expected in cases:
        got = list(function(list(texts)))
        assert len(got) == len(texts), f"expected {len(texts)} partners for {texts}, got {len(got)}"
        for text, right, wrong in zip(texts, expected, got):
            assert (wrong, type(wrong) is int) == (right, type(right) is int), (
                f"the mirror partner of {text!r} among {texts} is {_name(texts, right)}, got {wrong!r}"
            )
    return f"Right for all {len(cases)} lists of labels, whatever their order."


def _name(texts: list[str], number: int | None) -> str:
    return "None: no label of the list" if number is None else f"number {number}, {texts[number]!r}"
