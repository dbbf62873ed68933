"""The checkers of chapter 0 accept a right answer and refuse known wrong ones."""

import math

import numpy as np
import pytest

from minirsa.exercises.chapter00 import check_pairwise_sum


def pairwise(values):
    if len(values) == 1:
        return values[0]
    middle = len(values) // 2
    return pairwise(values[:middle]) + pairwise(values[middle:])


def drops_the_odd_term(values):
    while len(values) > 1:
        half = len(values) // 2
        values = values[:half] + values[half : 2 * half]
    return values[0]


def sorts_in_place(values):
    values.sort()
    return pairwise(values)


def test_pairwise_sum_is_accepted():
    assert "65537" in check_pairwise_sum(pairwise)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda values: np.add.accumulate(values)[-1], "one term after another"),
        (drops_the_odd_term, "leave one out"),
        (lambda values: math.fsum(values.tolist()), "float32"),
        (lambda values: values[:1], "one number"),
        (sorts_in_place, "changed the array"),
    ],
    ids=["in turn", "drops a term", "double precision", "an array", "changes its input"],
)
def test_wrong_pairwise_sums_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        check_pairwise_sum(wrong)
