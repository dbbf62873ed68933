"""Kernels and attention weights as pictures.

    kernel (kT, kH, kW)   ->  kT small maps in a row, one a step in time; blue negative, orange positive
    weights (h, w)        ->  a heat map over the frame it looks at

Every row has one colour scale, symmetric about zero, so that colours compare along the row and zero is white.

Book: chapter 12 (what attention looks at), chapter 13 (basic and relational kernels).
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from minirsa.viz.clips import as_frames, mark_point, query_to_cell
from minirsa.viz.style import DIVERGING, PAGE_WIDTH, SEQUENTIAL


def time_labels(steps: int) -> list[str]:
    """Names of a kernel's slices in time, the query's own being 0: 5 -> ["−2", "−1", "0", "+1", "+2"]."""
    offsets = range(-(steps // 2), steps - steps // 2)
    return [f"{o:+d}".replace("-", "\N{MINUS SIGN}") if o else "0" for o in offsets]


def kernel_maps(kernel: np.ndarray | Mapping[str, np.ndarray], *, title: str | None = None) -> Figure:
    """Draw a kernel, or several by name, as rows of maps: one column for each step in time.

    `kernel`: `(kT, kH, kW)`, or a dict of name -> such arrays with the same kT (a row each, with its own
    symmetric scale and colour bar). `title`: a line above. Raises ValueError on another shape, on values
    that are not finite, and on an empty dict. Returns the pyplot figure.
    """
    named = dict(kernel) if isinstance(kernel, Mapping) else {"": kernel}
    if not named:
        raise ValueError("kernel: expected at least one kernel, got an empty dict")
    named = {name: np.asarray(values, dtype=np.float64) for name, values in named.items()}
    steps = next(iter(named.values())).shape[0] if next(iter(named.values())).ndim else 0
    for name, values in named.items():
        if values.ndim != 3 or 0 in values.shape or values.shape[0] != steps:
            raise ValueError(f"kernel {name!r}: expected shape ({steps or 'kT'}, kH, kW), got {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"kernel {name!r}: expected finite values, got NaN or infinity")

    cell = min(1.1, (PAGE_WIDTH - 1.2) / steps)
    heights = [cell * values.shape[1] / values.shape[2] for values in named.values()]
    figure, axes = plt.subplots(
        len(named),
        steps,
        figsize=(
            max(3.4, steps * cell + 1.2),
            sum(heights) + 0.3 * len(named) + (0.65 if title is None else 0.9),
        ),
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0.02)
    for row, (name, values) in enumerate(named.items()):
        limit = np.abs(values).max() or 1.0
        for step, (ax, label) in enumerate(zip(axes[row], time_labels(steps))):
            picture = ax.imshow(values[step], cmap=DIVERGING, vmin=-limit, vmax=limit)
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set(visible=True, linewidth=0.8)
            if row == len(named) - 1:
                ax.set_xlabel(label)
        if name:
            axes[row, 0].set_title(name, loc="left", fontweight="bold", pad=4)
        bar = figure.colorbar(picture, ax=axes[row], fraction=0.04, pad=0.01, ticks=[-limit, 0, limit])
        bar.ax.set_yticklabels([f"\N{MINUS SIGN}{limit:.2g}", "0", f"{limit:.2g}"])
        bar.outline.set_linewidth(0.5)
    figure.supxlabel("step in time, from the query's frame", fontsize=9)
    if title is not None:
        figure.suptitle(title)
    return figure


def attention_map(
    frame: np.ndarray,
    weights: np.ndarray,
    *,
    query: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a frame, and beside it the same frame under a heat map of where attention goes.

    `frame`: `(H, W, 3)`, uint8 or float in 0..1. `weights`: `(h, w)`, non-negative, any size: each weight
    covers its share of the frame. `query`: (y, x) fractions of the query's place, marked on both. Raises
    ValueError on other shapes, on negative or non-finite weights and on another query than two fractions in
    0..1. Returns the pyplot figure.
    """
    frame = np.asarray(frame)
    if frame.ndim != 3 or frame.shape[-1] != 3 or 0 in frame.shape:
        raise ValueError(f"frame: expected shape (H, W, 3), got {frame.shape}")
    frame = as_frames(frame[None], "frame")[0]
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or 0 in weights.shape:
        raise ValueError(f"weights: expected shape (h, w), got {weights.shape}")
    if not (np.isfinite(weights).all() and weights.min() >= 0):
        raise ValueError("weights: expected finite numbers >= 0; signed kernels are for kernel_maps")
    height, width, _ = frame.shape
    place = None if query is None else query_to_cell(query, (height, width), "(y, x)")

    panel = (PAGE_WIDTH - 1.0) / 2
    figure, axes = plt.subplots(
        1,
        2,
        figsize=(PAGE_WIDTH, panel * height / width + (0.3 if title is None else 0.6)),
        layout="constrained",
    )
    grey = np.repeat(frame.mean(axis=2, keepdims=True) / 255, 3, axis=2)
    axes[0].imshow(frame)
    axes[1].imshow(grey)
    heat = axes[1].imshow(
        weights,
        cmap=SEQUENTIAL,
        vmin=0,
        vmax=weights.max() or 1.0,
        alpha=0.7,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )
    for ax in axes:
        ax.set_axis_off()
        if place is not None:
            mark_point(ax, *place)
    figure.colorbar(heat, ax=axes[1], fraction=0.046, pad=0.02, label="weight")
    if title is not None:
        figure.suptitle(title)
    return figure
