"""Checkers for the exercises of "Before you start".

Book: chapter 0, "Exercises".
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

__all__ = ["check_pairwise_sum"]

UNIT_ROUNDOFF = 2.0**-24
"""Half the distance from 1 to the next float32."""


def check_pairwise_sum(function: Callable[[np.ndarray], np.float32]) -> str:
    """Judge a pairwise sum: any length, float32 throughout, error within ceil(log2 n) roundings.

    `function` takes a float32 array `(n,)` of positive terms, n at least 1, and returns their sum as float32. Returns
    a sentence that says what was checked. Raises AssertionError that says what is wrong and on which input, and
    whatever `function` raises.

    The error bound is Higham's for pairwise summation of n positive terms: relative error at most
    k u / (1 - k u), k = ceil(log2 n), u = 2**-24 (Higham 1993, The accuracy of floating point summation).
    """
    lengths = (1, 2, 3, 7, 64, 1000, 65_537)
    for length in lengths:
        terms = (1 / np.arange(1, length + 1)).astype(np.float32)
        given = terms.copy()
        result = function(given)
        where = f"for 1 + 1/2 + ... + 1/{length}"
        assert np.array_equal(given, terms), f"{where} your function changed the array it was given"
        dtype = np.asarray(result).dtype
        assert np.asarray(result).shape == (), f"{where} expected one number, got shape {np.asarray(result).shape}"
        assert dtype == np.float32, f"{where} expected a float32, got {dtype}: add in float32 throughout"
        exact = math.fsum(terms.tolist())
        roundings = math.ceil(math.log2(length)) * UNIT_ROUNDOFF
        allowed = exact * roundings / (1 - roundings)
        error = abs(float(result) - exact)
        assert error <= allowed, (
            f"{where} the sum is off by {error:.1e}, pairs allow {allowed:.1e}: do you add one term after another, "
            "or leave one out?"
        )
    return f"Right for all {len(lengths)} lengths, up to {lengths[-1]} terms."
