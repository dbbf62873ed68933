"""The attention explorer: pick a query patch, see where it looks, under one way of weighing or another.

    clip     (T, H, W, 3)                     the frames; T = 1 for one picture
    weights  name -> (T, gh, gw, T, gh, gw)   query (frame, row, column), then the place it looks at

    T = 1                                             T > 1
    +-- picture, query ----+  +-- name --+ +--...--+  | frame 1 | frame 2 | ...      every frame, grey, under the
    |  in grey, under the  |  |   map    | |  map  |  +---------+---------+          weights of the chosen name
    |  weights of the      |  +----------+ +-------+  | name    [ ][ ][ ]...         one small map a frame, for
    |  chosen name         |  largest, spread         | name    [ ][ ][ ]...         each name

Weights are not negative: paper is a weight near zero, purple the query's largest weight of that name in all
frames, which is printed beside the name, since it differs by orders of magnitude from one name to another.
Beside it stands the spread, exp(entropy): so many patches with equal weights would have the same entropy. A
weight of exactly zero, what a mask leaves out, has a grey of its own.

Dual, as `KernelExplorer` is (minirsa.viz.dual). Book: chapter 2, "Why divide by the square root of d", and
wherever attention on pictures is looked at.
"""

from __future__ import annotations

import base64
import html as markup
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from minirsa.viz.alignment import drawable
from minirsa.viz.clips import as_frames, query_to_cell
from minirsa.viz.dual import DualFigure, page_figure
from minirsa.viz.encoding import data_uri, few_colors, frame_uri, pack_weights, spread
from minirsa.viz.explorer import NOTHING
from minirsa.viz.snapshot import Sheet
from minirsa.viz.style import PAGE_WIDTH, PALETTE

if TYPE_CHECKING:
    from ipywidgets import Widget

MASKED = "#e3e7ec"
"""The grey of a weight of exactly zero, as in the page's style sheet."""


def check_weights(weights: Mapping[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    """Check weights: one or more arrays `(T, gh, gw, T, gh, gw)` of one shape, T = `length`, finite and >= 0.

    Returns float64 copies (in float32 a small weight may become exactly zero). Raises ValueError otherwise.
    """
    checked = {str(name): np.array(np.asarray(values), dtype=np.float64) for name, values in weights.items()}
    if not checked:
        raise ValueError("weights: expected at least one array, got none")
    reference = next(iter(checked.values())).shape
    for name, values in checked.items():
        fits = values.ndim == 6 and 0 not in values.shape and values.shape[:3] == values.shape[3:]
        if not fits or values.shape[0] != length or values.shape != reference:
            right = len(reference) == 6 and reference[:3] == reference[3:] and reference[0] == length
            wanted = reference if right else f"({length}, gh, gw, {length}, gh, gw)"
            raise ValueError(f"weights[{name!r}]: expected shape {wanted}, got {values.shape}")
        if not (np.isfinite(values).all() and values.min() >= 0):
            raise ValueError(f"weights[{name!r}]: expected finite numbers >= 0; scores go through softmax first")
        if name == NOTHING:
            raise ValueError(f"weights: {NOTHING!r} means that no map is drawn; name the weights otherwise")
        if not drawable([name]):
            raise ValueError(f"weights: the picture's font lacks letters of {name!r}; name the weights otherwise")
    return checked


def _shares(row: np.ndarray) -> np.ndarray:
    """One query's weights as the figure colours them: 0 to 1 of the largest, and -1 where exactly zero."""
    return np.where(row > 0, row / (row.max() or 1), -1)


def _enlarged(picture: np.ndarray, width: int) -> np.ndarray:
    """A small picture (h, w, ...) with each pixel repeated, until it is at least `width` wide."""
    factor = max(1, -(-width // picture.shape[1]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _blend(base: np.ndarray, shares: np.ndarray, full: float, zero: float) -> np.ndarray:
    """Colour a picture (H, W, 3) by shares (gh, gw), each over its part: purple, or grey where -1."""
    rows, columns = (np.arange(n) * g // n for n, g in zip(base.shape, shares.shape))
    over = shares[rows][:, columns][..., None]
    alpha = np.where(over < 0, zero, full * over)
    color = np.where(over < 0, to_rgb(MASKED), to_rgb(PALETTE["attention"]))
    return ((1 - alpha) * base + alpha * color).clip(0, 1)


def look(frame: np.ndarray, shares: np.ndarray | None) -> np.ndarray:
    """A frame, uint8 `(H, W, 3)`, in grey under shares (gh, gw), or as it is for None: floats in 0..1."""
    picture = _enlarged(frame, 240) / 255
    if shares is None:
        return picture
    return _blend(1 - 0.55 * (1 - picture.mean(axis=2, keepdims=True).repeat(3, axis=2)), shares, 0.85, 0.6)


class AttentionExplorer(DualFigure):
    """Where the patch that the reader picks looks, in every frame, under each of several kinds of weights.

    `clip`: `(T, H, W, 3)`, uint8 or float in 0..1; T = 1 for a picture. `weights`: name ->
    `(T, gh, gw, T, gh, gw)`, the weight that the query at (frame, row, column) gives to each place; any
    numbers >= 0 that numpy can read (move tensors to the CPU and detach them), exactly zero where a query may
    not look. `caption`: a sentence under the figure, its message. `query`: where the figure opens, (time, y, x)
    as fractions.

    What a page carries grows with the square of the number of places: three kinds for one picture of 12 x 16
    patches take 0.2 MB, four for 8 frames of 6 x 8 half a megabyte.

    Raises ValueError when shapes, names or values do not fit. Book: chapter 2.
    """

    def __init__(
        self,
        clip: np.ndarray,
        weights: Mapping[str, np.ndarray],
        *,
        caption: str,
        query: tuple[float, float, float] = (0.5, 0.5, 0.5),
    ) -> None:
        self.caption = caption
        self.clip = as_frames(clip, "clip")
        self.length = len(self.clip)
        self.weights = check_weights(weights, self.length)
        self.names = list(self.weights)
        self.grid = self.weights[self.names[0]].shape[1:3]
        self.query = query_to_cell(query, (self.length, *self.grid), "(time, y, x)")

    def text(self) -> str:
        frames = "1 frame" if self.length == 1 else f"{self.length} frames"
        return f"AttentionExplorer({frames}, {self.grid[0]} x {self.grid[1]} patches: {', '.join(self.names)})"

    def row(self, name: str, frame: int, row: int, column: int) -> np.ndarray:
        """The weights of one query: (T, gh, gw)."""
        return self.weights[name][frame, row, column]

    def html(self) -> str:
        places = self.length * self.grid[0] * self.grid[1]
        images: dict[str, int] = {}
        packed = pack_weights({name: each.reshape(places, places) for name, each in self.weights.items()})
        data = {
            "frames": [images.setdefault(frame_uri(frame), len(images)) for frame in self.clip],
            "images": list(images),
            "grid": list(self.grid),
            "fields": packed.fields,
            "bytes": base64.b64encode(packed.content).decode("ascii"),
            "query": list(self.query),
            "shown": 0,
        }
        frame, row, column = self.query
        where = f"row {row + 1} of {self.grid[0]}, column {column + 1} of {self.grid[1]}"
        found = "; ".join(f"{name}: {self.numbers(name, *self.query)}" for name in self.names)
        return page_figure(
            "attention",
            data,
            scripts=["pointing.js", "weights.js", "attention.js"],
            style="attention.css",
            picture=data_uri(few_colors(self.picture(frame, row, column, self.names[0])), "image/png"),
            alternative=f"{'A picture' if self.length == 1 else f'Frame {frame + 1} of a clip'} with one patch marked "
            f"({where}), and a map of the weights that this patch gives to every other. {found}.",
            caption=self.caption,
        )

    def numbers(self, name: str, frame: int, row: int, column: int) -> str:
        """The query's largest weight and spread, in words."""
        weights = self.row(name, frame, row, column)
        wide = float(spread(weights.reshape(1, -1))[0])
        around = f"{wide:.1f}" if wide < 9.95 else f"{wide:.0f}"
        return f"largest {weights.max():.2g}; ≈ {around} of {weights.size} patches"

    def widget(self) -> Widget:
        import ipywidgets  # here, so that plain figures do not wait for it

        wide = ipywidgets.Layout(width="300px")
        label = {"description_width": "70px"}

        def slider(name: str, length: int, value: int) -> ipywidgets.IntSlider:
            return ipywidgets.IntSlider(value=value + 1, min=1, max=length, description=name, layout=wide, style=label)

        frame, row, column = (
            slider(name, length, value)
            for name, length, value in zip(("Frame", "Row", "Column"), (self.length, *self.grid), self.query)
        )
        shown = ipywidgets.Dropdown(
            options=[*self.names, NOTHING],
            value=self.names[0],
            description="On picture",
            layout=wide,
            style=label,
        )
        image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(width="100%", max_width="740px"))

        def draw(_change: object = None) -> None:
            image.value = self.picture(frame.value - 1, row.value - 1, column.value - 1, shown.value)

        for control in (frame, row, column, shown):
            control.observe(draw, names="value")
        draw()
        first = [shown] if self.length == 1 else [shown, frame]
        return ipywidgets.VBox(
            [
                ipywidgets.HBox(first),
                ipywidgets.HBox([row, column]),
                image,
                ipywidgets.HTML(value=f"<p style='line-height:1.4'>{markup.escape(self.caption)}</p>"),
            ]
        )

    def picture(self, frame: int, row: int, column: int, shown: str = NOTHING, *, dpi: int = 110) -> bytes:
        """The explorer with its query at a frame and a cell, weights `shown` over the frames: a PNG's bytes."""
        rows = {name: _shares(self.row(name, frame, row, column)) for name in self.names}
        notes = {name: self.numbers(name, frame, row, column) for name in self.names}
        over = None if shown == NOTHING else rows[shown]
        draw = _picture_sheet if self.length == 1 else _clip_sheet
        return draw(self.clip, rows, notes, over, (frame, row, column), dpi)


MARGIN, GAP, LINE = 0.05, 0.1, 0.22
"""Margin of the sheet, gap between pictures, height of a line of text: inches."""


def _patch(sheet: Sheet, corner: tuple[float, float], size: tuple[float, float], cell: tuple[int, int], grid) -> None:
    """Outline a cell (row, column) on a picture whose left top corner and (width, height) are in inches."""
    across, down = size[0] / grid[1], size[1] / grid[0]
    for color, line in ((PALETTE["ink"], 3.2), (PALETTE["highlight"], 1.6)):
        left, top = corner[0] + cell[1] * across, corner[1] + cell[0] * down
        sheet.ax.add_patch(Rectangle((left, top), across, down, fill=False, color=color, lw=line))


def _map(sheet: Sheet, left: float, top: float, width: float, height: float, shares: np.ndarray) -> None:
    picture = _blend(np.ones((*shares.shape, 3)), shares, 1.0, 1.0)
    sheet.place(left, top, width, height, picture, interpolation="nearest")
    edge = Rectangle((left, top), width, height, fill=False, color="#d5dae1", lw=0.8)
    sheet.ax.add_patch(edge)


def _picture_sheet(clip, rows, notes, over, query, dpi: int) -> bytes:
    """One picture on the left, the maps of all names in two columns on the right."""
    _, *cell = query
    ratio = clip.shape[1] / clip.shape[2]
    grid = next(iter(rows.values())).shape[1:]
    wide = (PAGE_WIDTH - 2 * MARGIN) * 0.47
    small = (PAGE_WIDTH - 2 * MARGIN - wide - 2 * GAP) / 2
    down = 2 * LINE + small * ratio + GAP
    height = max(wide * ratio, -(-len(rows) // 2) * down)
    sheet = Sheet(PAGE_WIDTH, height + 2 * MARGIN, dpi)
    sheet.place(MARGIN, MARGIN, wide, wide * ratio, look(clip[0], None if over is None else over[0]))
    _patch(sheet, (MARGIN, MARGIN), (wide, wide * ratio), cell, grid)
    for i, (name, shares) in enumerate(rows.items()):
        left = MARGIN + wide + GAP + (i % 2) * (small + GAP)
        top = MARGIN + (i // 2) * down
        sheet.write(left, top, name, fontweight="bold", parse_math=False)
        sheet.write(left, top + LINE * 0.85, notes[name], fontsize=8)
        _map(sheet, left, top + 2 * LINE, small, small * ratio, shares[0])
    return sheet.png()


def _clip_sheet(clip, rows, notes, over, query, dpi: int) -> bytes:
    """All frames in rows of four, then for each name one small map a frame."""
    frame, *cell = query
    length, ratio = len(clip), clip.shape[1] / clip.shape[2]
    grid = next(iter(rows.values())).shape[1:]
    columns = min(4, length)
    wide = (PAGE_WIDTH - 2 * MARGIN - (columns - 1) * GAP) / columns
    down = LINE + wide * ratio + GAP
    gap = GAP / 2
    small = min(0.92, (PAGE_WIDTH - 2 * MARGIN - (length - 1) * gap) / length)
    strip = LINE + small * ratio + GAP
    above = -(-length // columns) * down
    sheet = Sheet(PAGE_WIDTH, above + len(rows) * strip + 2 * MARGIN, dpi)
    for t, picture in enumerate(clip):
        left, top = MARGIN + t % columns * (wide + GAP), MARGIN + t // columns * down
        own = t == frame
        sheet.write(left, top, f"frame {t + 1}{' (query)' if own else ''}", fontweight="bold" if own else "normal")
        sheet.place(left, top + LINE, wide, wide * ratio, look(picture, None if over is None else over[t]))
        if own:
            _patch(sheet, (left, top + LINE), (wide, wide * ratio), cell, grid)
    for i, (name, shares) in enumerate(rows.items()):
        top = MARGIN + above + i * strip
        sheet.write(MARGIN, top, name, fontweight="bold", parse_math=False)
        sheet.write(PAGE_WIDTH - MARGIN, top, notes[name], ha="right")
        for t, each in enumerate(shares):
            _map(sheet, MARGIN + t * (small + gap), top + LINE, small, small * ratio, each)
    return sheet.png()
