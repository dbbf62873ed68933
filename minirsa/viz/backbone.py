"""A residual network as a row of bottlenecks, each with its transform written on it, and one of them opened.

    stem | res2: 3x3 3x3 RSA | res3: 3x3 RSA 3x3 RSA | ... | head
                         |
          256 --> 1x1 --> 64 --> RSA --> 64 --> 1x1 --> 256 --> + -->
            +---------------------------------------------------+

Takes names and sizes, no model. Book: chapter 15, "Where RSA goes".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from minirsa.viz.style import PAGE_WIDTH, PALETTE

PLAIN = "3×3"
"""What stands in a bottleneck that is nothing special."""


@dataclass(frozen=True)
class Stage:
    """One stage: its name, channels inside and outside a bottleneck, (T, H, W), and every bottleneck's transform."""

    name: str
    width: int
    channels: int
    size: tuple[int, int, int]
    transforms: tuple[str, ...]


_SIDE, _HEIGHT, _GAP, _PAD, _BETWEEN = 0.335, 0.5, 0.04, 0.06, 0.09  # inches
_END, _MARGIN = 0.42, 0.05
_ROW, _OPEN, _TOP = 1.72, 0.5, 3.0  # y of the row of bottlenecks, of the opened one, of the figure's upper edge


def backbone(stages: Sequence[Stage], *, opened: tuple[int, int], ends: tuple[str, str] = ("stem", "head")) -> Figure:
    """Draw the stages from left to right, and the bottleneck `opened` (stage, block), both from 0, below them.

    Transforms other than `PLAIN` are drawn in the colour of relations and filled. `ends` name what comes before
    and after. Raises ValueError for no stage, a stage without bottlenecks, or a bottleneck that does not exist.
    """
    if not stages or not all(stage.transforms for stage in stages):
        raise ValueError(f"expected stages with bottlenecks, got {[len(s.transforms) for s in stages]}")
    stage, block = opened
    if not (0 <= stage < len(stages) and 0 <= block < len(stages[stage].transforms)):
        raise ValueError(f"expected a bottleneck of {[len(s.transforms) for s in stages]} to open, got {opened}")
    wide = [len(s.transforms) * (_SIDE + _GAP) - _GAP + 2 * _PAD for s in stages]
    total = sum(wide) + 2 * _END + _BETWEEN * (len(stages) + 1)
    page = max(total + 2 * _MARGIN, PAGE_WIDTH)
    figure = plt.figure(figsize=(PAGE_WIDTH, PAGE_WIDTH * (_TOP + 0.2) / page))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, page), ylim=(-0.2, _TOP))
    ax.set_axis_off()
    left = (page - total) / 2
    _box(ax, left, _ROW, _END, _HEIGHT, ends[0], PALETTE["convolution"])
    x, source = left + _END + _BETWEEN, (0.0, 0.0)
    for number, (each, width) in enumerate(zip(stages, wide)):
        ax.add_patch(FancyBboxPatch((x, _ROW - _PAD), width, _HEIGHT + 2 * _PAD, facecolor="#f4f6f8", linewidth=0.9,
                                    boxstyle="round,pad=0,rounding_size=0.06", edgecolor=PALETTE["convolution"],
                                    zorder=0))  # fmt: skip
        ax.text(x + width / 2, _ROW + _HEIGHT + 0.53, each.name, ha="center", fontsize=10, fontweight="bold")
        ax.text(x + width / 2, _ROW + _HEIGHT + 0.33, f"{each.channels} ch.", ha="center", fontsize=9)
        ax.text(x + width / 2, _ROW + _HEIGHT + 0.14, "×".join(map(str, each.size)), ha="center", fontsize=9)
        for index, transform in enumerate(each.transforms):
            at = x + _PAD + index * (_SIDE + _GAP)
            _transform(ax, at, _ROW, _SIDE, transform)
            if (number, index) == opened:
                source = (at, at + _SIDE)
        x += width + _BETWEEN
    _box(ax, x, _ROW, _END, _HEIGHT, ends[1], PALETTE["convolution"])
    here = stages[stage]
    given = here.channels if block else stages[stage - 1].channels if stage else here.width  # a stem gives the width
    _opened(ax, page, source, (given, here.width, here.width, here.channels), here.transforms[block])
    return figure


def _opened(ax: Axes, page: float, source: tuple[float, float], channels: Sequence[int], transform: str) -> None:
    """One bottleneck as boxes in a row, its channels between them, the shortcut below."""
    start, stop = 0.35, page - 0.35
    for x, corner in zip((start, stop), source):
        ax.plot([corner, x], [_ROW - _PAD, _OPEN + 0.78], color=PALETTE["convolution"], linewidth=0.8, linestyle=":")
    ax.add_patch(FancyBboxPatch((start, -0.1), stop - start, _OPEN + 0.88, facecolor="#f4f6f8", linewidth=0.9,
                                boxstyle="round,pad=0,rounding_size=0.06", edgecolor=PALETTE["convolution"],
                                zorder=0))  # fmt: skip
    names = ("1×1 reduce", transform, "1×1 expand")
    arrow, plus = 0.72, 0.28
    side = (stop - start - 0.4 - 4 * arrow - plus - 0.3) / 3
    x = start + 0.2
    fork, y = x + 0.08, _OPEN + 0.25
    for number, name in enumerate(names):
        _arrow(ax, (x, y), (x + arrow, y), str(channels[number]))
        x += arrow
        if number == 1:
            _transform(ax, x, _OPEN, side, name)
        else:
            _box(ax, x, _OPEN, side, _HEIGHT, name, PALETTE["convolution"])
        x += side
    _arrow(ax, (x, y), (x + arrow, y), str(channels[3]))
    x += arrow + plus / 2
    circle = {"boxstyle": "circle,pad=0.15", "facecolor": PALETTE["paper"], "edgecolor": PALETTE["ink"]}
    ax.text(x, y, "+", ha="center", va="center", fontsize=10, zorder=4, bbox=circle)
    ax.plot([fork, fork, x], [y, 0.14, 0.14], color=PALETTE["ink"], linewidth=1.2)
    _arrow(ax, (x, 0.14), (x, y - 0.15), "")
    ax.text((fork + x) / 2, 0.12, "shortcut", ha="center", va="top", fontsize=9)
    _arrow(ax, (x + plus / 2, y), (stop + 0.1, y), "")


def _transform(ax: Axes, x: float, y: float, width: float, name: str) -> None:
    plain = name == PLAIN
    colour = PALETTE["convolution"] if plain else PALETTE["relational"]
    _box(ax, x, y, width, _HEIGHT, name, colour, filled=not plain)


def _box(ax: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, filled=False) -> None:
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.05", edgecolor=colour,
                                facecolor=colour if filled else PALETTE["paper"], linewidth=1.4, zorder=2))  # fmt: skip
    weight, ink = ("bold", PALETTE["paper"]) if filled else ("normal", PALETTE["ink"])
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9, zorder=3, color=ink,
            fontweight=weight)  # fmt: skip


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], label: str) -> None:
    style = {"arrowstyle": "-|>", "color": PALETTE["ink"], "shrinkA": 0, "shrinkB": 0, "linewidth": 1.2}
    ax.annotate("", xy=end, xytext=start, arrowprops={**style, "mutation_scale": 9})
    if label:
        ax.text((start[0] + end[0]) / 2, start[1] + 0.05, label, ha="center", va="bottom", fontsize=9)
