"""Noise that is the same on every device: each value is a hash of its seed and its place, made where it is needed.

    (seed, place) -> two 32-bit words -> three rounds of multiply, shift, exclusive or -> uniform, variance 1

A generator's stream differs between CPU and GPU, and drawing it on the CPU takes longer than a GPU takes to render a
clip. Whole numbers below 2^63 are exact everywhere, so that a clip of the motion set is the same clip wherever it is
drawn. Good enough for pictures, not for statistics or secrets.

Book: chapter 16, "The motion set on the device".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

__all__ = ["hashed_noise"]

_ODD = 0x45D9F3B, 0x119DE1F3, 0x3C6EF35F  # odd, below 2^31: a product with 32 bits stays below 2^63
_WORD = 0xFFFFFFFF
_PIECE = 16_384


def hashed_noise(seeds: Sequence[int], shape: Sequence[int], *, device: str | torch.device = "cpu") -> torch.Tensor:
    """Uniform noise of mean 0 and variance 1, a block of ``shape`` for each 32-bit seed: float32 (len(seeds), *shape).

    Block i depends on ``seeds[i]`` and ``shape`` alone, not on its neighbours or the device. Raises ValueError for
    seeds outside 0..2^32 - 1 and for blocks of 2^32 values or more.
    """
    count = math.prod(shape)
    if not all(0 <= seed <= _WORD for seed in seeds) or count > _WORD:
        raise ValueError(f"expected seeds from 0 to {_WORD} and fewer than 2^32 values each, got {seeds} and {count}")
    noise = torch.empty(len(seeds), count, device=device)
    places = torch.arange(count, dtype=torch.int64, device=device)
    places = _round(places, _ODD[0])  # the seed comes in after a round: places of two seeds are not shifted copies
    for row, seed in zip(noise, seeds):
        # On a CPU in pieces that stay in its cache.
        for part, place in zip(*(x.split(_PIECE if x.device.type == "cpu" else count) for x in (row, places))):
            word = _round(_round(place ^ seed, _ODD[1]), _ODD[2])
            part.copy_(word.bitwise_right_shift_(8))  # 24 bits: exact in float32
    return noise.add_(0.5 - 2**23).mul_(math.sqrt(12) / 2**24).view(len(seeds), *shape)


def _round(word: torch.Tensor, odd: int) -> torch.Tensor:
    """One round over 32-bit words held in int64, in place; two words never become one."""
    word.bitwise_xor_(word >> 16).mul_(odd).bitwise_and_(_WORD)
    return word.bitwise_xor_(word >> 15)
