"""The kernel explorer: pick a point and a frame, see the kernels there, forwards and backwards.

    clip    (T, H, W, 3)                      what is played
    fields  name -> (T, gh, gw, kT, kH, kW)   the kernel of each name at each frame t and each cell of a gh x gw grid

    +-- Forwards --- frame 4 of 8 --+  +-- Backwards - frame 5 of 8 --+     both show the same picture:
    moment t of |  picture, point, neighbourhood |  |  the same picture            |     the clip is moment
    T - 1 - t of the |  what it looks at  [ ][ ][ ]   |  |  [ ][ ][ ]                   |     reversed one.
    What comes before and |  basic kernel      [ ][ ][ ]   |  |  [ ][ ][ ]                   |     after it
    swaps; whether a kernel |  relational kernel [ ][ ][ ]   |  |  [ ][ ][ ]                   |     follows
    is what the reader looks for. +--------------------------------+  +------------------------------+

The figure is dual (see minirsa.viz.dual, which also says how to write another one): a live ipywidget where
there is a kernel, self-contained HTML on a page. Both have the same parts:

- frame: slider (page up and page down on the picture); - point: click or drag on either picture, by mouse
or finger, or the arrow keys; sliders in the widget, because the
  core widgets report no clicks;
- which kernel lies over the picture: list, or a click on its maps. Its slice at the query's own time is
drawn.

Colours are signed: blue negative, paper zero, orange positive. Each name has one scale for the whole clip
and both directions, given beside it, so that colours compare between places, frames and directions.

Kim et al. 2021 (RSA), figure 4, draws such kernels for one point of a clip and its reverse. Book: chapter 13.
"""

from __future__ import annotations

import base64
import html as markup
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from minirsa.viz.clips import as_frames, query_to_cell
from minirsa.viz.dual import DualFigure, page_figure
from minirsa.viz.encoding import color_scale, data_uri, few_colors, frame_uri, pack_fields
from minirsa.viz.snapshot import Panel, panels_png

if TYPE_CHECKING:
    from ipywidgets import Widget

NOTHING = "nothing"
"""The choice that leaves the picture bare; no field may have this name."""


def check_fields(
    fields: Mapping[str, np.ndarray], length: int, name: str, like: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Check fields of kernels: one or more arrays `(T, gh, gw, kT, kH, kW)` of one shape, T = `length`, all finite.

    `like`: fields whose names and shape they must share. Returns float32 copies. Raises ValueError otherwise.
    """
    checked = {label: np.asarray(values, dtype=np.float32) for label, values in fields.items()}
    if not checked:
        raise ValueError(f"{name}: expected at least one field, got none")
    reference = next(iter((like or checked).values())).shape
    for label, values in checked.items():
        if values.ndim != 6 or 0 in values.shape or values.shape[0] != length or values.shape != reference:
            wanted = reference if len(reference) == 6 and reference[0] == length else f"({length}, gh, gw, kT, kH, kW)"
            raise ValueError(f"{name}[{label!r}]: expected shape {wanted}, got {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name}[{label!r}]: expected finite values, got NaN or infinity")
        if label == NOTHING:
            raise ValueError(f"{name}: {NOTHING!r} means that no kernel is drawn; name the field otherwise")
    if like is not None and list(like) != list(checked):
        raise ValueError(f"{name}: expected the names {list(like)} in this order, got {list(checked)}")
    return checked


class KernelExplorer(DualFigure):
    """Kernels of a clip, and of its reverse, at the point and frame that the reader picks.

    `clip`: `(T, H, W, 3)`, uint8 or float in 0..1. `fields`: name -> `(T, gh, gw, kT, kH, kW)`, the kernel
    at frame t and cell (row, column) of a gh x gw grid over the frame; index kT // 2 is the query's own
    frame. A field is any array numpy can read: move tensors to the CPU and detach them first.
    `reversed_clip`, `reversed_fields`: the same for the clip played backwards, in its own order of frames;
    both or neither. `caption`: a sentence under the figure, its message. `query`: where the figure opens,
    (time, y, x) as fractions of the forward clip.

    Raises ValueError when shapes, names or values do not fit. Book: chapter 13, "Pick a point".
    """

    def __init__(
        self,
        clip: np.ndarray,
        fields: Mapping[str, np.ndarray],
        reversed_clip: np.ndarray | None = None,
        reversed_fields: Mapping[str, np.ndarray] | None = None,
        *,
        caption: str,
        query: tuple[float, float, float] = (0.5, 0.5, 0.5),
    ) -> None:
        if (reversed_clip is None) != (reversed_fields is None):
            raise ValueError("reversed_clip and reversed_fields: expected both or neither")
        self.caption = caption
        self.clips = [as_frames(clip, "clip")]
        self.length = len(self.clips[0])
        self.fields = [check_fields(fields, self.length, "fields")]
        if reversed_clip is not None:
            self.clips.append(as_frames(reversed_clip, "reversed_clip"))
            if self.clips[1].shape != self.clips[0].shape:
                expected, got = self.clips[0].shape, self.clips[1].shape
                raise ValueError(f"reversed_clip: expected the clip's shape {expected}, got {got}")
            self.fields.append(check_fields(reversed_fields, self.length, "reversed_fields", like=self.fields[0]))
        self.names = list(self.fields[0])
        shape = self.fields[0][self.names[0]].shape
        self.grid, self.kernel = shape[1:3], shape[3:]
        self.query = query_to_cell(query, (self.length, *self.grid), "(time, y, x)")
        self.scales = {name: color_scale(np.stack([each[name] for each in self.fields])) for name in self.names}

    def text(self) -> str:
        directions = "forwards and backwards" if len(self.clips) > 1 else "forwards"
        steps, height, width = self.kernel
        return (
            f"KernelExplorer({self.length} frames, {self.grid[0]} x {self.grid[1]} points, "
            f"{steps} x {height} x {width} kernels: {', '.join(self.names)}; {directions})"
        )

    def html(self) -> str:
        images: dict[str, int] = {}  # address -> number: the reversed clip mostly repeats the clip's frames
        orders = [[images.setdefault(frame_uri(f), len(images)) for f in clip] for clip in self.clips]
        packed = pack_fields({name: np.stack([each[name] for each in self.fields]) for name in self.names})
        data = {
            "grid": list(self.grid),
            "kernel": list(self.kernel),
            "fields": packed.fields,
            "bytes": base64.b64encode(packed.content).decode("ascii"),
            "images": list(images),
            "panels": [
                {"title": title, "frames": order, "reversed": bool(i)}
                for i, (title, order) in enumerate(zip(("Forwards", "Backwards"), orders))
            ],
            "query": list(self.query),
            "shown": len(self.names) - 1,
        }
        frame, row, column = self.query
        return page_figure(
            "explorer",
            data,
            scripts=["pointing.js", "explorer.js"],
            picture=data_uri(few_colors(self.picture(frame, row, column, self.names[-1])), "image/png"),
            alternative=f"Frame {frame + 1} of the clip and, at one point of it, one row of small maps for each of "
            f"{', '.join(self.names)}, from the frame's past to its future.",
            caption=self.caption,
        )

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
            value=self.names[-1],
            description="On picture",
            layout=wide,
            style=label,
        )
        image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(width="100%", max_width="740px"))

        def draw(_change: object = None) -> None:
            image.value = self.picture(frame.value - 1, row.value - 1, column.value - 1, shown.value)

        controls = (frame, row, column, shown)
        for control in controls:
            control.observe(draw, names="value")
        draw()
        return ipywidgets.VBox(
            [
                ipywidgets.HBox([frame, row]),
                ipywidgets.HBox([column, shown]),
                image,
                ipywidgets.HTML(value=f"<p style='line-height:1.4'>{markup.escape(self.caption)}</p>"),
            ]
        )

    def picture(self, frame: int, row: int, column: int, shown: str = NOTHING, *, dpi: int = 110) -> bytes:
        """The explorer at a frame and a cell of the forward clip, `shown` drawn over the picture: a PNG's bytes."""
        panels = []
        for title, clip, fields in zip(("Forwards", "Backwards"), self.clips, self.fields):
            t = self.length - 1 - frame if panels else frame
            kernels = {name: fields[name][t, row, column] / self.scales[name] for name in self.names}
            panels.append(Panel(f"{title}, frame {t + 1} of {self.length}", clip, t, kernels))
        over = None if shown == NOTHING else shown
        return panels_png(panels, self.scales, (row, column), self.grid, over=over, dpi=dpi)
