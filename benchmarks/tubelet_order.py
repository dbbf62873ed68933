"""Which order does a ViViT read: that of the frames inside a tubelet, or that of the tubelets?

    python -m benchmarks.tubelet_order [--steps 1200] [--seeds 0 1 2] [--only "ViViT 1" ...]
                                       [--output benchmarks/results/tubelet_order.json]

The small ViViTs of `minirsa.training.video` are trained as in `benchmarks.frame_order`, and tested on clips whose
frames are turned round inside every tubelet, tubelet by tubelet, or both. Beside it stands how much of the filters'
energy is antisymmetric in time, before and after training, and what is left of the net when they are made symmetric.
A finished run is kept: the command resumes. Book: chapter 10, "Does it see motion?".
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.frame_order import LR, TEST_CLIPS, TEST_SEED
from benchmarks.provenance import provenance
from minirsa.training import Recipe, fit, predict_scores
from minirsa.training.video import CONFIG, clip_batches, motion_clips, order_test, small_net

NETS = ("ViViT 1", "ViViT 2", "ViViT 3", "ViViT 4")
LENGTH = 2  # frames of a tubelet


def parts(clips: Tensor) -> Tensor:
    """Frames by tubelet: (N, C, T, H, W) -> (N, C, n_t, t, H, W)."""
    return clips.unflatten(2, (-1, LENGTH))


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda clips: clips,
    "frames backwards inside tubelets": lambda clips: parts(clips).flip(3).flatten(2, 3),
    "tubelets backwards": lambda clips: parts(clips).flip(2).flatten(2, 3),
    "both: the clip backwards": lambda clips: clips.flip(2),
    "tubelets shuffled": lambda clips: shuffle_tubelets(clips, 0),
}


def shuffle_tubelets(clips: Tensor, seed: int) -> Tensor:
    """The tubelets of each clip in a random order of its own, their frames left alone: the shape stays."""
    x = parts(clips)
    order = torch.rand(x.shape[0], x.shape[2], generator=torch.Generator().manual_seed(seed)).argsort(1)
    return x.gather(2, order[:, None, :, None, None, None].expand_as(x)).flatten(2, 3)


def antisymmetric_share(weight: Tensor) -> float:
    """Of the energy of filters (D, C, 2, h, w), the part that changes its sign when the two frames are exchanged."""
    odd = (weight - weight.flip(2)) / 2
    return (odd.square().sum() / weight.square().sum()).item()


def train_and_test(name: str, seed: int, steps: int) -> dict[str, object]:
    """One training; for each change the share of clips that get their label, and of those that get its reversal's."""
    torch.manual_seed(seed)
    net = small_net(name)
    before = antisymmetric_share(net.embedding.weight.detach())
    recipe = Recipe(steps=steps, lr=LR, seed=seed)
    fit(net, clip_batches(recipe, CONFIG), recipe)
    clips, labels = motion_clips(TEST_CLIPS, CONFIG, seed=TEST_SEED)
    row: dict[str, object] = {"net": name, "seed": seed, "changes": {}}
    for change, function in CHANGES.items():
        answers = predict_scores(net, function(clips)).argmax(1)
        shares = {"label": answers == labels, "reversal's": answers == labels ^ 1}
        row["changes"][change] = {key: round(right.float().mean().item(), 4) for key, right in shares.items()}
    row["antisymmetric"] = [round(share, 4) for share in (before, antisymmetric_share(net.embedding.weight.detach()))]
    row["symmetric filters"] = _rounded(order_test(with_symmetric_filters(net), clips, labels))
    return row


def with_symmetric_filters(net: nn.Module) -> nn.Module:
    """A copy of a net whose filters are the mean of both frames' halves, in both."""
    blind = copy.deepcopy(net)
    with torch.no_grad():
        blind.embedding.weight.copy_((net.embedding.weight + net.embedding.weight.flip(2)) / 2)
    return blind


def _rounded(report: object) -> dict[str, float]:
    return {key: round(value, 4) for key, value in asdict(report).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=NETS, default=NETS, metavar="NET")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, object] = {"steps": options.steps, "runs": []}
    if options.output and options.output.exists():
        record = json.loads(options.output.read_text())
        if record["steps"] != options.steps:
            parser.error(f"{options.output} holds runs of {record['steps']} steps: remove it or use --steps")
    done = {(row["net"], row["seed"]) for row in record["runs"]}

    def store() -> None:
        if options.output:
            record["runs"].sort(key=lambda row: (NETS.index(row["net"]), row["seed"]))
            record["recipe"] = asdict(Recipe(steps=options.steps, lr=LR))
            record["provenance"] = provenance()
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(record, indent=1) + "\n")

    for seed in options.seeds:
        for name in options.only:
            if (name, seed) in done:
                continue
            start = time.process_time()
            record["runs"].append(train_and_test(name, seed, options.steps))
            print(record["runs"][-1], f"{time.process_time() - start:.0f} s", flush=True)
            store()
    store()


if __name__ == "__main__":
    main()
