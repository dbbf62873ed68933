"""Accuracy of a trained net: one view or several, two nets together, and what becomes of a clip played backwards.

    net, clips -> evaluate -> Scores: logits (clips, views, classes), saved beside the run
    Scores, or ensemble([Scores, Scores]) -> report -> top-1, top-5, mean over classes, pairs of opposite motions

A view is one cut through a clip: 1 or 2 sets of frames in time, 1 or 3 squares in space. The probabilities of a clip
are the mean over its views, and those of an ensemble the mean over its members (RSANet-R50_EN: 8 and 16 frames). Both
are means of saved scores, so that no net reads a clip twice. Every accuracy is printed with frames x clips x crops:
one without them says little. Kim et al. 2021 (arXiv 2111.01673), section 5. Book: chapter 16, Evaluation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from minirsa.data.datasets import (
    MOTION_MEAN,
    MOTION_STD,
    READERS,
    ClipDataset,
    MotionDataset,
    evaluation_split,
    open_split,
)
from minirsa.data.motion import MotionConfig
from minirsa.data.sampling import segment_indices
from minirsa.data.transforms import CenterCrop, Compose, Normalize, Resize, reversed_labels, to_tensor
from minirsa.data.video import clip_length, read_clip
from minirsa.training import inputs
from minirsa.training.distributed import processes
from minirsa.training.guards import autocast
from minirsa.training.recipes import TrainingRecipe, unknown

ENSEMBLE_NAMES = 3
"""So many clips are named where two sets of scores do not belong together."""


@dataclass(frozen=True)
class Scores:
    """What a net, or an ensemble, makes of the clips of a split.

    probabilities: float32 (N, classes), the mean over views. labels: int64 (N,). names: of the clips, in this order.
    classes: their names. data: set and split. protocol: frames x clips x crops, with a plus between the members of an
    ensemble. backwards: whether the clips were played backwards (then `labels` are still those of the clips as they
    are). logits: float32 (N, views, classes), or None for an ensemble.
    """

    probabilities: Tensor
    labels: Tensor
    names: tuple[str, ...]
    classes: tuple[str, ...]
    data: str
    protocol: str
    backwards: bool = False
    logits: Tensor | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a safetensors file; an older file of that name is replaced once the new one is whole."""
        if self.logits is None:
            raise ValueError("expected the scores of one net, got an ensemble's: save its members' instead")
        kept = {"names": self.names, "classes": self.classes, "data": self.data, "protocol": self.protocol}
        header = {"minirsa scores": json.dumps({**kept, "backwards": self.backwards})}
        path = Path(path)
        part = path.with_name(path.name + ".part")
        part.write_bytes(to_bytes({"logits": self.logits.contiguous(), "labels": self.labels}, metadata=header))
        os.replace(part, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Scores:
        """Raises FileNotFoundError, and ValueError naming the file if it has no scores in it."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no scores at {path}")
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["minirsa scores"])
                logits, labels = file.get_tensor("logits"), file.get_tensor("labels")
            names, classes = tuple(header["names"]), tuple(header["classes"])
            if logits.ndim != 3 or logits.shape[::2] != (len(names), len(classes)) or labels.shape != (len(names),):
                raise ValueError(f"{len(names)} clips and {len(classes)} classes do not fit {tuple(logits.shape)}")
            return scores_of(logits, labels, names, classes, header["data"], header["protocol"], header["backwards"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} has no scores of minirsa evaluate: {error}") from error


def scores_of(
    logits: Tensor,
    labels: Tensor,
    names: Sequence[str],
    classes: Sequence[str],
    data: str,
    protocol: str,
    backwards: bool = False,
) -> Scores:
    """Scores from the logits of every view: (N, views, classes), (N,)."""
    probabilities = logits.softmax(2).mean(1)
    return Scores(probabilities, labels, tuple(names), tuple(classes), data, protocol, backwards, logits)


# What is evaluated ---------------------------------------------------------------------------------------------------


def open_clips(
    recipe: TrainingRecipe,
    root: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    clips: int | None = None,
    crops: int | None = None,
    backwards: bool = False,
) -> ClipDataset | MotionDataset:
    """The clips that a recipe's net is tested on, seen as the recipe says (`test_clips`, `test_crops`) or as given.

    split: None for the one that papers report on. backwards: frames in reverse order.
    Raises ValueError for a split, data set or number of views that there is not, and what the reader raises.
    """
    clips = recipe.test_clips if clips is None else clips
    crops = recipe.test_crops if crops is None else crops
    if recipe.data == "motion":
        if split is not None:
            raise ValueError(f"expected no split for the motion set, whose test clips are made by code, got {split!r}")
        if (clips, crops) != (1, 1):
            raise ValueError(
                f"expected 1 clip x 1 crop of the motion set, which is drawn at size, got {clips} x {crops}"
            )
        config = MotionConfig(height=recipe.size, width=recipe.size, frames=recipe.frames, **recipe.data_options)
        found = MotionDataset(recipe.validation_clips, config, seed=inputs.MOTION_TEST_SEED)
    elif recipe.data not in READERS:
        raise ValueError("data: " + unknown(recipe.data, ["motion", *READERS], "data set"))
    elif root is None:
        raise ValueError(f"expected the folder of {recipe.data}, got none: give --data-root FOLDER")
    else:
        options = {"frames": recipe.frames, "size": recipe.size, "resize": recipe.resize, "training": False}
        chosen = open_split(recipe.data, root, split or evaluation_split(recipe.data))
        found = ClipDataset(chosen, views=clips, crops=crops, **options)
    if len(found.classes) != recipe.classes:
        raise ValueError(
            f"classes: expected {recipe.classes}, as the net has, got {len(found.classes)} of {recipe.data}"
        )
    return _Backwards(found) if backwards else found


class _Backwards:
    """A data set whose clips run backwards."""

    def __init__(self, clips: ClipDataset | MotionDataset):
        self.clips, self.classes = clips, clips.classes
        if hasattr(clips, "batch"):
            self.batch = self._batch

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> object:
        sample = self.clips[index]
        return sample._replace(video=sample.video.flip(-3))

    def _batch(self, indices: Sequence[int], device: str | torch.device) -> object:
        batch = self.clips.batch(indices, device)
        return batch._replace(videos=batch.videos.flip(-3))


@torch.no_grad()
def evaluate(
    model: nn.Module,
    recipe: TrainingRecipe,
    clips: ClipDataset | MotionDataset | _Backwards,
    *,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Every clip of `open_clips` through a net: (B x views, 3, T, H, W) -> (B x views, classes).

    device: as for `processes`. batch_size: clips at once (default: the recipe's, divided by the views). workers: as in
    a recipe, whose number is the default. on_progress: called with clips done and clips in all.
    Under torchrun every process calls this with the same arguments, does its share and gets the scores of all clips.
    A clip that cannot be read raises the reader's error, with its name; none is left out.
    """
    inner = clips.clips if isinstance(clips, _Backwards) else clips
    views = (getattr(inner, "views", 1), getattr(inner, "crops", 1))
    at_once = batch_size or max(1, recipe.batch_size // (views[0] * views[1]))
    logits, labels, names = [], [], []
    was_training = model.training
    with processes(device) as group:
        model = model.to(group.device).eval()
        count = recipe.workers if workers is None else workers
        plans = [inputs.validation_plan(len(clips), at_once, rank, group.world) for rank in range(group.world)]
        try:
            for batch in inputs.read(clips, plans[group.rank], group, count, recipe.seed):
                if batch is None:
                    continue
                videos = batch.videos if batch.videos.ndim == 6 else batch.videos[:, None]
                with autocast(recipe.precision, group.device):
                    found = model(videos.flatten(0, 1)).float()
                logits.append(found.unflatten(0, videos.shape[:2]).cpu())
                labels.append(batch.labels.cpu())
                names += batch.names
                if on_progress is not None:
                    on_progress(min(len(names) * group.world, len(clips)), len(clips))
        finally:
            model.train(was_training)
        shares = group.gather((logits, labels, names))
    logits, labels, names = (list(chain.from_iterable(kind)) for kind in zip(*shares))
    order = torch.tensor([index for plan in plans for part in plan for index in part]).argsort()
    split = getattr(inner, "split", None)
    data = "motion validation" if split is None else str(split)
    protocol = f"{recipe.frames} frames x {views[0]} clip{'s' * (views[0] > 1)} x {views[1]} crop{'s' * (views[1] > 1)}"
    backwards = isinstance(clips, _Backwards)
    names = [names[place] for place in order.tolist()]
    ordered = torch.cat(logits)[order], torch.cat(labels)[order]
    return scores_of(*ordered, names, inner.classes, data, protocol, backwards)


def ensemble(members: Sequence[Scores]) -> Scores:
    """The mean of several nets' probabilities: RSANet-R50_EN is ``ensemble([eight_frames, sixteen_frames])``.

    The clips may come in different orders. Raises ValueError for fewer than two members, and for members of other
    clips, labels, classes or direction of play, naming what differs.
    """
    if len(members) < 2:
        raise ValueError(f"expected at least two members of an ensemble, got {len(members)}")
    first = members[0]
    total = torch.zeros_like(first.probabilities)
    for member in members:
        if member.classes != first.classes:
            raise ValueError(f"expected members of the same classes, got {len(first.classes)} and others of them")
        if member.backwards != first.backwards:
            raise ValueError("expected members that saw the clips in one direction, got forwards and backwards")
        places = {name: place for place, name in enumerate(member.names)}
        odd = sorted(set(places) ^ set(first.names))
        if odd:
            raise ValueError(
                f"expected members that saw the same clips, got {len(odd)} that only one has: "
                + ", ".join(odd[:ENSEMBLE_NAMES])
            )
        order = torch.tensor([places[name] for name in first.names])
        if not torch.equal(member.labels[order], first.labels):
            raise ValueError(f"expected one label for each clip, got different ones in {first.data} and {member.data}")
        total += member.probabilities[order]
    protocol = " + ".join(member.protocol for member in members)
    return replace(first, probabilities=total / len(members), protocol=protocol, logits=None)


# What it says --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two classes of which each is the other played backwards, over the clips of both.

    clips: how many. right: share that got its own label. confused: share that got the partner's. direction: share in
    which the right one of the two had the higher probability; 1/2 by chance.
    """

    classes: tuple[str, str]
    clips: int
    right: float
    confused: float
    direction: float


@dataclass(frozen=True)
class Report:
    """Accuracies in [0, 1] of `clips` clips. class_accuracy: mean over the classes that have a clip (`present`).

    pairs: of opposite motions among the classes (`reversed_labels`), most confused first. left_out: with clips played
    backwards, those whose class has no partner, so that there is no right answer; they do not count.
    """

    top1: float
    top5: float
    class_accuracy: float
    clips: int
    present: int
    classes: int
    protocol: str
    data: str
    backwards: bool = False
    left_out: int = 0
    pairs: tuple[Pair, ...] = field(default=())

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        where = f"{self.data}{', played backwards' if self.backwards else ''}: {self.clips} clips"
        if self.left_out:
            where += f" ({self.left_out} without an opposite class left out)"
        lines = [
            f"{where}; {self.protocol}",
            f"top-1 {100 * self.top1:.1f} %   top-5 {100 * self.top5:.1f} %   "
            f"mean over {self.present} of {self.classes} classes {100 * self.class_accuracy:.1f} %",
        ]
        if self.pairs:
            lines.append("opposite motions         clips  right  taken for the other  right one of the two")
            for pair in self.pairs:
                lines.append(
                    f"{pair.clips:30d} {100 * pair.right:5.0f} % {100 * pair.confused:17.0f} % "
                    f"{100 * pair.direction:19.0f} %  {pair.classes[0]} / {pair.classes[1]}"
                )
        return "\n".join(lines)


def report(scores: Scores) -> Report:
    """Accuracy of scores. Clips played backwards must get the class that the clip shows then.

    Raises ValueError for clips without labels, and for backwards clips none of which has an opposite class.
    """
    probabilities, labels = scores.probabilities, scores.labels
    if bool((labels < 0).any()):
        raise ValueError(
            f"expected labels to compare with, got none for clips of {scores.data}: save the scores instead"
        )
    partners = reversed_labels(scores.classes)
    left_out = 0
    if scores.backwards:
        shown = torch.tensor([-1 if partner is None else partner for partner in partners])[labels]
        counted = shown >= 0
        if not bool(counted.any()):
            raise ValueError(f"no class of {scores.data} has an opposite: backwards clips have no right answer")
        left_out = int((~counted).sum())
        probabilities, labels = probabilities[counted], shown[counted]
    best = probabilities.topk(min(5, probabilities.shape[1]), 1).indices == labels[:, None]
    seen = labels.bincount(minlength=len(scores.classes))
    right = labels[best[:, 0]].bincount(minlength=len(scores.classes))
    present = seen > 0
    return Report(
        top1=best[:, 0].float().mean().item(),
        top5=best.any(1).float().mean().item(),
        class_accuracy=(right[present] / seen[present]).mean().item(),
        clips=len(labels),
        present=int(present.sum()),
        classes=len(scores.classes),
        protocol=scores.protocol,
        data=scores.data,
        backwards=scores.backwards,
        left_out=left_out,
        pairs=_pairs(probabilities, labels, scores.classes, partners),
    )


def _pairs(
    probabilities: Tensor, labels: Tensor, classes: Sequence[str], partners: Sequence[int | None]
) -> tuple[Pair, ...]:
    found = []
    answers = probabilities.argmax(1)
    for one, other in enumerate(partners):
        if other is None or other <= one:
            continue
        rows = ((labels == one) | (labels == other)).nonzero()[:, 0]
        if not len(rows):
            continue
        true = labels[rows]
        false = one + other - true
        ahead = probabilities[rows, true] > probabilities[rows, false]
        shares = [(x.float().mean().item()) for x in (answers[rows] == true, answers[rows] == false, ahead)]
        found.append(Pair((classes[one], classes[other]), len(rows), *shares))
    return tuple(sorted(found, key=lambda pair: -pair.confused))


def confusion(scores: Scores) -> Tensor:
    """How many clips of each class (row) got each class (column): int64 (classes, classes)."""
    count = len(scores.classes)
    flat = scores.labels * count + scores.probabilities.argmax(1)
    return flat.bincount(minlength=count * count).reshape(count, count)


def scores_name(scores: Scores) -> str:
    """The file of a run's folder that scores go into: scores-something-v2-validation-8x2x1.safetensors."""
    numbers = "x".join(word for word in scores.protocol.split() if word.isdecimal())
    return f"scores-{scores.data.replace(' ', '-')}-{numbers}{'-backwards' * scores.backwards}.safetensors"


def read_file(recipe: TrainingRecipe, path: str | os.PathLike[str]) -> Tensor:
    """A video file as the recipe's net reads it in a test of one view: float32 (3, frames, size, size).

    Raises VideoReadError for a file that cannot be decoded.
    """
    motion = recipe.data == "motion"
    resize = recipe.size if motion else recipe.resize[0] if len(recipe.resize) == 1 else recipe.resize
    frames = read_clip(path, segment_indices(clip_length(path), recipe.frames))
    normalize = Normalize(MOTION_MEAN, MOTION_STD) if motion else Normalize()
    return Compose([Resize(resize), CenterCrop(recipe.size), normalize])(to_tensor(frames))[0]
