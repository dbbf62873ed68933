"""Images a second relative to ResNet-50: what Table 7 of the DeiT paper measures on a GPU, on one processor core.

    python -m benchmarks.throughput [--rounds 7] [--batch 2] [--output benchmarks/results/throughput.json]

Random weights, evaluation mode, float32, 1000 classes. In every round each network reads one batch, in turn, so that
whatever else the machine does falls on all alike; the result is the median over rounds of ResNet-50's processor time
divided by the network's own in the same round. Only these ratios are kept: they compare networks, not machines.
Beside them stand parameters and multiply-adds. Touvron et al. 2021, Tables 1, 5 and 7. Book: chapter 6.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.provenance import provenance
from minirsa import complexity
from minirsa.models.deit import deit_base, deit_small, deit_tiny
from minirsa.models.resnet import TSNResNet
from minirsa.models.vit import vit_base_32, vit_large_16, vit_large_32
from minirsa.training.images import OneFrame

REFERENCE = "ResNet-50"


def resnet(depths: tuple[int, ...]) -> nn.Module:
    """An image ResNet with bottlenecks and 1000 classes."""
    return OneFrame(TSNResNet(1000, 1, depths=depths))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    REFERENCE: (lambda: resnet((3, 4, 6, 3)), 224),
    "ResNet-152": (lambda: resnet((3, 8, 36, 3)), 224),
    "ViT-B/32": (lambda: vit_base_32(image_size=384), 384),
    "ViT-B/16": (lambda: deit_base(image_size=384), 384),
    "ViT-L/32": (lambda: vit_large_32(image_size=384), 384),
    "ViT-L/16": (lambda: vit_large_16(image_size=384), 384),
    "DeiT-Ti": (deit_tiny, 224),
    "DeiT-S": (deit_small, 224),
    "DeiT-B": (deit_base, 224),
    "DeiT-B 384": (lambda: deit_base(image_size=384), 384),
    "DeiT-Ti distilled": (lambda: deit_tiny(distilled=True), 224),
    "DeiT-S distilled": (lambda: deit_small(distilled=True), 224),
    "DeiT-B distilled": (lambda: deit_base(distilled=True), 224),
    "DeiT-B distilled 384": (lambda: deit_base(image_size=384, distilled=True), 384),
}
"""{name: (builder, image size)}; DeiT-B at 384 and ViT-B/16 are one architecture, measured once."""

SAME = {"ViT-B/16": "DeiT-B 384"}


def count(name: str) -> complexity.Complexity:
    """Parameters, and multiply-adds of one image, on the meta device."""
    build, size = NETWORKS[name]
    with torch.device("meta"):
        return complexity.measure(build(), torch.empty(1, 3, size, size))


@torch.no_grad()
def seconds(model: nn.Module, images: torch.Tensor) -> float:
    """Processor time of one pass."""
    start = time.process_time()
    model(images)
    return time.process_time() - start


def relative(rounds: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median, smallest and largest ratio of each network's speed to the reference's in the same round."""
    summary = {}
    for name in rounds[0]:
        ratios = [times[REFERENCE] / times[name] for times in rounds]
        summary[name] = {
            "speed": round(statistics.median(ratios), 3),
            "lowest": round(min(ratios), 3),
            "highest": round(max(ratios), 3),
        }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    names = [name for name in NETWORKS if name not in SAME]
    models = {name: NETWORKS[name][0]().eval() for name in names}
    inputs = {size: torch.randn(options.batch, 3, size, size) for size in {NETWORKS[name][1] for name in names}}
    rounds: list[dict[str, float]] = []
    for index in range(options.rounds + 1):
        times = {name: seconds(models[name], inputs[NETWORKS[name][1]]) for name in names}
        if index:  # the first round warms up
            rounds.append(times)
            print(f"round {index}: {sum(times.values()):.0f} s", flush=True)
    summary = relative(rounds)
    rows = []
    for name in NETWORKS:
        cost = count(name)
        rows.append({"network": name, "size": NETWORKS[name][1], "params": cost.params, "macs": cost.macs})
        rows[-1] |= summary[SAME.get(name, name)]
        print(rows[-1], flush=True)
    if options.output:
        record = {"provenance": provenance(seed=0), "rounds": options.rounds, "batch": options.batch, "rows": rows}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
