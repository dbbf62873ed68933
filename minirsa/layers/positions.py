"""Where a token stands: attention sees a set, positions make a sequence of it.

    tokens (B, n, C) + positions (n, C) -> (B, n, C)

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.5:

    PE(pos, 2i) = sin(pos / 10000^(2i / C)),    PE(pos, 2i + 1) = cos(pos / 10000^(2i / C))

Book: chapter 3, "Positions".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minirsa.layers.attention import check_sequence


def sinusoidal_positions(
    length: int,
    width: int,
    *,
    base: float = 10000.0,
    start: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Sines at the even channels, cosines at the odd ones, for positions start ... start + n - 1: (n, C).

    Wavelengths go from 2 pi to nearly 2 pi `base` in a geometric row. A shift by k turns each pair of channels by the
    same angle at every position, so PE(pos + k) is linear in PE(pos).

    Raises ValueError for an odd width, a negative length or start, a dtype of whole numbers. Source: Vaswani et al.
    2017, section 3.5. Book: chapter 3, "Positions".
    """
    if width < 2 or width % 2:
        raise ValueError(f"expected an even width from 2, got {width}")
    if length < 0 or start < 0 or not base > 0:
        raise ValueError(f"expected length and start from 0 and a base above 0, got {length}, {start} and {base}")
    if not dtype.is_floating_point:
        raise ValueError(f"expected a dtype of floating point, got {dtype}")
    place = torch.arange(start, start + length, dtype=torch.float64)[:, None]  # (n, 1)
    rate = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)  # (C / 2)
    angle = place * rate  # (n, C / 2)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1).to(device=device, dtype=dtype)


class SinusoidalPositions(nn.Module):
    """Adds `sinusoidal_positions` to a sequence of any length: (B, n, C) -> (B, n, C). Nothing is learned.

    Raises ValueError for an odd width and for an input of another shape. Book: chapter 3, "Positions".
    """

    def __init__(self, width: int, *, base: float = 10000.0):
        super().__init__()
        self.width, self.base = width, base
        self._table = sinusoidal_positions(64, width, base=base)  # no buffer: .double() would keep float32's error

    def forward(self, x: Tensor, *, start: int = 0) -> Tensor:
        """x holds positions start ... start + n - 1: a decoder that works token by token says where it is."""
        check_sequence(x, self.width, "x")
        end = start + x.shape[1]
        if start < 0:
            raise ValueError(f"expected start from 0, got {start}")
        table = self._table
        if end > len(table) or table.dtype != x.dtype or table.device != x.device:
            length = len(table) if end <= len(table) else max(end, 2 * len(table))
            table = sinusoidal_positions(length, self.width, base=self.base, device=x.device, dtype=x.dtype)
            self._table = table
        return x + table[start:end]


class LearnedPositions(nn.Module):
    """Adds one learned vector for each of `length` places: (B, n, C) -> (B, n, C), n up to length.

    Normal with standard deviation 0.02 at the start. Raises ValueError for a sequence that is longer or of another
    width. Source: Gehring et al. 2017 and Vaswani et al. 2017, table 3 (E). Book: chapter 3, "Positions".
    """

    def __init__(self, length: int, width: int):
        super().__init__()
        if length < 1 or width < 1:
            raise ValueError(f"expected length and width from 1, got {length} and {width}")
        self.length, self.width = length, width
        self.table = nn.Parameter(torch.empty(length, width))
        nn.init.normal_(self.table, std=0.02)

    def forward(self, x: Tensor, *, start: int = 0) -> Tensor:
        """x holds positions start ... start + n - 1."""
        check_sequence(x, self.width, "x")
        if start < 0 or start + x.shape[1] > self.length:
            raise ValueError(
                f"expected positions within the {self.length} learned ones, got {start} to {start + x.shape[1] - 1}"
            )
        return x + self.table[start : start + x.shape[1]]
