"""The path of the tokens through a network, stage by stage: how fine the grid, how many the channels.

    Scale("scale4", channels=384, grid=(8, 14, 14), blocks=11)

Every stage is a slab, seen from above: its sides are the grid's rows and columns, its thickness the channels, all slabs
of a figure to one scale, networks side by side and stages from top to bottom. What a slab holds is proportional to
the numbers that one frame of the clip has at that stage. Figure 1 of Fan et al. 2021, drawn from the stages that a
model gives (`MViT.stage_shapes`). Book: chapter 11, "The network".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from minirsa.viz.style import PAGE_WIDTH, PALETTE

_SQUASH = 0.42  # height of a drawn square over its width: the slab is looked at from above
_SLANT = 0.30  # how far the back edge is moved to the right, of the slab's width
_CELLS = 16  # a grid with more columns than this is not ruled: the lines would run together


@dataclass(frozen=True)
class Scale:
    """A stage: its name, channels, grid (t, h, w), and how many blocks work in it (0 for the stem)."""

    name: str
    channels: int
    grid: tuple[int, int, int]
    blocks: int = 0


def multiscale_path(networks: Mapping[str, Sequence[Scale]]) -> Figure:
    """Networks side by side, each from its first stage (top) to its last.

    networks: {name: its stages}. Raises ValueError when there is none, or a stage without places or channels.
    Book: chapter 11.
    """
    if not networks or not all(networks.values()):
        raise ValueError(f"expected networks with at least one stage each, got {dict(networks)}")
    for scale in (scale for scales in networks.values() for scale in scales):
        if min(scale.channels, *scale.grid) < 1 or len(scale.grid) != 3 or scale.blocks < 0:
            raise ValueError(f"expected channels and a grid (t, h, w) from 1 and blocks from 0, got {scale}")
    everything = [scale for scales in networks.values() for scale in scales]
    wide = 1.0 / max(scale.grid[2] for scale in everything)  # the widest slab has width 1
    thick = 0.34 / max(scale.channels for scale in everything)
    rows = max(len(scales) for scales in networks.values())
    figure, axes = plt.subplots(1, len(networks), figsize=(PAGE_WIDTH, 0.6 + 1.16 * rows), layout="constrained")
    steps = [max(_height(scales[row], wide, thick) for scales in networks.values() if row < len(scales))
             for row in range(rows)]  # fmt: skip
    for ax, (name, scales) in zip([axes] if len(networks) == 1 else axes, networks.items()):
        top, ends = 0.0, []
        for step, scale in zip(steps, scales):
            middle = top - step / 2
            half = _height(scale, wide, thick) / 2
            ends.append((middle + half, middle - half))
            _slab(ax, (0.0, middle + half), scale, wide, thick)
            label = f"{scale.name}: {scale.blocks} block{'s' * (scale.blocks != 1)}" if scale.blocks else scale.name
            size = " × ".join(str(number) for number in (scale.channels, *scale.grid))
            ax.text(0.0, top - step - 0.05, f"{label}\n{size}", ha="center", va="top", fontsize=11, linespacing=1.2)
            top -= step + 0.44
        ax.set_title(name, fontweight="bold")
        ax.set_xlim(-0.68, 0.68)
        ax.set_ylim(-sum(steps) - 0.44 * rows, 0.05)
        ax.set_aspect("equal")
        ax.set_axis_off()
    return figure


def _height(scale: Scale, wide: float, thick: float) -> float:
    """Of the drawn slab: its top, foreshortened, and its thickness."""
    return scale.grid[1] * wide * _SQUASH + scale.channels * thick


def _slab(ax: Axes, top_middle: tuple[float, float], scale: Scale, wide: float, thick: float) -> None:
    """A slab whose highest point lies at the height of `top_middle`, centred on it."""
    _, rows, columns = scale.grid
    width, depth, height = columns * wide, rows * wide * _SQUASH, scale.channels * thick
    slant = rows * wide * _SLANT
    left, back = top_middle[0] - (width + slant) / 2, top_middle[1]
    front = back - depth
    colour = PALETTE["attention"] if scale.blocks else PALETTE["convolution"]

    def shade(share: float) -> tuple[float, ...]:
        return tuple(share * c + 1 - share for c in to_rgb(colour))

    faces = [
        ([(left, front), (left + width, front), (left + width, front - height), (left, front - height)], 0.75),
        (
            [(left + width, front), (left + width + slant, back), (left + width + slant, back - height),
             (left + width, front - height)],
            1.0,
        ),
        ([(left, front), (left + width, front), (left + width + slant, back), (left + slant, back)], 0.25),
    ]  # fmt: skip
    for corners, share in faces:
        ax.add_patch(Polygon(corners, facecolor=shade(share), edgecolor=PALETTE["ink"], linewidth=0.7, zorder=2))
    if max(rows, columns) <= _CELLS:
        line = {"color": PALETTE["ink"], "linewidth": 0.35, "alpha": 0.4, "zorder": 3}
        for column in range(1, columns):
            ax.plot([left + column * wide, left + column * wide + slant], [front, back], **line)
        for row in range(1, rows):
            shift, y = slant * row / rows, front + depth * row / rows
            ax.plot([left + shift, left + width + shift], [y, y], **line)
