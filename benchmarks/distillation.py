"""What do soft labels, hard labels and the distillation token bring to a small vision transformer?

    python -m benchmarks.distillation [--seeds 0 1 2] [--only labels "hard + token"] [--cues agree independent]
                                      [--output benchmarks/results/distillation.json]
    python -m benchmarks.distillation --teacher book/figures/shape_teacher.safetensors

A small ResNet learns to name the shapes of a finite `ShapeSet`, then a small DeiT learns them from the same images in
each of `METHODS`: from the labels alone, with the teacher's soft or hard labels, with a distillation token, and, as
the paper's control, with a second class token in its place. All students of a seed start from the same draw of
weights, as far as they have the same tensors, and see the same batches, for which the teacher answers once. Their
images are shifted, mirrored and mixed in pairs (mixup, Zhang et al. 2018, which is part of the paper's recipe):
without mixing, this teacher decides for the label on nearly every training image, and its decision says nothing.

Training images have cues "agree" (shape and texture both give the label); every net is also asked about "conflict"
images, where shape bias shows which cue it follows. A shorter second part trains on "independent", where the texture
says nothing. A finished run is kept: the command resumes.
Touvron et al. 2021, section 5.2, Tables 3 and 4; Geirhos et al. 2019. Book: chapter 6.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.provenance import provenance
from minirsa.data.shapes import SHAPES, shape_bias
from minirsa.models.checkpoint import Card, save_model
from minirsa.models.deit import (
    DistilledVisionTransformer,
    hard_distillation,
    soft_distillation,
    token_distillation,
    token_similarity,
)
from minirsa.models.resnet import TSNResNet
from minirsa.models.vit import VisionTransformer
from minirsa.training import Recipe, accuracy, fit, predict_scores
from minirsa.training.images import OneFrame, shape_batches, shape_images

TEST_SEED, TEST_IMAGES = 1_000, 2048
TEACHER = {"depths": (1, 1, 1), "widths": (16, 32, 64), "stem_width": 32, "stem_size": 3, "stem_stride": 2}
TEACHER |= {"stem_pool": False, "dropout": 0.0, "keep": 1.0}
STUDENT = {"image_size": 32, "patch_size": 8, "width": 64, "depth": 4, "heads": 4, "hidden": 128}


@dataclass(frozen=True)
class Part:
    """Training images and recipes of one kind of cues; the methods tried there."""

    images: int
    teacher: Recipe
    student: Recipe
    methods: tuple[str, ...]


Loss = Callable[[Any, Tensor, Tensor], Tensor]
"""From what the student gives, the teacher's logits and the labels to a scalar."""


def labels_alone(logits: Tensor, _: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


def soft(weight: float, temperature: float) -> Loss:
    return lambda logits, taught, labels: soft_distillation(
        logits, taught, labels, weight=weight, temperature=temperature
    )


def labels_twice(logits: tuple[Tensor, Tensor], _: Tensor, labels: Tensor) -> Tensor:
    return (F.cross_entropy(logits[0], labels) + F.cross_entropy(logits[1], labels)) / 2


METHODS: dict[str, tuple[bool, Loss]] = {
    "labels": (False, labels_alone),
    "soft, 0.1": (False, soft(0.1, 3.0)),
    "soft, 0.9": (False, soft(0.9, 3.0)),
    "hard": (False, hard_distillation),
    "hard + token": (True, token_distillation),
    "two class tokens": (True, labels_twice),
}
"""{name: (has a second token, loss)}; the number behind "soft" is lambda, tau is 3."""

PARTS = {
    "agree": Part(
        images=512,
        teacher=Recipe(steps=300, batch_size=64, lr=3e-3, weight_decay=0.05),
        student=Recipe(steps=1200, batch_size=32, lr=1e-3, weight_decay=0.05),
        methods=tuple(METHODS),
    ),
    "independent": Part(
        images=2048,
        teacher=Recipe(steps=400, batch_size=64, lr=3e-3, weight_decay=0.05),
        student=Recipe(steps=600, batch_size=32, lr=1e-3, weight_decay=0.05),
        methods=("labels", "soft, 0.9", "hard + token"),
    ),
}
"""What is trained, by the cues of the training images."""


class Mixture(NamedTuple):
    """The labels of mixed images: `share` of the first, the rest of the second, (B,) each."""

    first: Tensor
    second: Tensor
    share: float

    def mean(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """A loss of labels, averaged over the two by their shares: cross entropy to a mixed label is just this."""
        return self.share * loss(self.first) + (1 - self.share) * loss(self.second)


def make_teacher(seed: int) -> nn.Module:
    """The small ResNet, its weights drawn from the seed."""
    torch.manual_seed(seed)
    return OneFrame(TSNResNet(len(SHAPES), 1, **TEACHER))


def make_student(distilled: bool, seed: int) -> VisionTransformer:
    """The small DeiT; with and without a second token the tensors that both have start equal."""
    torch.manual_seed(seed)
    model = DistilledVisionTransformer if distilled else VisionTransformer  # draws its own tensors last
    return model(num_classes=len(SHAPES), **STUDENT)


def batches(recipe: Recipe, seed: int, cues: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The recipe's batches from the seed's training images."""
    data = shape_images(PARTS[cues].images, seed=seed, cues=cues)
    return shape_batches(dataclasses.replace(recipe, seed=seed), data.images, data.shapes)


def mixed(source: Iterable[tuple[Tensor, Tensor]], seed: int) -> Iterator[tuple[Tensor, Mixture]]:
    """Mixup: each batch added to itself in reverse, with a share drawn uniformly for the batch."""
    generator = torch.Generator().manual_seed(seed)
    for images, labels in source:
        share = torch.rand((), generator=generator).item()
        yield share * images + (1 - share) * images.flip(0), Mixture(labels, labels.flip(0), share)


def train_teacher(seed: int, cues: str) -> nn.Module:
    """The small ResNet after its recipe."""
    teacher, recipe = make_teacher(seed), PARTS[cues].teacher
    fit(teacher, batches(recipe, seed, cues), recipe)
    return teacher.eval()


@torch.no_grad()
def answers(teacher: nn.Module, seed: int, cues: str) -> tuple[Tensor, dict[str, float]]:
    """The teacher's logits for every batch of the students, (steps, B, K), and how often it decides for the label.

    "plain": on the training images; "larger": on mixed ones, for the label of the larger share; "either" of the two.
    """
    given, larger, either = [], [], []
    for images, mixture in mixed(batches(PARTS[cues].student, seed, cues), seed):
        given.append(teacher(images))
        first, second = (given[-1].argmax(1) == labels for labels in (mixture.first, mixture.second))
        larger.append((first if mixture.share > 0.5 else second).float().mean().item())
        either.append((first | second).float().mean().item())
    data = shape_images(PARTS[cues].images, seed=seed, cues=cues)
    rates = {"plain": accuracy(teacher, data.images, data.shapes)}
    rates |= {"larger": statistics.mean(larger), "either": statistics.mean(either)}
    return torch.stack(given), {name: round(value, 4) for name, value in rates.items()}


def train_student(method: str, seed: int, cues: str, given: Tensor) -> VisionTransformer:
    """The small DeiT after its recipe, told by the method and the teacher's logits."""
    distilled, loss = METHODS[method]
    student, step, recipe = make_student(distilled, seed), iter(given), PARTS[cues].student

    def criterion(outputs: Any, mixture: Mixture, _: Tensor) -> Tensor:
        taught = next(step)
        return mixture.mean(lambda labels: loss(outputs, taught, labels))

    fit(student, mixed(batches(recipe, seed, cues), seed), recipe, loss=criterion)
    return student.eval()


def each_head(student: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Logits of a net, and of its two heads where it has them: {name: (N, K)}."""
    logits = {"both": predict_scores(student, images)}
    if isinstance(student, DistilledVisionTransformer):
        with torch.no_grad():
            tokens = torch.cat([student.features(part) for part in images.split(256)])  # (N, 2, D)
            logits["class"] = student.head(tokens[:, 0])
            logits["distillation"] = student.distillation_head(tokens[:, 1])
    return logits


def assess(net: nn.Module, teacher: nn.Module, cues: str) -> dict[str, object]:
    """Accuracy and agreement with the teacher on unseen images, head by head; shape bias; how alike the tokens are."""
    test = shape_images(TEST_IMAGES, seed=TEST_SEED, cues=cues)
    decided = predict_scores(teacher, test.images).argmax(1)
    row: dict[str, object] = {}
    for name, logits in each_head(net, test.images).items():
        decision = logits.argmax(1)
        row[f"top-1 {name}"] = round((decision == test.shapes).float().mean().item(), 4)
        row[f"agreement {name}"] = round((decision == decided).float().mean().item(), 4)
    if isinstance(net, DistilledVisionTransformer):
        row["token cosine"] = round(F.cosine_similarity(net.class_token, net.distillation_token, dim=0).item(), 4)
        row["similarity"] = [round(value, 4) for value in token_similarity(net, test.images[:256]).tolist()]
    if cues == "agree":
        conflict = shape_images(TEST_IMAGES, seed=TEST_SEED, cues="conflict")
        decision, decided = (predict_scores(model, conflict.images).argmax(1) for model in (net, teacher))
        row["shape bias"] = round(shape_bias(decision, conflict.shapes, conflict.textures), 4)
        row["agreement in conflict"] = round((decision == decided).float().mean().item(), 4)
    return row


def write_teacher(path: Path) -> None:
    """Seed 0's teacher as a model file that `minirsa.models.checkpoint.load_model` reads."""
    teacher, part = train_teacher(0, "agree"), PARTS["agree"]
    scored = {"top-1": assess(teacher, teacher, "agree")["top-1 both"]}
    recipe = dataclasses.asdict(part.teacher) | {"images": part.images, "cues": "agree"}
    record = provenance(seed=0) | {"accuracy": scored}
    card = Card("tsn_resnet50", list(SHAPES), 1, 32, 32, options=TEACHER, recipe=recipe, provenance=record)
    save_model(path, teacher.net, card)
    print(path, scored)


def study(seed: int, cues: str, wanted: Sequence[str], keep: Callable[[dict[str, object]], None]) -> None:
    """One teacher, its answers, and the students of a seed."""
    teacher = train_teacher(seed, cues)
    given, agreement = answers(teacher, seed, cues)
    row = {"cues": cues, "method": "teacher", "seed": seed, **assess(teacher, teacher, cues)}
    keep(row | {"decides for the label in training": agreement})
    for method in wanted:
        student = train_student(method, seed, cues, given)
        keep({"cues": cues, "method": method, "seed": seed, **assess(student, teacher, cues)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(METHODS), metavar="METHOD", help=f"some of {list(METHODS)}")
    parser.add_argument("--cues", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--teacher", type=Path, help="write seed 0's teacher to this file and stop")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.teacher:
        return write_teacher(options.teacher)
    settings = json.loads(json.dumps({cues: dataclasses.asdict(part) for cues, part in PARTS.items()}))
    record: dict[str, Any] = {"provenance": provenance(), "settings": settings, "runs": []}
    if options.output and options.output.exists():
        record = json.loads(options.output.read_text())
        if record["settings"] != settings:
            parser.error(f"{options.output} holds runs with other settings: remove it")
    start = time.perf_counter()

    def name(row: dict[str, object]) -> tuple[object, ...]:
        return row["cues"], row["method"], row["seed"]

    def keep(row: dict[str, object]) -> None:
        record["runs"] = [old for old in record["runs"] if name(old) != name(row)] + [row]
        print(row, f"{time.perf_counter() - start:.0f} s", flush=True)
        if options.output:
            record["provenance"] = provenance()
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(record, indent=1) + "\n")

    for cues, seed in itertools.product(options.cues, options.seeds):
        done = {row["method"] for row in record["runs"] if (row["cues"], row["seed"]) == (cues, seed)}
        wanted = [m for m in PARTS[cues].methods if m in (options.only or METHODS) and m not in done]
        if wanted:
            study(seed, cues, wanted, keep)


if __name__ == "__main__":
    main()
