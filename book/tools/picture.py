"""Draw README's picture, book/figures/forwards_and_backwards.png: a still of the landing page's figure.

    python book/tools/picture.py

One frame of the running clip in both directions, and under each the kernels of convolution, self-attention and RSA on
one point. The nets, the clip and the point are those of landing.py.
"""

from __future__ import annotations

import numpy as np
from landing import BOOK, CLIP, GRID, QUERY, SIZE, kernels

from minirsa.data import clip_length, read_clip, segment_indices, to_tensor
from minirsa.data.transforms import Resize
from minirsa.viz.snapshot import Panel, panels_png

FRAME = 4
DPI = 110


def main() -> None:
    """Write the file."""
    frames = read_clip(CLIP, segment_indices(clip_length(CLIP), 8))
    clip, _ = Resize(SIZE)(to_tensor(frames))
    fields = [kernels(clip), kernels(clip.flip(1))]
    row, column = (int(part * length) for part, length in zip(QUERY, GRID, strict=True))
    panels, scales = [], {}
    # The same moment of the scene in both directions, so that only the order of the frames around it differs.
    moments = [("Forwards", frames, FRAME), ("Backwards", frames[::-1], len(frames) - 1 - FRAME)]
    shown = [{name: field[t][row, column] for name, field in each.items()} for each, (_, _, t) in zip(fields, moments)]
    for name in shown[0]:
        scales[name] = float(max(np.abs(each[name]).max() for each in shown))
    for (title, played, t), each in zip(moments, shown):
        panels.append(Panel(title, played, t, {name: kernel / scales[name] for name, kernel in each.items()}))
    output = BOOK / "figures" / "forwards_and_backwards.png"
    output.parent.mkdir(exist_ok=True)
    output.write_bytes(panels_png(panels, scales, (row, column), GRID, over=None, dpi=DPI))
    print(f"{output.relative_to(BOOK.parent)}: {output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
