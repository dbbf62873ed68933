"""Where does RSANet spend its time? Processor time by stage, beside the nets with plain convolutions in its place.

    python -m benchmarks.rsanet_stages [--rounds 5] [--minutes 6] [--frames 8] [--size 224]
                                       [--output benchmarks/results/rsanet_stages.json]

Three nets, one clip at a time: TSN-ResNet50, the same net with 3x3x3 convolutions in seven bottlenecks, and RSANet-R50
with RSA in the same seven. Each pass goes stage by stage (stem, res2 to res5, head), and the processor time of every
stage is taken on its own:

    forward            evaluation mode, without gradients
    forward+backward   training mode without stochastic depth: every stage's forward, then its backward

The nets are run in turn within a round, on one thread. What is reported are ratios within a round: to the time of
TSN-ResNet50's whole pass, and to its own stage; medians over the rounds, with lowest and highest. Multiply-adds and
parameters of the stages are counted beside them. Book: chapter 15, "What it costs, stage by stage".
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.provenance import provenance
from minirsa import complexity
from minirsa.models.resnet import TSNResNet
from minirsa.models.rsanet import conv3d_resnet50, rsanet_r50

NETS: dict[str, Callable[..., TSNResNet]] = {
    "TSN": lambda frames: rsanet_r50(num_frames=frames, blocks=((), (), (), ()), keep=1.0),
    "3-D convolution": lambda frames: conv3d_resnet50(num_frames=frames, keep=1.0),
    "RSANet": lambda frames: rsanet_r50(num_frames=frames, keep=1.0),
}
BASE = "TSN"
STAGES = ("stem", "res2", "res3", "res4", "res5", "head")
PASSES = ("forward", "forward+backward")


class Stem(nn.Module):
    """The first stage of a net: clip -> stem features."""

    def __init__(self, net: TSNResNet) -> None:
        super().__init__()
        self.stem, self.norm = net.stem, net.stem_norm  # so that its parameters count here
        self.run = net.stem_features

    def forward(self, video: Tensor) -> Tensor:
        return self.run(video)


class Head(nn.Module):
    """The last stage of a net: feature maps -> logits of the clip."""

    def __init__(self, net: TSNResNet) -> None:
        super().__init__()
        self.dropout, self.classifier = net.dropout, net.classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(x.mean(dim=(3, 4)).transpose(1, 2))).mean(dim=1)


def stages_of(net: TSNResNet) -> dict[str, nn.Module]:
    """The net cut into `STAGES`: one after the other they are its forward pass."""
    return dict(zip(STAGES, (Stem(net), *net.stages, Head(net)), strict=True))


def stage_seconds(net: TSNResNet, video: Tensor, which: str) -> dict[str, float]:
    """Processor seconds of every stage in one pass. Raises ValueError for a pass that is none of `PASSES`."""
    if which not in PASSES:
        raise ValueError(f"expected one of {PASSES}, got {which!r}")
    training = which == "forward+backward"
    net.train(training)
    seconds: dict[str, float] = {}
    kept: list[tuple[str, Tensor, Tensor]] = []  # stage, what it got, what it gave
    x = video
    with torch.set_grad_enabled(training):
        for name, stage in stages_of(net).items():
            x = x.detach().requires_grad_(training and name != "stem")
            start = time.process_time()
            out = stage(x)
            seconds[name] = time.process_time() - start
            kept.append((name, x, out))
            x = out
    if training:
        gradient = torch.ones_like(x)
        for name, given, out in reversed(kept):
            start = time.process_time()
            out.backward(gradient)
            seconds[name] += time.process_time() - start
            gradient = given.grad
        net.zero_grad()
    return seconds


def counts(frames: int, size: int) -> dict[str, dict[str, dict[str, int]]]:
    """{net: {stage: {"params", "macs"}}}, counted without numbers."""
    counted: dict[str, dict[str, dict[str, int]]] = {}
    for name, make in NETS.items():
        with torch.device("meta"):
            net, x = make(frames).eval(), torch.empty(1, 3, frames, size, size)
            counted[name] = {}
            for stage, module in stages_of(net).items():
                cost = complexity.measure(module, x)
                counted[name][stage] = {"params": cost.params, "macs": cost.macs}
                with torch.no_grad():
                    x = module(x)
    return counted


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "median": round(statistics.median(values), 4),
        "lowest": round(min(values), 4),
        "highest": round(max(values), 4),
    }


def summary(rounds: list[dict]) -> dict[str, dict[str, dict[str, dict]]]:
    """{net: {pass: {stage or "all": {"of TSN's whole": spread, "to TSN's stage": spread}}}}; ratios within a round."""
    found: dict[str, dict] = {}
    for name in NETS:
        found[name] = {}
        for which in PASSES:
            rows = {}
            for stage in (*STAGES, "all"):
                whole, own = [], []
                for one in rounds:
                    base = one[BASE][which]
                    total = sum(base.values())
                    here = sum(one[name][which].values()) if stage == "all" else one[name][which][stage]
                    whole.append(here / total)
                    own.append(here / (total if stage == "all" else base[stage]))
                rows[stage] = {"of TSN's whole": spread(whole), "to TSN's stage": spread(own)}
            found[name][which] = rows
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=6, help="after which no further round is begun")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if min(options.rounds, options.frames, options.size) < 1:
        parser.error("expected at least one round, one frame and one pixel")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    end = time.monotonic() + 60 * options.minutes
    video = torch.randn(1, 3, options.frames, options.size, options.size)
    nets = {name: make(options.frames) for name, make in NETS.items()}
    for net in nets.values():
        for block in net.bottlenecks().values():
            nn.init.ones_(block.expand_norm.weight)  # as in a trained net, no branch is multiplied by zero
        stage_seconds(net, video[..., : options.size // 4, : options.size // 4], "forward+backward")  # libraries load
    rounds: list[dict] = []
    while not rounds or (len(rounds) < options.rounds and time.monotonic() < end):
        one: dict[str, dict] = {name: {} for name in nets}
        for which in PASSES:
            for name, net in nets.items():
                seconds = stage_seconds(net, video, which)
                one[name][which] = {stage: round(value, 4) for stage, value in seconds.items()}
        rounds.append(one)
        print({name: {w: round(sum(one[name][w].values()), 2) for w in PASSES} for name in nets}, flush=True)
        if options.output:
            record = {
                "frames": options.frames,
                "size": options.size,
                "counts": counts(options.frames, options.size),
                "summary": summary(rounds),
                "rounds": rounds,
                "provenance": provenance(seed=0),
            }
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
