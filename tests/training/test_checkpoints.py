"""Checkpoints are whole or absent, hold no code, and know which recipe they belong to."""

import os
import pickle
import random

import numpy as np
import pytest
import torch

from minirsa.training import checkpoints
from minirsa.training.checkpoints import BEST, GOOD, LAST, check_recipe, load, newest, save
from minirsa.training.recipes import PRESETS

CPU = torch.device("cpu")


def state(number):
    return {"recipe": PRESETS["motion-ci"].to_dict(), "model": {"weight": torch.full((3,), float(number))}}


def number(path):
    return int(load(path)["model"]["weight"][0])


def test_last_moves_to_good_and_best_stays_where_it_is(tmp_path):
    for count in range(3):
        save(tmp_path / LAST, state(count))
        if count == 1:
            save(tmp_path / BEST, state(count))
    assert {name: number(tmp_path / name) for name in (LAST, GOOD, BEST)} == {LAST: 2, GOOD: 1, BEST: 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([LAST, GOOD, BEST])


def test_a_write_that_fails_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    save(tmp_path / LAST, state(0))

    def half(content, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / LAST, state(1))
    assert number(tmp_path / LAST) == 0
    assert not (tmp_path / GOOD).exists()


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """File synced, older one moved, renamed, folder synced: a power cut at any point leaves a whole checkpoint."""
    done = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("sync"), sync(number)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(f"{a.name} > {b.name}"), rename(a, b)))
    save(tmp_path / LAST, state(0))
    save(tmp_path / LAST, state(1))
    first = ["sync", "last.pt.part > last.pt", "sync"]
    assert done == [*first, "sync", "last.pt > good.pt", "last.pt.part > last.pt", "sync"]


def test_newest_falls_back_to_good(tmp_path):
    assert newest(tmp_path) is None
    assert newest(tmp_path / "nowhere") is None
    save(tmp_path / GOOD, state(0))
    assert newest(tmp_path) == tmp_path / GOOD
    save(tmp_path / LAST, state(1))
    assert newest(tmp_path) == tmp_path / LAST


def test_damaged_and_foreign_files_are_refused_by_name(tmp_path):
    path = tmp_path / LAST
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load(path)
    save(path, state(0))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"last\.pt is not a readable checkpoint"):
        load(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"last\.pt is no checkpoint of minirsa train"):
        load(path)


def test_loading_runs_no_code_from_the_file(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / LAST
    torch.save({"format": 1, "recipe": {}, "trap": Trap()}, path, pickle_module=pickle)
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load(path)
    assert not (tmp_path / "sprung").exists()


def test_another_recipe_is_refused_with_every_field_and_both_values(tmp_path):
    recipe = PRESETS["motion-ci"]
    check_recipe(state(0), recipe, "x.pt")
    check_recipe(state(0), recipe.replace(workers=3, compile=True, log_every=7), "x.pt")
    with pytest.raises(
        ValueError, match=r"x\.pt was trained by another recipe: size is 32 there and 48 here; seed is 0"
    ):
        check_recipe(state(0), recipe.replace(size=48, seed=1), "x.pt")
    theirs = recipe.to_dict() | {"mixup": 0.2}
    with pytest.raises(ValueError, match=r"mixup is 0.2 there and None here"):
        check_recipe({"recipe": theirs}, recipe, "x.pt")


def draws():
    return torch.rand(3).tolist(), [random.random() for _ in range(3)], np.random.rand(3).tolist()  # noqa: NPY002


def test_random_states_come_back_from_a_file_and_give_the_same_draws(tmp_path):
    with checkpoints.own_randomness(3, CPU):
        draws()
        torch.randn(3)
        save(tmp_path / LAST, state(0) | {"random": checkpoints.random_states(CPU)})
        expected = draws()
        assert draws() != expected
        checkpoints.restore_random_states(load(tmp_path / LAST)["random"], CPU)
        assert draws() == expected


def draw_and_fail(seen):
    with checkpoints.own_randomness(3, CPU):
        seen.append(draws())
        raise KeyError


def test_own_randomness_is_seeded_and_gives_the_callers_back_even_after_an_error():
    before = checkpoints.random_states(CPU)
    seen = []
    for _ in range(2):
        with pytest.raises(KeyError):
            draw_and_fail(seen)
    assert seen[0] == seen[1]
    after = checkpoints.random_states(CPU)
    assert torch.equal(before["torch"], after["torch"])
    assert before["python"] == after["python"]
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert before["numpy"][2:] == after["numpy"][2:]
