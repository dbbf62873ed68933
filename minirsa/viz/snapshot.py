"""An explorer's state as one picture, quickly: what the live widget shows, and what stays where scripts are removed.

    panel (one direction of play):   title
                                     frame, neighbourhood, query, one kernel's slice over them
                                     what it looks at   [kT cut-outs]
                                     name           ±s  [kT maps]       for each kernel

Drawn straight into an Agg canvas, without pyplot: nothing is displayed and no figure stays open. Whole rows
are composed with numpy and placed as one image each, which is several times quicker than an axes for every
map.

Book: chapter 13, through `KernelExplorer`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minirsa.viz.maps import time_labels
from minirsa.viz.style import DIVERGING, PALETTE

PANEL, BETWEEN, MARGIN, LINE = 3.45, 0.3, 0.05, 0.25
"""Width of a panel, gap between two, margin of the sheet, height of a line of text: inches."""

LARGEST_MAP, GAP = 0.92, 0.06
"""Widest single map and the gap between two: inches."""


@dataclass(frozen=True)
class Panel:
    """One direction of play: uint8 `clip` (T, H, W, 3) at frame `t`.

    `kernels`: name -> (kT, kH, kW), in units of full colour.
    """

    title: str
    clip: np.ndarray
    t: int
    kernels: Mapping[str, np.ndarray]


class Sheet:
    """One axes over a whole figure, addressed in inches from the top left corner: making axes is what takes time."""

    def __init__(self, width: float, height: float, dpi: int) -> None:
        self.figure = Figure(figsize=(width, height), dpi=dpi, facecolor=PALETTE["paper"])
        FigureCanvasAgg(self.figure)
        self.ax = self.figure.add_axes((0, 0, 1, 1), autoscale_on=False)
        self.ax.set_axis_off()
        self.ax.set(xlim=(0, width), ylim=(height, 0))

    def place(self, left: float, top: float, width: float, height: float, picture: np.ndarray, **options) -> None:
        self.ax.imshow(picture, extent=(left, left + width, top + height, top), aspect="auto", **options)

    def write(self, left: float, top: float, words: str, **options) -> None:
        self.ax.text(left, top, words, **{"fontsize": 9, "va": "top", "color": PALETTE["ink"], **options})

    def png(self) -> bytes:
        content = io.BytesIO()
        quick = {"compress_level": 1}
        self.figure.savefig(content, format="png", dpi=self.figure.dpi, facecolor=PALETTE["paper"], pil_kwargs=quick)
        return content.getvalue()


def panels_png(
    panels: Sequence[Panel],
    scales: Mapping[str, float],
    place: tuple[int, int],
    grid: tuple[int, int],
    *,
    over: str | None,
    dpi: int,
) -> bytes:
    """The panels side by side as a PNG; a single one has its maps beside the picture instead of below it.

    `scales`: name -> the magnitude of full colour. `place`: (row, column) in the grid (gh, gw). `over`: the
    kernel drawn over the picture, or None.
    """
    kernel = next(iter(panels[0].kernels.values())).shape
    height, width = panels[0].clip.shape[1:3]
    across = min(LARGEST_MAP, (PANEL - GAP * (kernel[0] - 1)) / kernel[0])
    down = across * (kernel[1] * height / grid[0]) / (kernel[2] * width / grid[1])
    picture_height = PANEL * height / width
    rows_height = (1 + len(scales)) * (down + LINE) + LINE
    beside = len(panels) == 1
    body = max(picture_height, rows_height) if beside else picture_height + rows_height
    sheet = Sheet(2 * PANEL + BETWEEN + 2 * MARGIN, LINE + body + 2 * MARGIN, dpi)
    for i, panel in enumerate(panels):
        left, top = MARGIN + i * (PANEL + BETWEEN), MARGIN + LINE
        sheet.write(left, MARGIN, panel.title, fontweight="bold", fontsize=10)
        drawn = None if over is None else panel.kernels[over]
        picture = _overlay(panel.clip[panel.t], drawn, place, grid, kernel[1:])
        sheet.place(left, top, PANEL, picture_height, picture)
        _mark(sheet.ax, (left, top), (PANEL / grid[1], picture_height / grid[0]), place, grid, kernel[1:])
        if beside:
            left += PANEL + BETWEEN
        else:
            top += picture_height
        _rows(sheet, left, top, panel, scales, place, grid, (across, down))
    return sheet.png()


def _rows(
    sheet: Sheet,
    left: float,
    top: float,
    panel: Panel,
    scales: Mapping[str, float],
    place: tuple[int, int],
    grid: tuple[int, int],
    size: tuple[float, float],
) -> None:
    """What the kernels look at, each kernel's maps, and the steps in time below; `size` of a map in inches."""
    steps, *window = next(iter(panel.kernels.values())).shape
    across, down = size
    row_width = steps * across + (steps - 1) * GAP
    times = range(panel.t - steps // 2, panel.t - steps // 2 + steps)
    rows = [("what it looks at", "", [_seen(panel.clip, t, place, grid, window) for t in times])]
    for name, kernel in panel.kernels.items():
        maps = [DIVERGING((values.clip(-1, 1) + 1) / 2)[..., :3] for values in kernel]
        rows.append((name, f"±{scales[name]:.2g}", maps))
    for name, scale, maps in rows:
        sheet.write(left, top + 0.06, name)
        sheet.write(left + row_width, top + 0.06, scale, ha="right")
        sheet.place(left, top + LINE, row_width, down, _side_by_side(maps, GAP / across), interpolation="nearest")
        top += LINE + down
    for step, label in enumerate(time_labels(steps)):
        sheet.write(left + (step + 0.5) * across + step * GAP, top + 0.05, label, ha="center")


def _cells(length: int, n: int) -> np.ndarray:
    """The cell of n that each of `length` pixels lies in."""
    return np.arange(length) * n // length


def _overlay(
    frame: np.ndarray,
    kernel: np.ndarray | None,
    place: tuple[int, int],
    grid: tuple[int, int],
    size: tuple[int, int],
) -> np.ndarray:
    """The frame, enlarged when small, under the kernel's slice at its own time: floats `(H, W, 3)` in 0..1."""
    factor = max(1, -(-240 // frame.shape[1]))
    picture = frame.repeat(factor, axis=0).repeat(factor, axis=1) / 255
    if kernel is None:
        return picture
    rows = _cells(picture.shape[0], grid[0]) - place[0] + size[0] // 2
    columns = _cells(picture.shape[1], grid[1]) - place[1] + size[1] // 2
    inside = np.ix_((rows >= 0) & (rows < size[0]), (columns >= 0) & (columns < size[1]))
    values = kernel[kernel.shape[0] // 2][rows[inside[0].ravel()]][:, columns[inside[1].ravel()]].clip(-1, 1)
    ends = np.array([to_rgb(PALETTE["basic"]), to_rgb(PALETTE["relational"])])
    share = 0.75 * np.abs(values)[..., None]
    picture[inside] = (1 - share) * picture[inside] + share * ends[(values > 0).astype(int)]
    return picture


def _mark(
    ax: Axes,
    origin: tuple[float, float],
    cell: tuple[float, float],
    place: tuple[int, int],
    grid: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """Outline the neighbourhood, cut off at the frame's edge, and ring the query's cell.

    `origin` (x, y) and `cell` (width, height) in inches; `place`, `grid`, `size` (rows, columns) in cells.
    """
    top, left = (max(0, p - n // 2) for p, n in zip(place, size))
    bottom, right = (min(g, p - n // 2 + n) for p, n, g in zip(place, size, grid))
    corner = (origin[0] + left * cell[0], origin[1] + top * cell[1])
    middle = (origin[0] + (place[1] + 0.5) * cell[0], origin[1] + (place[0] + 0.5) * cell[1])
    for color, line in ((PALETTE["ink"], 3.5), (PALETTE["highlight"], 1.8)):
        area = ((right - left) * cell[0], (bottom - top) * cell[1])
        ax.add_patch(Rectangle(corner, *area, fill=False, color=color, lw=line))
        ax.plot(*middle, "o", markersize=8, markerfacecolor="none", markeredgecolor=color, markeredgewidth=line)


def _seen(clip: np.ndarray, t: int, place: tuple[int, int], grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The neighbourhood of `size` cells in frame t, floats in 0..1; grey where it leaves the clip."""
    pixels = [max(n, round(98 / n) * n) for n in size]
    axes = []
    for length, p, n, g, m in zip(clip.shape[1:3], place, size, grid, pixels):
        cells = p - n // 2 + (np.arange(m) + 0.5) * n / m
        axes.append(np.floor(cells * length / g).astype(int))
    seen = np.full((*pixels, 3), 0.89)
    if 0 <= t < len(clip):
        inside = [(axis >= 0) & (axis < length) for axis, length in zip(axes, clip.shape[1:3])]
        seen[np.ix_(*inside)] = clip[t][np.ix_(*(axis[ok] for axis, ok in zip(axes, inside)))] / 255
    return seen


def _side_by_side(maps: Sequence[np.ndarray], gap: float) -> np.ndarray:
    """Maps of one size in a row, white between them; `gap` in widths of a map."""
    height, width = maps[0].shape[:2]
    factor = max(1, round(98 / width))
    maps = [m.repeat(factor, axis=0).repeat(factor, axis=1) for m in maps]
    for m in maps:  # an edge, for maps that are nearly all white
        m[[0, -1]] = m[:, [0, -1]] = 0.8
    between = np.ones((height * factor, round(gap * width * factor), 3))
    return np.concatenate([part for m in maps for part in (m, between)][:-1], axis=1)
