"""The clips in data_samples/: one a class of the motion set, as files that every part of the book can open.

    python -m minirsa.data.samples data_samples

writes them again, frame for frame: twelve H.264 .mp4 files named after their labels, two of them also as VP9
.webm, and labels.csv (columns clip, label). 240 x 320 pixels, 56 frames at 12 a second, the size and length
of a Something-Something video.

Book: chapter 7.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch

from minirsa.data.motion import LABELS, MotionConfig, MotionSet
from minirsa.data.video import write_clip

__all__ = ["ALSO_WEBM", "CONFIG", "ITEMS", "SEED", "sample_frames", "write_samples"]

CONFIG = MotionConfig(height=240, width=320, frames=56, noise=0.0)
SEED = 7
# Which item of the set shows each class: chosen by eye, so that the things stand out from the ground and stay
# inside the frame.
ITEMS = (48, 73, 74, 51, 64, 53, 66, 79, 92, 57, 94, 71)
ALSO_WEBM = (0, 6)
FPS = 12


def sample_frames(label: int) -> np.ndarray:
    """The frames of one class's sample before encoding: uint8 (56, 240, 320, 3)."""
    items = MotionSet(max(ITEMS) + 1, CONFIG, seed=SEED)
    if items.label(ITEMS[label]) != label:
        raise ValueError(f"item {ITEMS[label]} is of class {items.label(ITEMS[label])}, not {label}")
    clips, _ = items.batch([ITEMS[label]], dtype=torch.float64)  # no float32 rounding may decide a pixel's value
    return (clips[0].permute(1, 2, 3, 0) * 255).round().to(torch.uint8).numpy()


def write_samples(folder: str | Path) -> list[Path]:
    """Write all samples and labels.csv into ``folder``, made if missing; returns the clips' paths, in its order."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths, rows = [], []
    for label, text in enumerate(LABELS):
        frames = sample_frames(label)
        for ending in ("mp4", "webm") if label in ALSO_WEBM else ("mp4",):
            path = folder / f"{text.replace(' ', '_')}.{ending}"
            write_clip(path, frames, fps=FPS)
            paths.append(path)
            rows.append((path.name, text))
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("clip", "label"), *rows])
    return paths


def main(arguments: list[str]) -> int:
    """Write the samples into the one folder named on the command line."""
    if len(arguments) != 1:
        print("usage: python -m minirsa.data.samples FOLDER", file=sys.stderr)
        return 2
    for path in write_samples(arguments[0]):
        print(f"{path}  {path.stat().st_size / 1000:.1f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
