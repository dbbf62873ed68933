"""A clip forwards and backwards, playing side by side, with the kernels of one point under each.

    Forwards   1 2 3 ... T      Backwards   1 2 3 ... T       each in its own order of frames
    kernel of each name at the query's place, redrawn with every frame

Self-contained HTML for a page without a kernel: the landing page of the book. It plays in a loop with a
button to pause it and a slider to step through it, rests off-screen, starts paused for readers who ask
their system for reduced motion, and is a still picture where scripts are removed.

Kim et al. 2021 (RSA), figure 4. Book: the landing page.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np

from minirsa.viz.clips import query_to_cell
from minirsa.viz.dual import page_figure
from minirsa.viz.encoding import color_scale, data_uri, few_colors, frame_uri
from minirsa.viz.explorer import KernelExplorer

INTERVAL = 420
"""Milliseconds a frame: slow enough to follow small maps."""

LEVELS = 127


def kernel_animation(
    clip: np.ndarray,
    reversed_clip: np.ndarray,
    fields: Mapping[str, np.ndarray],
    reversed_fields: Mapping[str, np.ndarray],
    query: tuple[float, float],
    *,
    caption: str,
) -> str:
    """The moving figure as HTML.

    `clip`, `reversed_clip`: `(T, H, W, 3)`, uint8 or float in 0..1. `fields`, `reversed_fields`: name ->
    `(T, gh, gw, kT, kH, kW)`, in the frame order of their clip. `query`: (y, x) of the point as fractions
    of the frame. `caption`: plain text under the figure, its message. The same input gives the same bytes.
    Raises ValueError when shapes, names or values do not fit.
    """
    still = KernelExplorer(clip, fields, reversed_clip, reversed_fields, caption=caption)  # opens at the middle frame
    row, column = query_to_cell(query, still.grid, "(y, x)")
    images: dict[str, int] = {}
    orders = [[images.setdefault(frame_uri(frame), len(images)) for frame in each] for each in still.clips]

    described, parts, offset = [], [], 0
    for name in still.names:
        shown = np.stack([each[name][:, row, column] for each in still.fields])  # (2, T, kT, kH, kW)
        still.scales[name] = color_scale(shown)
        levels = np.round((shown / still.scales[name]).clip(-1, 1) * LEVELS).astype(np.int8)
        described.append({"name": name, "levels": LEVELS, "rank": 0, "offset": offset})
        parts.append(levels.reshape(2 * still.length, -1).T.tobytes())  # as pack_fields lays them out
        offset += levels.size
    frame = still.query[0]
    data = {
        "grid": list(still.grid),
        "kernel": list(still.kernel),
        "fields": described,
        "bytes": base64.b64encode(b"".join(parts)).decode("ascii"),
        "images": list(images),
        "panels": [{"title": title, "frames": order} for title, order in zip(("Forwards", "Backwards"), orders)],
        "place": [row, column],
        "frame": frame,
        "interval": INTERVAL,
    }
    return page_figure(
        "animation",
        data,
        scripts=["animation.js"],
        picture=data_uri(few_colors(still.picture(frame, row, column)), "image/png"),
        alternative="The same clip forwards and backwards; under each, at one point, a row of small maps for each "
        f"of {', '.join(still.names)}.",
        caption=caption,
    )
