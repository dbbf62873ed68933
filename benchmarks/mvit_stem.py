"""Where do the frames meet? Small MViTs whose first cubes, and whose pools, span one, two or three frames.

    python -m benchmarks.mvit_stem [--steps 400] [--seeds 0 1 2] [--only "3 frames, 3x3x3" ...]
                                   [--output benchmarks/results/mvit_stem.json]

In MViT two linear maps see more than one frame: the stem, whose cubes overlap (3 x 7 x 7, every second frame), and
the pools of queries, keys and values (3 x 3 x 3). Attention and time positions see all frames, but no linear map. The
nets are "MViT conv" of `minirsa.training.video.SMALL` with

    stem  3 frames  3 x 7 x 7, stride 2 x 4 x 4, as published      256 cubes
          2 frames  2 x 7 x 7, stride 2 x 4 x 4: no shared frame   256 cubes
          1 frame   1 x 7 x 7, stride 1 x 4 x 4                    512 squares
    pools 3x3x3 as published, or 1x3x3: within a frame

trained by one recipe on the motion set and tested by `order_test`; a seed draws weights and clips. A finished run is
kept: the command resumes. Book: chapter 11, "Why it sees motion".
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.provenance import provenance
from minirsa import complexity
from minirsa.data.motion import LABELS
from minirsa.models.mvit import MViT, Pool
from minirsa.training import Recipe, fit
from minirsa.training.video import CONFIG, clip_batches, motion_clips, order_test, small_net

STEMS = {3: ((3, 7, 7), (2, 4, 4)), 2: ((2, 7, 7), (2, 4, 4)), 1: ((1, 7, 7), (1, 4, 4))}
"""Frames of the stem's cubes: (kernel, stride)."""

NETS = {
    f"{stem} frame{'s' * (stem > 1)}, {pool}x3x3": (stem, pool)
    for stem, pool in ((3, 3), (3, 1), (2, 3), (2, 1), (1, 3), (1, 1))
}
TEST_SEED, TEST_CLIPS = 1_000, 480
LR = 2e-3


def build(stem: int, pool: int) -> MViT:
    """A small MViT whose stem spans `stem` frames and whose pools span `pool`."""
    kernel, stride = STEMS[stem]
    size = {"num_classes": len(LABELS), "num_frames": CONFIG.frames, "image_size": CONFIG.height}
    net = MViT(**size, stages=small_net("MViT conv").stages, stem_kernel=kernel, stem_stride=stride)
    return net if pool == 3 else within_frames(net)


def within_frames(net: MViT) -> MViT:
    """Exchange the pools of queries, keys and values for fresh ones of 1 x 3 x 3; the skips' never left the frame."""
    for block in net.blocks:
        for name in ("pool_query", "pool_key", "pool_value"):
            old = getattr(block.attention, name)
            if old is not None:
                fresh = Pool("conv", old.pool.in_channels, (1, 3, 3), old.pool.stride)
                std = fresh.pool.weight[0].numel() ** -0.5  # as MViT starts its convolutions
                torch.nn.init.trunc_normal_(fresh.pool.weight, std=std)
                setattr(block.attention, name, fresh)
    return net


def train_and_test(name: str, seed: int, steps: int) -> dict[str, object]:
    """One training and its test: the fields of `OrderTest`, and the loss, a mean of 50 steps each."""
    torch.manual_seed(seed)
    net = build(*NETS[name])
    recipe = Recipe(steps=steps, lr=LR, seed=seed)
    losses = fit(net, clip_batches(recipe, CONFIG), recipe)
    report = order_test(net, *motion_clips(TEST_CLIPS, CONFIG, seed=TEST_SEED))
    scores = {key: round(value, 4) for key, value in asdict(report).items()}
    curve = [round(statistics.mean(losses[i : i + 50]), 4) for i in range(0, steps, 50)]
    stem, pool = NETS[name]
    return {"net": name, "stem": stem, "pool": pool, "seed": seed, **scores, "losses": curve}


def costs() -> list[dict[str, object]]:
    """Parameters and multiply-adds of every net, for one clip."""
    clip = torch.empty(1, 3, CONFIG.frames, CONFIG.height, CONFIG.width, device="meta")
    return [{"net": name, **asdict(complexity.measure(build(*key), clip))} for name, key in NETS.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="NET", help=f"some of {list(NETS)}")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(NETS)
    if unknown:
        parser.error(f"expected some of {list(NETS)}, got {sorted(unknown)}")
    torch.set_num_threads(1)
    record: dict[str, object] = {"steps": options.steps, "runs": []}
    if options.output and options.output.exists():
        record = json.loads(options.output.read_text())
        if record["steps"] != options.steps:
            parser.error(f"{options.output} holds runs of {record['steps']} steps: remove it or use --steps")
    done = {(row["net"], row["seed"]) for row in record["runs"]}

    def store() -> None:
        record["runs"].sort(key=lambda row: (list(NETS).index(row["net"]), row["seed"]))
        record["costs"] = costs()
        record["recipe"] = asdict(Recipe(steps=options.steps, lr=LR))
        record["provenance"] = provenance(seed=None)
        if options.output:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(record, indent=1) + "\n")

    for seed in options.seeds:
        for name in options.only or NETS:
            if (name, seed) in done:
                continue
            start = time.process_time()
            record["runs"].append(train_and_test(name, seed, options.steps))
            print({**record["runs"][-1], "losses": "..."}, f"{time.process_time() - start:.0f} s", flush=True)
            store()
    store()


if __name__ == "__main__":
    main()
