"""How large must TimeSformer's positions in time be at the start, for a small net to learn the direction of motion?

    python -m benchmarks.time_positions [--seeds 0 1 2] [--schemes divided joint] [--sizes 0.5 0.1 0.02]
                                        [--output benchmarks/results/time_positions.json]

The small nets, the recipe and the test of `benchmarks.frame_order`, but for one thing: the positions in time, which
start at zero there as in the released code, are drawn from a normal distribution of the given standard deviation. With
the same seed the other weights and the training clips are those of frame_order's run, which is so the run of size 0.
"length" is the mean length of what tells frames apart (a position in time minus their mean) over the mean length of a
token, before and after the training. A finished run is kept: the command resumes.
Bertasius et al. 2021, equation 1. Book: chapter 9, "Does it see motion?".
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.frame_order import LR, TEST_CLIPS, TEST_SEED
from benchmarks.provenance import provenance
from minirsa.models.timesformer import SCHEMES, TimeSformer
from minirsa.training import Recipe, fit
from minirsa.training.video import CONFIG, clip_batches, motion_clips, order_test, small_net

STEPS = 1200


def drawn_net(scheme: str, size: float, seed: int) -> TimeSformer:
    """The small net of a scheme whose positions in time start at a standard deviation of `size`.

    Raises ValueError for a scheme without positions in time, or a negative size.
    """
    if scheme == "space" or scheme not in SCHEMES or size < 0:
        raise ValueError(f"expected a scheme with positions in time and a size from 0, got {scheme!r} and {size}")
    torch.manual_seed(seed)
    net = small_net(f"TimeSformer {scheme}")
    nn.init.normal_(net.time_positions, std=size, generator=torch.Generator().manual_seed(seed))
    return net


@torch.no_grad()
def relative_length(net: TimeSformer, clips: Tensor) -> float:
    """Mean length of what tells frames apart over the mean length of a token of clips (N, 3, T, H, W)."""
    differ = net.time_positions - net.time_positions.mean(0)
    tokens, _ = net.embed(clips)
    return (differ.norm(dim=1).mean() / tokens.norm(dim=-1).mean()).item()


def train_and_test(scheme: str, size: float, seed: int, steps: int) -> dict[str, object]:
    """One training and its test: the fields of `OrderTest`, the relative lengths, the loss every 50 steps."""
    net = drawn_net(scheme, size, seed)
    clips, labels = motion_clips(TEST_CLIPS, CONFIG, seed=TEST_SEED)
    before = relative_length(net, clips[:48])
    recipe = Recipe(steps=steps, lr=LR, seed=seed)
    losses = fit(net, clip_batches(recipe, CONFIG), recipe)
    scores = {key: round(value, 4) for key, value in asdict(order_test(net, clips, labels)).items()}
    lengths = {"length before": round(before, 4), "length after": round(relative_length(net, clips[:48]), 4)}
    curve = [round(statistics.mean(losses[i : i + 50]), 4) for i in range(0, steps, 50)]
    return {"scheme": scheme, "size": size, "seed": seed, **scores, **lengths, "losses": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--schemes", nargs="+", default=["divided", "joint"], choices=[*SCHEMES][1:])
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.5, 0.1, 0.02])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, object] = {"steps": options.steps, "runs": []}
    if options.output and options.output.exists():
        record = json.loads(options.output.read_text())
        if record["steps"] != options.steps:
            parser.error(f"{options.output} holds runs of {record['steps']} steps: remove it or use --steps")
    for scheme in options.schemes:
        for size in options.sizes:
            for seed in options.seeds:
                if (scheme, size, seed) in {(row["scheme"], row["size"], row["seed"]) for row in record["runs"]}:
                    continue
                start = time.process_time()
                record["runs"].append(train_and_test(scheme, size, seed, options.steps))
                seconds = time.process_time() - start
                print({**record["runs"][-1], "losses": "..."}, f"{seconds:.0f} s", flush=True)
                if options.output:
                    record["runs"].sort(key=lambda row: (row["scheme"], row["size"], row["seed"]))
                    record["recipe"] = asdict(Recipe(steps=options.steps, lr=LR))
                    record["provenance"] = provenance(seed=None)
                    options.output.parent.mkdir(parents=True, exist_ok=True)
                    options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
