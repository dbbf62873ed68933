"""How many images does a ViT need, and which cue does it follow? A small ViT against a small ResNet, from scratch.

    python -m benchmarks.image_data [--seeds 0 1 2] [--output benchmarks/results/image_data.json]
    python -m benchmarks.image_data --weights book/figures/vit_shapes.safetensors

Both nets have about as many parameters, see the same images in the same order, moved and mirrored in the same way, for
the same number of steps (`SETTINGS`); each has a learning rate of its own. Trained on images whose texture always goes
with the shape (cues="agree"), 64 to 4,096 of them, and on images whose texture says nothing ("independent"). Every net
is tested on unseen images of its own cues, and where shape and texture contradict each other ("conflict"): how often
does the answer follow the shape (Geirhos et al. 2019)? A finished run is kept: the command resumes.

With --weights it trains the ViT whose positions and attention chapter 5 draws (`PICTURED`), and writes its tensors.

Dosovitskiy et al. 2021, section 4.3 and figure 4; Geirhos et al. 2019, section 2. Book: chapter 5, "How many images"
and "Texture or shape".
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.provenance import provenance
from minirsa.data.shapes import SHAPES, shape_bias
from minirsa.models.resnet import TSNResNet
from minirsa.models.vit import VisionTransformer
from minirsa.training import Recipe, accuracy, fit, predict_scores
from minirsa.training.images import OneFrame, shape_batches, shape_images

SETTINGS = {
    "vit": {"image_size": 32, "patch_size": 4, "width": 64, "depth": 4, "heads": 4, "hidden": 128},
    "resnet": {
        "depths": [1, 1, 1], "widths": [16, 32, 64], "stem_width": 32, "stem_size": 3, "stem_stride": 2,
        "stem_pool": False, "dropout": 0.0, "keep": 1.0,
    },
    "recipes": {
        "vit": {"steps": 400, "batch_size": 32, "lr": 1e-3, "weight_decay": 0.05},
        "resnet": {"steps": 400, "batch_size": 32, "lr": 3e-3, "weight_decay": 0.05},
    },
    "images": {"agree": [64, 256, 1024, 4096], "independent": [4096]},
    "test images": 1024,
}  # fmt: skip
PICTURED = {
    "recipe": {"steps": 1500, "batch_size": 32, "lr": 1e-3, "weight_decay": 0.05},
    "images": {"cues": "agree", "length": 16384, "seed": 200},
}
"""How the ViT of chapter 5's pictures is trained: more images and more steps than in the study."""

NETS = ("vit", "resnet")
TRAINING_SEED, TEST_SEED = 100, 1_000  # the set of seed s is drawn from TRAINING_SEED + s


def build(net: str, seed: int) -> nn.Module:
    """A fresh net, "vit" or "resnet": images (B, 3, 32, 32) -> (B, 8). The seed is of its weights."""
    torch.manual_seed(seed)
    if net == "vit":
        return VisionTransformer(num_classes=len(SHAPES), **SETTINGS["vit"])
    return OneFrame(TSNResNet(len(SHAPES), 1, **SETTINGS["resnet"]))


def run(net: str, cues: str, images: int, seed: int) -> dict[str, object]:
    """Train a fresh net on the first `images` of its seed's set, and test it: shares in [0, 1].

    "training" is the accuracy on training images as they are, "top-1" on unseen ones of the same cues; the other three
    are of images whose cues conflict.
    """
    recipe = Recipe(**SETTINGS["recipes"][net], seed=seed)
    data = shape_images(images, seed=TRAINING_SEED + seed, cues=cues)
    model = build(net, seed)
    losses = fit(model, shape_batches(recipe, data.images, data.shapes), recipe)
    unseen, conflict = (
        shape_images(SETTINGS["test images"], seed=TEST_SEED, cues=tested) for tested in (cues, "conflict")
    )
    named = predict_scores(model, conflict.images).argmax(1)
    return {
        "net": net,
        "cues": cues,
        "images": images,
        "seed": seed,
        "training": round(accuracy(model, data.images[:1024], data.shapes[:1024]), 4),
        "top-1": round(accuracy(model, unseen.images, unseen.shapes), 4),
        "names the shape": round((named == conflict.shapes).float().mean().item(), 4),
        "names the texture": round((named == conflict.textures).float().mean().item(), 4),
        "shape bias": round(shape_bias(named, conflict.shapes, conflict.textures), 4),
        "last loss": round(statistics.mean(losses[-25:]), 4),
    }


def runs(seeds: list[int]) -> Iterator[dict[str, object]]:
    """The arguments of every run, one seed after the other."""
    for seed, (cues, numbers) in itertools.product(seeds, SETTINGS["images"].items()):
        for images, net in itertools.product(numbers, NETS):
            yield {"net": net, "cues": cues, "images": images, "seed": seed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--weights", type=Path, help="train the ViT of the chapter's pictures instead")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the nets are small: more threads would only wait
    if options.weights:
        store_weights(options.weights)
        return
    record: dict[str, object] = {"settings": SETTINGS, "runs": []}
    if options.output and options.output.exists():
        record = json.loads(options.output.read_text())
        if record["settings"] != json.loads(json.dumps(SETTINGS)):
            parser.error(f"{options.output} holds runs of other settings: remove it first")
    for arguments in runs(options.seeds):
        if any(arguments.items() <= row.items() for row in record["runs"]):
            continue
        start = time.perf_counter()
        row = run(**arguments)
        record["runs"].append(row)
        print(row, f"{time.perf_counter() - start:.0f} s", flush=True)
        if options.output:
            record["provenance"] = provenance(seed=None)
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(record, indent=1) + "\n")


def store_weights(path: Path) -> None:
    """Train `PICTURED`, and write its tensors with a note of where they come from and how good the net is."""
    recipe = Recipe(**PICTURED["recipe"])
    data = shape_images(**PICTURED["images"])
    model = build("vit", 0)
    start = time.perf_counter()

    def report(step: int, loss: float) -> None:
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: loss {loss:.3f}, {time.perf_counter() - start:.0f} s", flush=True)

    fit(model, shape_batches(recipe, data.images, data.shapes), recipe, on_step=report)
    unseen = shape_images(SETTINGS["test images"], seed=TEST_SEED, cues=PICTURED["images"]["cues"])
    scored = round(accuracy(model, unseen.images, unseen.shapes), 4)
    note = {"net": SETTINGS["vit"], **PICTURED, "top-1": scored, "provenance": provenance(seed=0)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path, metadata={"minirsa": json.dumps(note)})
    print(f"{path}: top-1 {scored}", flush=True)


if __name__ == "__main__":
    main()
