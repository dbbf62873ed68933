"""A run that is killed, interrupted or moved goes on as if nothing had happened, to the last bit."""

import os
import random
import signal
import time

import numpy as np
import pytest

from minirsa.data.video import write_clip
from minirsa.training.checkpoints import BEST, GOOD, LAST, load, newest
from minirsa.training.runlog import LOG, SESSIONS, read_log

from .conftest import assert_equal_states, assert_same_run, rows


@pytest.fixture(scope="module")
def whole(forker, tmp_path_factory):
    """The run of `TINY` that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    assert forker.run(folder) == [(0, {"epoch": 3, "step": 0, "finished": True})]
    return folder


def test_a_run_killed_at_random_moments_ends_bit_equal(forker, whole, tmp_path):
    """SIGKILL four times, each a random moment after a row of the log that was drawn as well."""
    draw = random.Random(7)
    for wanted in sorted(draw.sample(range(2, 8), 4)):
        (pid,) = forker.start(tmp_path)
        while written(tmp_path) < wanted:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
        assert forker.wait()[0][0] == -signal.SIGKILL
    assert forker.run(tmp_path) == [(0, {"epoch": 3, "step": 0, "finished": True})]
    assert_same_run(whole, tmp_path)
    assert_equal_states(load(whole / BEST), load(tmp_path / BEST))
    starts = read_log(tmp_path / SESSIONS)
    assert len(starts) == 5
    assert starts[-1]["epoch"] >= 1


def written(folder):
    """Rows in the log of a run that is going on; none before it begins."""
    return (folder / LOG).read_bytes().count(b"\n") if (folder / LOG).exists() else 0


@pytest.mark.parametrize("number", [0, 2, 6])
def test_a_run_killed_between_writing_and_renaming_a_checkpoint_ends_bit_equal(forker, whole, tmp_path, number):
    """Renames: 0 the first checkpoint; then two for each, of which the first makes last.pt good.pt; best.pt's."""
    ((code, _),) = forker.run(tmp_path, die_at_rename=number)
    assert code == -signal.SIGKILL
    assert list(tmp_path.glob("*.part"))
    if number == 2:
        assert newest(tmp_path).name == GOOD
    assert forker.run(tmp_path) == [(0, {"epoch": 3, "step": 0, "finished": True})]
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize(
    ("moment", "place"),
    [(["train", 0, 4], (0, 5)), (["train", 1, 6], (1, 6)), (["epoch", 1, None], (2, 0)), (["epoch", 2, None], (3, 0))],
)
def test_ctrl_c_finishes_the_step_saves_and_leaves_with_130(forker, whole, tmp_path, moment, place):
    """In the middle of an epoch, where the step under way is finished, at its last step, between epochs, at the end."""
    finished = place == (3, 0)
    code = 0 if finished else 130
    report = {"epoch": place[0], "step": place[1], "finished": finished}
    assert forker.run(tmp_path, interrupt=moment) == [(code, report)]
    state = load(tmp_path / LAST)
    assert (state["epoch"], state["step"]) == place
    assert forker.run(tmp_path)[0][0] == 0
    assert_same_run(whole, tmp_path)
    assert [row["from"] for row in read_log(tmp_path / SESSIONS)] == [None, LAST]


def test_a_log_cut_in_the_middle_of_a_row_or_longer_than_the_checkpoint_is_mended(forker, whole, tmp_path):
    assert forker.run(tmp_path, interrupt=["train", 1, 2])[0][0] == 130
    with open(tmp_path / LOG, "a") as file:
        file.write('{"kind": "train", "epoch": 77}\n{"kind": "tra')
    assert forker.run(tmp_path)[0][0] == 0
    assert_same_run(whole, tmp_path)


def test_a_log_that_lost_rows_is_refused(forker, tmp_path):
    assert forker.run(tmp_path, interrupt=["train", 1, 2])[0][0] == 130
    (tmp_path / LOG).write_text("")
    ((code, message),) = forker.run(tmp_path)
    assert code == 1
    assert "expected the 4 rows that the checkpoint knows of" in message


def test_another_recipe_is_refused_and_the_checkpoint_left_alone(forker, tmp_path):
    assert forker.run(tmp_path, interrupt=["train", 0, 4])[0][0] == 130
    before = (tmp_path / LAST).read_bytes()
    ((code, message),) = forker.run(tmp_path, recipe={"lr": 0.1, "label_smoothing": 0.0})
    assert code == 1
    assert "lr is 0.05 there and 0.1 here; label_smoothing is 0.1 there and 0.0 here" in message
    assert (tmp_path / LAST).read_bytes() == before


def test_a_run_goes_on_with_other_workers_other_parts_and_other_intervals(forker, tmp_path):
    """What `recipes.FREE` names may change; for a net without batch norm even the parts change nothing but rounding."""
    recipe = {"model": "plain"}
    assert forker.run(tmp_path / "whole", recipe=recipe)[0][0] == 0
    assert forker.run(tmp_path / "moved", recipe=recipe, interrupt=["train", 1, 2])[0][0] == 130
    other = {"accumulation": 2, "workers": 1, "save_every": 3, "test_crops": 3}
    assert forker.run(tmp_path / "moved", recipe=recipe | other)[0][0] == 0
    one, two = (load(tmp_path / name / LAST)["model"] for name in ("whole", "moved"))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=1e-6)
    assert [row["clips_at_once"] for row in read_log(tmp_path / "moved" / SESSIONS)] == [8, 4]


def test_clips_from_files_read_by_two_workers_are_the_same_after_an_interruption(forker, tmp_path):
    """Random frames, crops and mirroring come from (seed, epoch, clip): who reads and when changes nothing."""
    root = tmp_path / "clips"
    root.mkdir()
    draw = np.random.default_rng(0)
    lines = ["clip,label,split"]
    for number in range(12):
        name, split = f"{number}.mp4", "train" if number < 8 else "validation"
        write_clip(root / name, draw.integers(0, 255, (6, 32, 40, 3), dtype=np.uint8))
        lines.append(f"{name},{('waving', 'nodding')[number % 2]},{split}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    recipe = {"data": "clips", "classes": 2, "epoch_clips": 0, "validation_clips": 0, "size": 24, "resize": [32]}
    recipe |= {"epochs": 3, "batch_size": 2, "workers": 2, "log_every": 1, "save_every": 3}
    job = {"recipe": recipe, "root": str(root)}
    assert forker.run(tmp_path / "whole", **job)[0][0] == 0
    assert forker.run(tmp_path / "moved", **job, interrupt=["train", 1, 1])[0][0] == 130
    job["recipe"] = recipe | {"workers": 0}
    assert forker.run(tmp_path / "moved", **job)[0][0] == 0
    one, two = (load(tmp_path / name / LAST) for name in ("whole", "moved"))
    assert_equal_states(one["model"], two["model"])
    assert rows(tmp_path / "whole")[1:] == rows(tmp_path / "moved")[1:]
    assert [row["validation"]["clips"] for row in rows(tmp_path / "moved") if row["kind"] == "epoch"] == [4, 4, 4]
