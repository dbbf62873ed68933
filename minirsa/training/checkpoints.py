"""Checkpoints: a run as it stands, in a file that is whole or absent, whenever the process is killed.

    state -> last.pt.part -> flushed to the disk -> last.pt becomes good.pt -> renamed to last.pt

Three files in the run's folder: `last.pt`, where it goes on; `good.pt`, the one before, whose weights have since been
trained further without a loss that is not finite; `best.pt`, the weights with the best validation. They hold tensors
and plain values, and are read with `weights_only`, so that nothing in them can run. Book: chapter 16, Checkpoints.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from minirsa.models.weights import read_tensors
from minirsa.training.recipes import TrainingRecipe, differences

LAST, GOOD, BEST = "last.pt", "good.pt", "best.pt"
FORMAT = 1


def save(path: str | PathLike[str], state: Mapping[str, object]) -> None:
    """Write a state of tensors and plain values; an older file of that name is replaced once the new one is whole.

    Raises OSError, the older file untouched, if it cannot be written (no room, no permission).
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        torch.save({"format": FORMAT, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    if path.name == LAST and path.exists():
        os.replace(path, path.with_name(GOOD))
    os.replace(part, path)
    _sync_folder(path.parent)


def load(path: str | PathLike[str]) -> dict[str, object]:
    """The state in a checkpoint, tensors on the CPU.

    Raises FileNotFoundError, and ValueError naming the file if it is damaged or no checkpoint of `minirsa train`.
    """
    state = read_tensors(path)
    if state.get("format") != FORMAT or "recipe" not in state:
        raise ValueError(f"{path} is no checkpoint of minirsa train (format {FORMAT}), got {state.get('format')!r}")
    return state


def newest(folder: str | PathLike[str]) -> Path | None:
    """The checkpoint to go on from: last.pt, or good.pt where a kill came between two renames; None if neither is."""
    for name in (LAST, GOOD):
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    return None


def check_recipe(state: Mapping[str, object], recipe: TrainingRecipe, path: str | PathLike[str]) -> None:
    """Raise ValueError, naming every field that differs, unless the checkpoint was trained by this recipe.

    Fields of `recipes.FREE` may differ.
    """
    theirs, ours = state["recipe"], recipe.to_dict()
    names = differences(theirs, ours)
    if names:
        found = "; ".join(f"{name} is {theirs.get(name)!r} there and {ours.get(name)!r} here" for name in names)
        raise ValueError(
            f"{path} was trained by another recipe: {found}. Go on with the same values, or train into another folder"
        )


def random_states(device: torch.device) -> dict[str, object]:
    """The states of every generator that a training step may draw from: torch's (CPU and GPU), Python's, NumPy's."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 (the global state is what must be kept)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
    }


def restore_random_states(states: Mapping[str, object], device: torch.device) -> None:
    """Put the generators back to what `random_states` found; the GPU's only where both runs have one."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002


@contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed all generators for what is inside, and give the caller's states back afterwards."""
    before = random_states(device)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        restore_random_states(before, device)


def _sync_folder(folder: Path) -> None:
    """Have the renames themselves reach the disk, where the system can do that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems know no such thing; the file itself is safe by now
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
