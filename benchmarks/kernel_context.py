"""Which kernel and which context bring what? The nine rows of Table 4(a) of the RSA paper, small, on the motion set.

    python -m benchmarks.kernel_context [--steps 300] [--seeds 0 1 2] [--only V/V VR/VR]
                                        [--output benchmarks/results/kernel_context.json]

As in the paper one relational layer stands in a network that otherwise looks at single frames: `rsanet_small` with
the layer in its second stage, and kernel and context each basic (V), relational (R) or both (VR). Every run draws its
own training clips and starts from its own weights (both from the seed); all are tested on the same unseen clips,
forwards, backwards under the other label of the pair, and drawn with appearances that were never trained on (the
motion is the same, textures, contrast, colour or brightness are not). A finished run is kept: the command resumes.
Kim et al. 2021, Table 4(a). Book: chapter 13.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import time
from pathlib import Path

import torch

from benchmarks.provenance import provenance
from minirsa.data.motion import APPEARANCES, LABELS, MotionConfig, MotionSet
from minirsa.models.rsanet import rsanet_small
from minirsa.training import Recipe, accuracy, fit, motion_batches

PARTS = ("V", "R", "VR")
CONFIG = MotionConfig(height=32, width=32, frames=8)
BLOCKS = ((), (1,), ())
TEST_SEED, TEST_CLIPS = 1_000, 480


def run(kernel: str, context: str, seed: int, steps: int) -> dict[str, object]:
    """Train one net and test it: accuracies in [0, 1], and the mean loss of the last 25 steps."""
    torch.manual_seed(seed)
    model = rsanet_small(len(LABELS), CONFIG.frames, blocks=BLOCKS, kernel=kernel, context=context)
    recipe = Recipe(steps=steps, seed=seed)
    losses = fit(model, motion_batches(recipe, CONFIG), recipe)
    clips, labels = MotionSet(TEST_CLIPS, CONFIG, seed=TEST_SEED).batch(range(TEST_CLIPS))
    shifted = {}
    for appearance in APPEARANCES[1:]:
        other = MotionSet(TEST_CLIPS, dataclasses.replace(CONFIG, appearance=appearance), seed=TEST_SEED)
        shifted[appearance] = round(accuracy(model, *other.batch(range(TEST_CLIPS))), 4)
    return {
        "kernel": kernel,
        "context": context,
        "seed": seed,
        "top-1": round(accuracy(model, clips, labels), 4),
        "top-1 reversed": round(accuracy(model, clips.flip(2), labels ^ 1), 4),
        "shifted": shifted,
        "last loss": round(statistics.mean(losses[-25:]), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="KERNEL/CONTEXT", help="some of the nine, such as V/V VR/VR")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    pairs = [f"{kernel}/{context}" for context, kernel in itertools.product(PARTS, repeat=2)]
    unknown = set(options.only or ()) - set(pairs)
    if unknown:
        parser.error(f"expected some of {pairs}, got {sorted(unknown)}")
    runs: list[dict[str, object]] = []
    if options.output and options.output.exists():
        stored = json.loads(options.output.read_text())
        if stored["steps"] != options.steps:
            parser.error(f"{options.output} holds runs of {stored['steps']} steps: remove it or use --steps")
        runs = stored["runs"]
    done = {(row["kernel"], row["context"], row["seed"]) for row in runs}
    for seed, pair in itertools.product(options.seeds, options.only or pairs):
        kernel, context = pair.split("/")
        if (kernel, context, seed) in done:
            continue
        start = time.perf_counter()
        row = run(kernel, context, seed, options.steps)
        runs.append(row)
        print(row, f"{time.perf_counter() - start:.0f} s", flush=True)
        if options.output:
            record = {"provenance": provenance(seed=None), "steps": options.steps, "runs": runs}
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
