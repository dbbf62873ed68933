"""An encoder-decoder as boxes and arrows, from the names of its parts: figure 1 of Vaswani et al. 2017, remade.

    encoder: [("self-attention", "4 heads"), ("feed-forward", "64 -> 128 -> 64")]
    decoder: [("causal self-attention", "..."), ("attention to the source", "..."), ("feed-forward", "...")]

Each sublayer is drawn with its residual connection and its norm, after the sum (post-LN) or before the sublayer
(pre-LN). `memory_into` is the number of the decoder's sublayer that reads the encoder. Book: chapter 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from minirsa.viz.style import PAGE_WIDTH, PALETTE

Part = tuple[str, str]  # what a sublayer is, and a note in small print (its sizes)

_HEIGHT = 0.62  # of a sublayer's box
_NORM = 0.34
_GAP = 0.42


def encoder_decoder(
    encoder: Sequence[Part],
    decoder: Sequence[Part],
    *,
    depths: tuple[int, int],
    ends: tuple[str, str, str],
    norm: str = "post",
    memory_into: int = 1,
) -> Figure:
    """Two stacks side by side, bottom to top.

    encoder, decoder: (name, note) of every sublayer of a layer, from input to output.
    depths: layers of each. ends: what enters the encoder, what enters the decoder, what leaves it; may hold newlines.
    norm: "post" (sum, then norm) or "pre" (norm inside the branch).

    Raises ValueError for an unknown norm, an empty stack or a memory that enters no sublayer.
    """
    if norm not in ("post", "pre"):
        raise ValueError(f'expected norm "post" or "pre", got {norm!r}')
    if not encoder or not 0 <= memory_into < len(decoder):
        raise ValueError(
            f"expected sublayers in both stacks and memory_into among the decoder's {len(decoder)}, got {memory_into}"
        )
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 1.7 + 1.45 * max(len(encoder), len(decoder))))
    left, right = 2.1, 7.2
    top_left, _ = _stack(axes, left, encoder, depths[0], norm)
    top_right, heights = _stack(axes, right, decoder, depths[1], norm)
    for x, text in ((left, ends[0]), (right, ends[1])):
        _arrow(axes, (x, -0.75), (x, 0.0))
        axes.text(x, -0.85, text, ha="center", va="top")
    if norm == "pre":
        tops = [top_left, top_right]
        for number, x in enumerate((left, right)):
            _arrow(axes, (x, tops[number]), (x, tops[number] + 0.35))
            _box(axes, x, tops[number] + 0.35, 2.6, _NORM, "norm", "", PALETTE["convolution"])
            tops[number] += 0.35 + _NORM
        top_left, top_right = tops
    _arrow(axes, (right, top_right), (right, top_right + 0.6))
    axes.text(right, top_right + 0.68, ends[2], ha="center", va="bottom")
    middle, reached = (left + right) / 2, heights[memory_into] + _HEIGHT / 2
    turn = top_left + 0.3
    line = {"color": PALETTE["attention"], "linewidth": 1.8, "solid_capstyle": "round"}
    axes.plot([left, left, middle, middle], [top_left, turn, turn, reached], **line)
    _arrow(axes, (middle, reached), (right - 1.55, reached), PALETTE["attention"])
    axes.text((left + middle) / 2, turn + 0.1, "keys, values", ha="center", va="bottom", color=PALETTE["attention"])
    axes.set_xlim(-0.3, 9.5)
    axes.set_ylim(-1.75, max(top_right, top_left) + 1.45)
    axes.set_axis_off()
    figure.tight_layout(pad=0.2)
    return figure


def _stack(axes: Axes, x: float, parts: Sequence[Part], depth: int, norm: str) -> tuple[float, list[float]]:
    """Draw one layer and the frame around it: the y of its top, and of each sublayer's box."""
    colours = {"feed-forward": PALETTE["basic"]}
    y, boxes = 0.0, []
    axes.plot([x, x], [0.0, 0.28], color=PALETTE["ink"], linewidth=1.2)
    y = 0.28
    for name, note in parts:
        fork = y
        if norm == "pre":
            _arrow(axes, (x, y), (x, y + _GAP))
            _box(axes, x, y + _GAP, 2.6, _NORM, "norm", "", PALETTE["convolution"])
            y += _GAP + _NORM
        _arrow(axes, (x, y), (x, y + _GAP))
        y += _GAP
        boxes.append(y)
        _box(axes, x, y, 3.1, _HEIGHT, name, note, colours.get(name, PALETTE["attention"]))
        y += _HEIGHT
        _arrow(axes, (x, y), (x, y + 0.22))
        y += 0.22 + 0.14  # the circle of the sum stands here
        side = x + 1.85
        axes.plot([x, side, side, x + 0.14], [fork + 0.12, fork + 0.12, y, y], color=PALETTE["ink"], linewidth=1.2)
        circle = {"boxstyle": "circle,pad=0.12", "facecolor": PALETTE["paper"], "edgecolor": PALETTE["ink"]}
        axes.text(x, y, "+", ha="center", va="center", fontsize=10, zorder=4, bbox=circle)
        y += 0.14
        if norm == "post":
            _arrow(axes, (x, y), (x, y + 0.24))
            _box(axes, x, y + 0.24, 2.6, _NORM, "norm", "", PALETTE["convolution"])
            y += 0.24 + _NORM
    axes.plot([x, x], [y, y + 0.25], color=PALETTE["ink"], linewidth=1.2)
    y += 0.25
    frame = FancyBboxPatch((x - 2.15, 0.05), 4.3, y - 0.12, boxstyle="round,pad=0,rounding_size=0.15",
                           facecolor="#f4f6f8", edgecolor=PALETTE["convolution"], linewidth=1.0, zorder=-1)  # fmt: skip
    axes.add_patch(frame)
    axes.text(x - 2.02, y - 0.22, f"{depth} ×", ha="left", va="top", fontsize=11)
    return y, boxes


def _box(axes: Axes, x: float, y: float, width: float, height: float, name: str, note: str, colour: str) -> None:
    axes.add_patch(FancyBboxPatch((x - width / 2, y), width, height, boxstyle="round,pad=0,rounding_size=0.08",
                                  facecolor=PALETTE["paper"], edgecolor=colour, linewidth=1.6, zorder=2))  # fmt: skip
    axes.text(x, y + height * (0.68 if note else 0.46), name, ha="center", va="center", fontsize=9.5, zorder=3)
    if note:
        axes.text(
            x, y + height * 0.27, note, ha="center", va="center", fontsize=9, color=PALETTE["convolution"], zorder=3
        )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = PALETTE["ink"]) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.2, "mutation_scale": 9}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
