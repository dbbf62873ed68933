"""What the checkers share: random inputs, a comparison that says what differs, and a watch on what is stored.

Book: the exercises of every chapter.
"""

from __future__ import annotations

import torch
import torch.utils._python_dispatch
from torch import Tensor


def random_tensors(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Standard normal float64 tensors from one generator."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def compare(got: object, expected: Tensor, where: str) -> None:
    """Raise AssertionError unless `got` is a tensor of the expected shape and, to 1e-9, values; NaN never is."""
    assert isinstance(got, Tensor), f"{where} expected a tensor, got {type(got).__name__}"
    assert got.shape == expected.shape, f"{where} expected shape {tuple(expected.shape)}, got {tuple(got.shape)}"
    error = (got - expected).abs().max().item()
    assert error < 1e-9 * (1 + expected.abs().max().item()), f"{where} the largest error is {error:.2g}"


class LargestResult(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the largest tensor that any operation returns; views (transposes, reshapes) are free."""

    def __init__(self):
        super().__init__()
        self.numel, self.shape = 0, ()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not func.is_view and result.numel() > self.numel:
            self.numel, self.shape = result.numel(), tuple(result.shape)
        return result
