"""From a data set to the batches of one process: which clips in which order, read by workers or drawn on the device.

    (seed, epoch) -> one order of all clips -> batches of `batch_size` -> this process's share -> its parts

The order depends on nothing else, and each clip's own draws (frames, crop, mirroring) on seed, epoch and clip alone.
So the place in the epoch says all there is to say about the sampler: a run goes on at any step, with other workers or
other processes, and sees the clips that it would have seen. Book: chapter 16, The loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from minirsa.data.motion import mix_seeds
from minirsa.training.distributed import Processes
from minirsa.training.guards import leave_signals_to_the_loop
from minirsa.training.recipes import TrainingRecipe, unknown

MOTION_TEST_SEED = 20_211_101
"""The motion set's clips for validation: the same for every recipe of one size, whatever its seed."""


class Clips(Protocol):
    """What the loop asks of a data set; `minirsa.data.datasets` has two."""

    classes: Sequence[str]

    def __len__(self) -> int: ...

    def set_epoch(self, epoch: int) -> None: ...


def open_data(recipe: TrainingRecipe, root: str | Path | None) -> tuple[Clips, Clips]:
    """The recipe's clips to train on and to validate on.

    Raises ValueError for an unknown data set, no root where one is needed, or another number of classes than the
    recipe's; the reader raises for files that are not there.
    """
    from minirsa.data.datasets import READERS, ClipDataset, MotionDataset, evaluation_split, open_split
    from minirsa.data.motion import MotionConfig

    if recipe.data == "motion":
        try:
            config = MotionConfig(height=recipe.size, width=recipe.size, frames=recipe.frames, **recipe.data_options)
        except TypeError as error:
            raise ValueError(f"data_options: expected options of MotionConfig, got {recipe.data_options}") from error
        sets = (
            MotionDataset(recipe.epoch_clips, config, seed=recipe.seed, infinite=True),
            MotionDataset(recipe.validation_clips, config, seed=MOTION_TEST_SEED),
        )
    elif recipe.data not in READERS:
        raise ValueError("data: " + unknown(recipe.data, ["motion", *READERS], "data set"))
    elif root is None:
        raise ValueError(f"expected the folder of {recipe.data}, got none: give --data-root FOLDER")
    else:
        options = {"frames": recipe.frames, "size": recipe.size, "resize": recipe.resize, "seed": recipe.seed}
        training, validation = (
            open_split(recipe.data, root, name) for name in ("train", evaluation_split(recipe.data))
        )
        sets = (
            ClipDataset(training, training=True, flip=recipe.flip, **options),
            ClipDataset(validation, training=False, **options),
        )
    for clips in sets:
        if len(clips.classes) != recipe.classes:
            raise ValueError(f"classes: expected {len(clips.classes)}, as {recipe.data} has, got {recipe.classes}")
    return sets


def steps_per_epoch(clips: Clips, recipe: TrainingRecipe) -> int:
    """Whole batches in one pass; the clips left over are another epoch's. Raises ValueError if there is not one."""
    if len(clips) < recipe.batch_size:
        raise ValueError(
            f"batch_size: expected at most the {len(clips)} clips of {recipe.data}, got {recipe.batch_size}"
        )
    return len(clips) // recipe.batch_size


def check_share(recipe: TrainingRecipe, world: int) -> int:
    """Clips that go through the net at once in each of `world` processes.

    Raises ValueError if the batch does not divide by processes and accumulation.
    """
    parts = world * recipe.accumulation
    if recipe.batch_size % parts:
        raise ValueError(
            f"batch_size: expected a multiple of {parts} ({world} processes x accumulation {recipe.accumulation}), "
            f"got {recipe.batch_size}"
        )
    return recipe.batch_size // parts


def epoch_order(length: int, seed: int, epoch: int) -> Tensor:
    """Every clip once, in the random order of one epoch: int64 (length,)."""
    generator = torch.Generator().manual_seed(mix_seeds(seed, epoch))
    return torch.randperm(length, generator=generator)


def training_plan(
    length: int, recipe: TrainingRecipe, epoch: int, first_step: int, rank: int, world: int
) -> list[list[int]]:
    """What this process puts through its net from `first_step` to the end of the epoch, part by part.

    A step's clips are cut into `world` shares, a share into `accumulation` parts: all together are the step's batch,
    whatever the numbers are.
    """
    part = check_share(recipe, world)
    order = epoch_order(length, recipe.seed, epoch)
    batches = order[: length // recipe.batch_size * recipe.batch_size].view(-1, world, recipe.accumulation, part)
    return batches[first_step:, rank].flatten(0, 1).tolist()


def validation_plan(length: int, batch: int, rank: int, world: int) -> list[list[int]]:
    """This process's share of a validation, in as many rounds as every other's; late rounds may be empty."""
    mine = list(range(rank, length, world))
    rounds = math.ceil(math.ceil(length / world) / batch)
    return [mine[i * batch : (i + 1) * batch] for i in range(rounds)]


def read(clips: Clips, plan: list[list[int]], processes: Processes, workers: int, seed: int) -> Iterator[object]:
    """The batches of a plan on this process's device, read or drawn ahead of the loop; an empty list gives None.

    A data set with a method `batch(indices, device)` draws whole batches; others are read clip by clip in `workers`
    processes. What cannot be read raises here, in its turn, with the reader's own error.
    """
    draw: Callable | None = getattr(clips, "batch", None)
    if draw is None:
        return _read(clips, plan, processes, workers, seed)
    return _draw(lambda indices: draw(indices, processes.device) if indices else None, plan, ahead=workers > 0)


def _draw(draw: Callable[[list[int]], object], plan: list[list[int]], *, ahead: bool) -> Iterator[object]:
    if not ahead:
        yield from map(draw, plan)
        return
    with ThreadPoolExecutor(1) as thread:
        waiting = [thread.submit(draw, indices) for indices in plan[:2]]
        try:
            for following in [*plan[2:], None, None]:
                if waiting:
                    batch = waiting.pop(0).result()
                    if following is not None:
                        waiting.append(thread.submit(draw, following))
                    yield batch
        finally:
            for future in waiting:
                future.cancel()


class _Reading(Dataset):
    """Hands errors over as values: a worker's exception would lose its type and its file on the way."""

    def __init__(self, clips: Clips):
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> object:
        try:
            return self.clips[index]
        except Exception as error:
            return error


def _collate(samples: list[object]) -> object:
    from minirsa.data.datasets import collate

    return next((sample for sample in samples if isinstance(sample, Exception)), None) or collate(samples)


def _read(clips: Clips, plan: list[list[int]], processes: Processes, workers: int, seed: int) -> Iterator[object]:
    device = processes.device
    full = [indices for indices in plan if indices]
    loader = DataLoader(
        _Reading(clips),
        batch_sampler=full,
        num_workers=min(workers, len(full)),
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(seed),  # its own: a loader draws a number, and dropout must not see it
        worker_init_fn=leave_signals_to_the_loop,
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield type(batch)(
            batch.videos.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True), batch.names
        )
    yield from [None] * (len(plan) - len(full))
