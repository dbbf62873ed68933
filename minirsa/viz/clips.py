"""A clip as a strip of frames.

    frames (T, H, W, 3)  ->  T pictures in reading order, the query's frame framed and its place marked

Book: chapter 7, "A clip is a stack of pictures"; the running clip of every chapter.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from minirsa.viz.style import PAGE_WIDTH, PALETTE


def as_frames(frames: np.ndarray, name: str = "frames") -> np.ndarray:
    """Check a clip and return it as uint8.

    `frames`: uint8 in 0..255 or float in 0..1, `(T, H, W, 3)`; anything numpy can read, a CPU tensor
    included. Returns uint8 `(T, H, W, 3)`. Raises ValueError on another shape or on floats outside 0..1.
    """
    array = np.asarray(frames)
    if array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(f"{name}: expected shape (T, H, W, 3), got {array.shape}")
    if array.dtype == np.uint8:
        return array
    array = array.astype(np.float64)
    if not (array.min() >= -1e-6 and array.max() <= 1 + 1e-6):
        found = f"values from {array.min():g} to {array.max():g}"
        raise ValueError(f"{name}: expected uint8, or floats between 0 and 1; got {found}")
    return np.round(array.clip(0, 1) * 255).astype(np.uint8)


def fraction_to_index(fraction: float, length: int, name: str = "query") -> int:
    """The index of the cell that holds `fraction` of the way along an axis of `length` cells.

    Raises ValueError outside 0..1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"{name}: expected fractions between 0 and 1, got {fraction:g}")
    return min(int(fraction * length), length - 1)


def query_to_cell(query: Sequence[float], lengths: Sequence[int], axes: str) -> tuple[int, ...]:
    """The cell that holds a place given in fractions, one for each axis: `axes` names them, as in "(y, x)".

    Raises ValueError for anything else than as many numbers, each in 0..1.
    """
    try:
        parts = [float(part) for part in query]
    except (TypeError, ValueError):
        parts = []
    if len(parts) != len(lengths):
        raise ValueError(f"query: expected {axes}, {len(lengths)} fractions between 0 and 1, got {query!r}")
    return tuple(fraction_to_index(part, length) for part, length in zip(parts, lengths))


def clip_strip(
    frames: np.ndarray,
    *,
    titles: Sequence[str] | None = None,
    query: tuple[float, float, float] | None = None,
    rows: int = 1,
) -> Figure:
    """Draw the frames of a clip side by side, in `rows` rows.

    `frames`: `(T, H, W, 3)`, uint8 or float in 0..1. `titles`: one string a frame; frame numbers without
    it. `query`: (time, y, x), each a fraction between 0 and 1 of the clip's length, height and width; that
    frame gets a border and the place a marker. Raises ValueError on other shapes, on a wrong number of
    titles, on another query than three fractions in 0..1. Returns the pyplot figure.
    """
    frames = as_frames(frames)
    length, height, width, _ = frames.shape
    if titles is not None and len(titles) != length:
        raise ValueError(f"titles: expected {length}, one a frame, got {len(titles)}")
    if not 1 <= rows <= length:
        raise ValueError(f"rows: expected 1 to {length}, got {rows}")
    chosen, *place = (None,) if query is None else query_to_cell(query, (length, height, width), "(time, y, x)")

    columns = -(-length // rows)
    cell = PAGE_WIDTH / columns
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(PAGE_WIDTH, rows * (cell * 0.95 * height / width + 0.26)),
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for t, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if t >= length:
            continue
        ax.imshow(frames[t], interpolation="nearest" if max(height, width) <= 96 else "antialiased")
        default = f"frame {t}" if columns <= 10 else str(t)
        title = ax.set_title(default if titles is None else titles[t], fontsize=9, pad=3)
        if t == chosen:
            title.set_fontweight("bold")
            ax.set_axis_on()
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set(visible=True, color=PALETTE["highlight"], linewidth=3)
            mark_point(ax, *place)
    return figure


def mark_point(ax: plt.Axes, y: float, x: float) -> None:
    """A yellow ring with a dark edge at pixel (y, x): visible on any picture."""
    for color, width in ((PALETTE["ink"], 3.5), (PALETTE["highlight"], 1.8)):
        ax.plot(x, y, "o", markersize=9, markerfacecolor="none", markeredgecolor=color, markeredgewidth=width)
