"""Who attends to whom in a clip: the schemes of TimeSformer, drawn from what a model's own weights say.

    frames   (T, H, W, 3)                                  the clip
    schemes  scheme -> {branch: (T, gh, gw) bool}          the patches that one query attends to, branch by branch

    divided   [frame][frame][frame]...    one row a scheme, one column a frame: the query's patch in yellow, each
    axial     [frame][frame][frame]...    branch in a colour of its own, what no branch looks at in grey

`scheme_blocks` draws the blocks that do it as boxes, bottom to top. Bertasius et al. 2021, figures 2 and 1. Book:
chapter 9, "Five schemes".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle

from minirsa.viz.clips import as_frames
from minirsa.viz.style import PAGE_WIDTH, PALETTE

COLORS = ("basic", "relational", "context")
"""Roles of `PALETTE` for the first, second and third branch of a scheme."""


def check_masks(schemes: Mapping[str, Mapping[str, np.ndarray]], length: int) -> dict[str, dict[str, np.ndarray]]:
    """Check masks: one to three bool arrays (T, gh, gw) for each scheme, all of one shape, T = `length`.

    Raises ValueError for anything else: weights become masks by `weights > 0`.
    """
    checked = {
        str(scheme): {str(name): np.asarray(mask) for name, mask in branches.items()}
        for scheme, branches in schemes.items()
    }
    if not checked or not all(1 <= len(branches) <= len(COLORS) for branches in checked.values()):
        raise ValueError(f"schemes: expected at least one, each of 1 to {len(COLORS)} branches")
    reference = next(iter(next(iter(checked.values())).values())).shape
    for scheme, branches in checked.items():
        for name, mask in branches.items():
            if mask.ndim != 3 or 0 in mask.shape or mask.shape[0] != length or mask.shape != reference:
                wanted = reference if len(reference) == 3 and reference[0] == length else f"({length}, gh, gw)"
                raise ValueError(f"schemes[{scheme!r}][{name!r}]: expected shape {wanted}, got {mask.shape}")
            if mask.dtype != bool:
                raise ValueError(f"schemes[{scheme!r}][{name!r}]: expected bool, got {mask.dtype}")
    return checked


def neighbourhoods(
    frames: np.ndarray,
    schemes: Mapping[str, Mapping[str, np.ndarray]],
    *,
    query: tuple[int, int, int],
    shown: Sequence[int] | None = None,
) -> Figure:
    """Draw, for each scheme, which patches of the clip the query attends to in each branch.

    frames: (T, H, W, 3), uint8 or float in 0..1. schemes: {scheme: {branch: (T, gh, gw) bool}}, one to three branches
    each. query: (frame, row, column) of the patch that asks. shown: the frames to draw, from 0; all without it. A
    patch of several branches is striped. Above each row stand the branches, and how many patches each of them sees in
    the whole clip.

    Raises ValueError for shapes that do not fit, masks that are not bool, and a query or frames outside the clip.
    Returns the pyplot figure. Book: chapter 9, "Five schemes".
    """
    frames = as_frames(frames)
    schemes = check_masks(schemes, len(frames))
    grid = next(iter(next(iter(schemes.values())).values())).shape
    if len(query) != 3 or not all(0 <= at < side for at, side in zip(query, grid)):
        raise ValueError(f"query: expected (frame, row, column) inside {grid}, got {tuple(query)}")
    shown = range(len(frames)) if shown is None else list(shown)
    if not shown or not all(0 <= t < len(frames) for t in shown):
        raise ValueError(f"shown: expected frames from 0 to {len(frames) - 1}, got {list(shown)}")
    ratio = frames.shape[1] / frames.shape[2]
    cell = PAGE_WIDTH / len(shown)
    size = PAGE_WIDTH, len(schemes) * (cell * ratio + 0.3) + 0.2
    figure, axes = plt.subplots(len(schemes), len(shown), figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for index, (row, (scheme, branches)) in enumerate(zip(axes, schemes.items())):
        masks = np.stack(list(branches.values()))  # (branches, T, gh, gw)
        for ax, t in zip(row, shown):
            ax.imshow(tinted(frames[t], masks[:, t]), interpolation="antialiased")
            ax.set_axis_off()
            _grid_lines(ax, frames.shape[1:3], grid[1:])
            if t == query[0]:
                _mark(ax, frames.shape[1:3], grid[1:], query[1:])
            if index == len(schemes) - 1:
                name = f"frame {t + 1}" + (" (query)" if t == query[0] else "")
                ax.text(0.5, -0.04, name, transform=ax.transAxes, ha="center", va="top", fontsize=9)
        handles = [
            Patch(facecolor=PALETTE[color], label=f"{name}: {int(mask.sum()):,}")
            for color, (name, mask) in zip(COLORS, branches.items())
        ]
        row[0].set_title(scheme, loc="left", fontweight="bold", pad=4)
        legend = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.98), "ncols": len(handles), "borderpad": 0.1}
        names = row[-1].legend(handles=handles, handlelength=1, handletextpad=0.4, columnspacing=1.2, **legend)
        names.set_in_layout(False)  # it reaches over its neighbours
    return figure


def tinted(frame: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) uint8 in grey, its patches coloured by masks (branches, gh, gw): floats (H, W, 3) in 0..1.

    A patch of n branches has n upright stripes, one in each colour.
    """
    height, width = frame.shape[:2]
    rows = np.arange(height) * masks.shape[1] // height
    columns = np.arange(width) * masks.shape[2] // width
    across = np.arange(width) * masks.shape[2] / width % 1  # how far across its patch a pixel lies
    grey = frame.mean(axis=2, keepdims=True).repeat(3, axis=2) / 255
    picture = 0.62 * 0.86 + 0.38 * grey  # pale: nobody looks here
    seen, rank = masks.sum(0), masks.cumsum(0) - 1
    for mask, place, color in zip(masks, rank, COLORS):
        stripe = (across * seen[rows][:, columns]).astype(int) == place[rows][:, columns]
        own = mask[rows][:, columns] & stripe
        picture[own] = 0.62 * np.array(to_rgb(PALETTE[color])) + 0.38 * grey[own]
    return picture


def _grid_lines(ax: Axes, size: tuple[int, int], grid: tuple[int, int]) -> None:
    """Thin white lines between the patches."""
    down, across = size[0] / grid[0], size[1] / grid[1]
    for i in range(1, grid[0]):
        ax.axhline(i * down - 0.5, color=PALETTE["paper"], linewidth=0.35)
    for i in range(1, grid[1]):
        ax.axvline(i * across - 0.5, color=PALETTE["paper"], linewidth=0.35)


def _mark(ax: Axes, size: tuple[int, int], grid: tuple[int, int], cell: tuple[int, int]) -> None:
    """The query's patch: yellow with a dark edge."""
    down, across = size[0] / grid[0], size[1] / grid[1]
    corner = cell[1] * across - 0.5, cell[0] * down - 0.5
    face, edge = PALETTE["highlight"], PALETTE["ink"]
    ax.add_patch(Rectangle(corner, across, down, facecolor=face, edgecolor=edge, linewidth=1.2, zorder=3))


def scheme_blocks(schemes: Mapping[str, Sequence[tuple[str, str]]], *, ends: tuple[str, str]) -> Figure:
    """Draw blocks side by side, from input to output, each box with its residual connection.

    schemes: {scheme: [(part, note), ...]}, the parts of a block in order; the note, in small print, may be empty.
    ends: what enters a block, and what leaves it.

    Raises ValueError for no scheme, or one without parts. Returns the pyplot figure. Bertasius et al. 2021, figure 1.
    """
    if not schemes or not all(schemes.values()):
        raise ValueError("schemes: expected at least one, each with at least one part")
    tallest = max(len(parts) for parts in schemes.values())
    figure, ax = plt.subplots(figsize=(PAGE_WIDTH, 0.75 + 0.82 * tallest))
    ends_style = {"ha": "center", "fontsize": 10}
    line = {"color": PALETTE["ink"], "linewidth": 1.2}
    for column, (scheme, parts) in enumerate(schemes.items()):
        x, y = column + 0.5, 0.0
        ax.text(x - 0.04, -0.36, ends[0], va="top", **ends_style)
        ax.plot([x - 0.04] * 2, [-0.32, y], **line)
        for number, (name, note) in enumerate(parts):
            color = COLORS[number % len(COLORS)] if number < len(parts) - 1 else "convolution"
            _part(ax, x - 0.04, y, name, note, PALETTE[color])
            y += 1.0
        _arrow(ax, (x - 0.04, y), (x - 0.04, y + 0.22))
        ax.text(x - 0.04, y + 0.26, ends[1], va="bottom", **ends_style)
        ax.text(x - 0.04, tallest + 0.72, scheme, fontweight="bold", va="bottom", **ends_style)
    ax.set_xlim(0, len(schemes))
    ax.set_ylim(-0.7, tallest + 1.0)
    ax.set_axis_off()
    figure.tight_layout(pad=0.1)
    return figure


def _part(ax: Axes, x: float, y: float, name: str, note: str, color: str) -> None:
    """One box with the way around it and the sum above: from y to y + 1."""
    line = {"color": PALETTE["ink"], "linewidth": 1.2}
    ax.plot([x] * 2, [y, y + 0.1], **line)
    _arrow(ax, (x, y), (x, y + 0.22))
    shape = {"boxstyle": "round,pad=0,rounding_size=0.03", "facecolor": PALETTE["paper"], "mutation_aspect": 3}
    ax.add_patch(FancyBboxPatch((x - 0.36, y + 0.22), 0.72, 0.5, edgecolor=color, linewidth=1.6, zorder=2, **shape))
    ax.text(x, y + (0.57 if note else 0.47), name, ha="center", va="center", fontsize=9.5, zorder=3)
    if note:
        ax.text(x, y + 0.36, note, ha="center", va="center", fontsize=8, color=PALETTE["convolution"], zorder=3)
    ax.plot([x, x + 0.42, x + 0.42, x], [y + 0.09, y + 0.09, y + 0.88, y + 0.88], **line)
    ax.plot([x] * 2, [y + 0.72, y + 1.0], **line)
    circle = {"boxstyle": "circle,pad=0.05", "facecolor": PALETTE["paper"], "edgecolor": PALETTE["ink"]}
    ax.text(x, y + 0.88, "+", ha="center", va="center", fontsize=8, zorder=4, bbox=circle)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": PALETTE["ink"], "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    ax.annotate("", xy=end, xytext=start, arrowprops=style)
