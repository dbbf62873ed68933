"""Train the small nets of chapter 13 on the motion set; one of them ships with the package.

    python -m minirsa.training.motion_model rsa minirsa/weights/motion_rsa.safetensors
    python -m minirsa.training.motion_model conv3d book/figures/motion_conv3d.safetensors
    python -m minirsa.training.motion_model attention book/figures/motion_attention.safetensors --height 32 --width 32

One recipe for all; only the transform in two bottlenecks differs (and, for attention, the size of the training clips:
its neighbourhoods are stored, and that takes time). The file's card records the recipe, the seeds, the commit, the
hardware and the accuracy on clips that were never trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from minirsa.data.motion import LABELS, MotionConfig, MotionSet
from minirsa.models.checkpoint import Card, save_model
from minirsa.models.rsanet import rsanet_small
from minirsa.training.loop import Recipe, fit, motion_batches, predict_scores

CONFIG = MotionConfig(height=48, width=64, frames=8)
RECIPE = Recipe(steps=700, batch_size=16, lr=4e-3, seed=1)
WEIGHT_SEED = 0
TEST_SEED, TEST_CLIPS = 2, 1200


def train(transform: str, recipe: Recipe = RECIPE, config: MotionConfig = CONFIG):
    """A net of `rsanet_small` after its recipe, and its losses; progress goes to standard output."""
    torch.manual_seed(WEIGHT_SEED)
    model = rsanet_small(len(LABELS), config.frames, transform=transform)
    start = time.perf_counter()

    def report(step: int, loss: float) -> None:
        if step % 50 == 49:
            print(f"step {step + 1:4d}  loss {loss:.3f}  {time.perf_counter() - start:.0f} s", flush=True)

    return model, fit(model, motion_batches(recipe, config), recipe, on_step=report)


def measure_accuracy(model: torch.nn.Module, config: MotionConfig = CONFIG) -> dict[str, float]:
    """Top-1 accuracy on unseen clips, and on the same clips backwards under the other label of their pair."""
    clips = MotionSet(TEST_CLIPS, config, seed=TEST_SEED)
    right = backwards = 0
    for start in range(0, TEST_CLIPS, 48):
        x, labels = clips.batch(range(start, min(start + 48, TEST_CLIPS)))
        right += int((predict_scores(model, x).argmax(1) == labels).sum())
        backwards += int((predict_scores(model, x.flip(2)).argmax(1) == (labels ^ 1)).sum())
    return {"top-1": right / TEST_CLIPS, "top-1 reversed": backwards / TEST_CLIPS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("transform", choices=["rsa", "attention", "conv3d", "conv2d"])
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--height", type=int, default=CONFIG.height)
    parser.add_argument("--width", type=int, default=CONFIG.width)
    options = parser.parse_args()
    recipe = dataclasses.replace(RECIPE, steps=options.steps)
    config = dataclasses.replace(CONFIG, height=options.height, width=options.width)
    model, _ = train(options.transform, recipe, config)
    scores = measure_accuracy(model, config)
    print(scores)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    provenance = {
        "command": "python -m minirsa.training.motion_model " + " ".join(sys.argv[1:]),
        "seeds": {"weights": WEIGHT_SEED, "training clips": recipe.seed, "test clips": TEST_SEED},
        "test clips": TEST_CLIPS,
        "accuracy": scores,
        "commit": commit,
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "date": datetime.date.today().isoformat(),
    }
    card = Card(
        builder="rsanet_small",
        labels=list(LABELS),
        frames=config.frames,
        height=config.height,
        width=config.width,
        options={"transform": options.transform},
        recipe=dataclasses.asdict(recipe) | {"data": dataclasses.asdict(config)},
        provenance=provenance,
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_model(options.output, model.eval(), card)
    print(options.output)


if __name__ == "__main__":
    main()
