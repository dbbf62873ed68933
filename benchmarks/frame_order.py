"""Appearance or motion? The small video transformers of chapters 9 to 11 on clips, shuffled clips and reversed clips.

    python -m benchmarks.frame_order [--steps 1200] [--seeds 0 1 2] [--only "ViViT 1" ...]
                                     [--output benchmarks/results/frame_order.json]

Every net of `minirsa.training.video.SMALL` is trained by one recipe on the motion set, with several seeds; a seed
draws the weights and the training clips, and all are tested on the same unseen clips: `order_test`. A 3-D convolution
(the residual net of chapter 13) stands beside them. Speed is the median processor time of a training step and of a
forward pass of 16 clips on one core, relative to that of "TimeSformer joint", timed in turn in one run after the
trainings; memory is what autograd keeps for the backward pass of one clip. A finished run is kept: the command
resumes. Book: chapters 9 to 11, "Does it see motion?".
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.provenance import provenance
from minirsa import complexity
from minirsa.data.motion import LABELS
from minirsa.models.rsanet import rsanet_small
from minirsa.training import Recipe, fit
from minirsa.training.video import CONFIG, SMALL, clip_batches, motion_clips, order_test

REFERENCE = "TimeSformer joint"
NETS: dict[str, Callable[[], nn.Module]] = {
    **SMALL,
    "3-D convolution": lambda: rsanet_small(len(LABELS), CONFIG.frames, transform="conv3d"),
}
TEST_SEED, TEST_CLIPS = 1_000, 960
LR = 2e-3


def train_and_test(name: str, seed: int, steps: int) -> dict[str, object]:
    """One training and its test: the fields of `OrderTest`, and the mean loss of the last 50 steps."""
    torch.manual_seed(seed)
    net = NETS[name]()
    recipe = Recipe(steps=steps, lr=LR, seed=seed)
    losses = fit(net, clip_batches(recipe, CONFIG), recipe)
    report = order_test(net, *motion_clips(TEST_CLIPS, CONFIG, seed=TEST_SEED))
    scores = {key: round(value, 4) for key, value in asdict(report).items()}
    curve = [round(statistics.mean(losses[i : i + 50]), 4) for i in range(0, steps, 50)]
    return {"net": name, "seed": seed, **scores, "losses": curve}


def kept_bytes(net: nn.Module, clip: torch.Tensor) -> int:
    """Bytes that autograd keeps for the backward pass of a clip, each storage once, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    sizes: dict[int, int] = {}
    held = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # so that no address comes twice
        return tensor

    net.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        F.cross_entropy(net(clip), torch.zeros(len(clip), dtype=torch.long)).backward()
    net.zero_grad()
    return sum(sizes.values())


def costs(rounds: int) -> list[dict[str, object]]:
    """Parameters, multiply-adds, memory, and time relative to `REFERENCE`: median, lowest and highest round."""
    torch.manual_seed(0)
    nets = {name: build() for name, build in NETS.items()}
    clips, labels = motion_clips(16, CONFIG, seed=0)
    times: list[dict[str, tuple[float, float]]] = []
    for _ in range(rounds + 1):
        times.append({})
        for name, net in nets.items():
            net.train()
            start = time.process_time()
            F.cross_entropy(net(clips), labels).backward()
            middle = time.process_time()
            net.eval()
            with torch.no_grad():
                net(clips)
            times[-1][name] = middle - start, time.process_time() - middle
            net.zero_grad()
    rows = []
    for name, net in nets.items():
        row: dict[str, object] = {"net": name, **asdict(complexity.measure(net, torch.empty(1, 3, 8, 32, 32)))}
        row["kept bytes"] = kept_bytes(net, clips[:1])
        for place, what in enumerate(("forward+backward", "forward")):
            ratios = [round_[name][place] / round_[REFERENCE][place] for round_ in times[1:]]  # the first warms up
            row[what] = {
                "time": round(statistics.median(ratios), 3),
                "lowest": round(min(ratios), 3),
                "highest": round(max(ratios), 3),
            }
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="NET", help=f"some of {list(NETS)}")
    parser.add_argument("--rounds", type=int, default=15, help="of timing; 0 leaves the costs as they are")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    unknown = set(options.only or ()) - set(NETS)
    if unknown:
        parser.error(f"expected some of {list(NETS)}, got {sorted(unknown)}")
    torch.set_num_threads(1)
    record: dict[str, object] = {"steps": options.steps, "runs": [], "costs": []}
    if options.output and options.output.exists():
        record = json.loads(options.output.read_text())
        if record["steps"] != options.steps:
            parser.error(f"{options.output} holds runs of {record['steps']} steps: remove it or use --steps")
    done = {(row["net"], row["seed"]) for row in record["runs"]}

    def store() -> None:
        if options.output:
            record["runs"].sort(key=lambda row: (list(NETS).index(row["net"]), row["seed"]))
            record["provenance"] = provenance(seed=None)
            record["recipe"] = asdict(Recipe(steps=options.steps, lr=LR))
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
    if options.rounds:
        record["costs"] = costs(options.rounds)
        for row in record["costs"]:
            print(row, flush=True)
        store()


if __name__ == "__main__":
    main()
