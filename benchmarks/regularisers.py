"""Do ViViT's regularisers help a small factorised encoder that sees the same few clips again and again?

    python -m benchmarks.regularisers [--seeds 0 1 2] [--only none mixup ...]
                                      [--output benchmarks/results/regularisers.json]

The small "ViViT 2" of `minirsa.training.video` learns a finite motion set of 512 clips by heart, or does not: once with
nothing against it, once with each regulariser that the paper lists (stochastic depth, random augment, label smoothing,
mixup; its values for Something-Something V2), and once with all four. A seed draws the weights, the training clips and
their order; all nets are tested on the same unseen clips. Nothing is mirrored: a mirror image of a motion may belong to
another class. A finished run is kept: the command resumes.
Arnab et al. 2021, section 4.2, "Model regularisation". Book: chapter 10, "Regularisers".
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.distillation import Mixture
from benchmarks.provenance import provenance
from minirsa.data.motion import LABELS
from minirsa.models.vivit import ViViT
from minirsa.training import Recipe, accuracy, fit, predict_scores
from minirsa.training.images import MEAN, STD, normalize_images
from minirsa.training.video import CONFIG, motion_clips, order_test

TRAINING_CLIPS, TEST_CLIPS, TEST_SEED = 512, 960, 1_000
RECIPE = Recipe(steps=1200, lr=2e-3)
NET = {"variant": 2, "tubelet": (2, 8, 8), "width": 64, "depth": 4, "heads": 4, "hidden": 128, "temporal_depth": 2}


@dataclass(frozen=True)
class Setting:
    """stochastic_depth of the last block; operations of random augment a clip; smoothing; mixup's alpha (0: none)."""

    stochastic_depth: float = 0.0
    augment: int = 0
    label_smoothing: float = 0.0
    mixup: float = 0.0


SETTINGS = {
    "none": Setting(),
    "stochastic depth": Setting(stochastic_depth=0.3),
    "random augment": Setting(augment=2),
    "label smoothing": Setting(label_smoothing=0.3),
    "mixup": Setting(mixup=0.3),
    "all four": Setting(0.3, 2, 0.3, 0.3),
}


def finite_batches(recipe: Recipe, clips: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Passes over (N, 3, T, H, W), (N,) one after the other, each in an order of its own, drawn from recipe.seed."""
    generator = torch.Generator().manual_seed(recipe.seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(recipe.steps):
        while len(order) < recipe.batch_size:
            order = torch.cat([order, torch.randperm(len(clips), generator=generator)])
        chosen, order = order[: recipe.batch_size], order[recipe.batch_size :]
        yield clips[chosen], labels[chosen]


def random_augment(clips: Tensor, operations: int, generator: torch.Generator) -> Tensor:
    """Some operations, drawn for each clip and the same in all its frames: (B, 3, T, H, W) in [0, 1] -> the same.

    Out of six that keep the label (brightness, contrast, saturation, solarise, shift down or up, shift right or left),
    each of a random sign. Colours change by up to 0.4, places by up to an eighth of the side, the border repeated.
    Source: the idea of Cubuk et al. 2020 (RandAugment), with fewer operations and a random strength.
    """
    return torch.stack([_augment(clip, operations, generator) for clip in clips])


def _augment(clip: Tensor, operations: int, generator: torch.Generator) -> Tensor:
    for number in torch.randperm(6, generator=generator)[:operations].tolist():
        strength = 2 * torch.rand((), generator=generator).item() - 1  # of either sign
        grey = clip.mean(0, keepdim=True)
        if number == 0:
            clip = clip + 0.4 * strength
        elif number == 1:
            clip = clip.mean() + (1 + 0.4 * strength) * (clip - clip.mean())
        elif number == 2:
            clip = grey + (1 + strength) * (clip - grey)
        elif number == 3:
            clip = torch.where(clip > 1 - 0.4 * abs(strength), 1 - clip, clip)
        else:
            axis = number - 2  # 2: rows, 3: columns
            side = clip.shape[axis]
            places = (torch.arange(side) - round(strength * side / 8)).clamp(0, side - 1)
            clip = clip.index_select(axis, places)
        clip = clip.clamp(0, 1)
    return clip


def regularised(
    batches: Iterable[tuple[Tensor, Tensor]], setting: Setting, seed: int
) -> Iterator[tuple[Tensor, Mixture]]:
    """Augment and mix batches of clips in [-2, 2]; mixup's share comes from Beta(alpha, alpha), one for each batch."""
    generator, shares = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    for clips, labels in batches:
        if setting.augment:
            clips = normalize_images(random_augment(clips * STD + MEAN, setting.augment, generator))
        share = shares.beta(setting.mixup, setting.mixup) if setting.mixup else 1.0
        yield share * clips + (1 - share) * clips.flip(0), Mixture(labels, labels.flip(0), share)


def train_and_test(name: str, seed: int, recipe: Recipe = RECIPE, training_clips: int = TRAINING_CLIPS) -> dict:
    """One training and its test: the fields of `OrderTest`, and what the net knows of its own training clips."""
    setting = SETTINGS[name]
    recipe = Recipe(**{**asdict(recipe), "seed": seed})
    torch.manual_seed(seed)
    sizes = {"num_classes": len(LABELS), "num_frames": CONFIG.frames, "image_size": CONFIG.height}
    net = ViViT(**sizes, **NET, stochastic_depth=setting.stochastic_depth)

    def loss(scores: Tensor, mixture: Mixture, _: Tensor) -> Tensor:
        return mixture.mean(lambda labels: F.cross_entropy(scores, labels, label_smoothing=setting.label_smoothing))

    clips, labels = motion_clips(training_clips, CONFIG, seed=seed)
    fit(net, regularised(finite_batches(recipe, clips, labels), setting, seed), recipe, loss=loss)
    return {"setting": name, "seed": seed, **assess(net, clips, labels)}


def assess(net: nn.Module, clips: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy on the training clips as they are, and everything about unseen ones, their cross entropy included."""
    unseen, answers = motion_clips(TEST_CLIPS, CONFIG, seed=TEST_SEED)
    row = {"training": accuracy(net, clips, labels), **asdict(order_test(net, unseen, answers))}
    row["loss"] = F.cross_entropy(predict_scores(net, unseen), answers).item()
    return {key: round(value, 4) for key, value in row.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {"clips": TRAINING_CLIPS, "recipe": asdict(RECIPE), "net": NET}
    chosen["values"] = {name: asdict(setting) for name, setting in SETTINGS.items()}
    chosen = json.loads(json.dumps(chosen))
    record: dict[str, object] = {"settings": chosen, "runs": []}
    if options.output and options.output.exists():
        record = json.loads(options.output.read_text())
        if record["settings"] != chosen:
            parser.error(f"{options.output} holds runs with other settings: remove it")
    done = {(row["setting"], row["seed"]) for row in record["runs"]}

    def store() -> None:
        if options.output:
            record["runs"].sort(key=lambda row: (list(SETTINGS).index(row["setting"]), row["seed"]))
            record["provenance"] = provenance()
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(record, indent=1) + "\n")

    for seed in options.seeds:
        for name in options.only:
            if (name, seed) in done:
                continue
            start = time.process_time()
            record["runs"].append(train_and_test(name, seed))
            print(record["runs"][-1], f"{time.process_time() - start:.0f} s", flush=True)
            store()
    store()


if __name__ == "__main__":
    main()
