"""Draw the moving figure of the landing page: book/figures/landing.html.

    python book/tools/landing.py

The running clip forwards and backwards, and over one point of it the kernels of three trained nets: convolution,
self-attention and relational self-attention (basic and relational). The nets are those that
`python -m minirsa.training.motion_model` trains; each kernel is the one at the first replaced block (1, 1).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from minirsa.data import clip_length, read_clip, segment_indices, to_tensor
from minirsa.data.transforms import Resize
from minirsa.models.checkpoint import MOTION_MODEL, load_model
from minirsa.viz import kernel_animation

BOOK = Path(__file__).resolve().parent.parent
CLIP = BOOK.parent / "data_samples" / "moving_something_down.mp4"
PLACE = (1, 1)
SIZE = (48, 64)
GRID = (12, 16)
KERNEL = (5, 5, 5)
QUERY = (0.46, 0.34)  # a place (y, x) that the thing passes, as fractions of the frame
SHOWN_QUERY = 0  # the query (of RSA) and head (of attention) whose kernels are drawn
CAPTION = (
    "One clip, forwards and backwards, and the kernels that three networks lay on the marked point. The convolution's "
    "never changes. Attention's follows what is seen. The relational kernel changes with the direction of the motion."
)


def as_field(kernel: torch.Tensor) -> np.ndarray:
    """One clip's kernels (M, T, H, W) as the figure wants them: (T, H, W, kT, kH, kW)."""
    return kernel.permute(1, 2, 3, 0).unflatten(3, KERNEL).numpy()


@torch.no_grad()
def kernels(clip: torch.Tensor) -> dict[str, np.ndarray]:
    """The kernels of the three nets everywhere on a clip (3, T, H, W): name -> (T, H, W, kT, kH, kW)."""
    convolution, _ = load_model(BOOK / "figures" / "motion_conv3d.safetensors")
    weight = convolution.replaced()[PLACE].weight  # (C, C, 3, 3, 3): draw the strongest of the C x C kernels
    strongest = weight.flatten(2).norm(dim=2).argmax()
    static = F.pad(weight.flatten(0, 1)[strongest], [1] * 6)  # to 5 x 5 x 5
    frames = clip.shape[1]
    attention, _ = load_model(BOOK / "figures" / "motion_attention.safetensors")
    weights = attention.replaced()[PLACE].kernels(attention.transform_inputs(clip[None])[PLACE])
    relational, _ = load_model(MOTION_MODEL)
    composed = relational.kernels(clip[None], PLACE)
    return {
        "convolution": static.expand(frames, *GRID, *KERNEL).numpy(),
        "self-attention": as_field(weights[0, SHOWN_QUERY]),
        "RSA, basic": as_field(composed.basic[0, SHOWN_QUERY]),
        "RSA, relational": as_field(composed.relational[0, SHOWN_QUERY]),
    }


def main() -> None:
    frames = read_clip(CLIP, segment_indices(clip_length(CLIP), 8))
    clip, _ = Resize(SIZE)(to_tensor(frames))
    html = kernel_animation(frames, frames[::-1], kernels(clip), kernels(clip.flip(1)), QUERY, caption=CAPTION)
    output = BOOK / "figures" / "landing.html"
    output.write_text(html, encoding="utf-8")
    print(f"{output.relative_to(BOOK.parent)}: {len(html) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
