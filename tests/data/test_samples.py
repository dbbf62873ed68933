"""data_samples/ is what minirsa.data.samples makes, complete and small."""

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from minirsa.data import LABELS, MotionSet, clip_length, read_clip, segment_indices, to_tensor
from minirsa.data.samples import ALSO_WEBM, CONFIG, ITEMS, SEED, sample_frames, write_samples

FOLDER = Path(__file__).resolve().parents[2] / "data_samples"


def labels():
    with open(FOLDER / "labels.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def remade(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    paths = write_samples(folder)
    return folder, paths


def test_one_mp4_a_class_two_also_as_webm_and_their_labels():
    rows = labels()
    assert [row["label"] for row in rows if row["clip"].endswith(".mp4")] == list(LABELS)
    webm = [row["label"] for row in rows if row["clip"].endswith(".webm")]
    assert webm == [LABELS[i] for i in ALSO_WEBM]
    assert len(webm) == 2
    assert all(row["clip"].rsplit(".", 1)[0] == row["label"].replace(" ", "_") for row in rows)
    assert {path.name for path in FOLDER.iterdir()} == {row["clip"] for row in rows} | {"labels.csv"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 500_000


def test_every_clip_has_the_size_and_length_that_is_promised():
    for row in labels():
        assert clip_length(FOLDER / row["clip"]) == 56
        assert read_clip(FOLDER / row["clip"], [0]).shape == (1, 240, 320, 3)


def test_making_them_again_gives_the_same_frames(remade):
    folder, paths = remade
    assert [path.name for path in paths] == [row["clip"] for row in labels()]
    assert (folder / "labels.csv").read_bytes() == (FOLDER / "labels.csv").read_bytes()
    for path in paths:
        ours, theirs = read_clip(path).astype(int), read_clip(FOLDER / path.name).astype(int)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).mean() < 1, path.name  # another encoder's build may differ by a shade of 255


def test_a_file_holds_what_was_drawn():
    difference = np.abs(read_clip(FOLDER / "covering_something_with_something.mp4").astype(int) - sample_frames(10))
    assert difference.mean() < 3


@pytest.mark.parametrize("label", range(12))
def test_a_file_shrunk_by_area_looks_like_its_item_drawn_small(label):
    """Decoded, sampled and averaged: what a net trained on small renderings gets to see."""
    path = FOLDER / f"{LABELS[label].replace(' ', '_')}.mp4"
    large = to_tensor(read_clip(path, segment_indices(clip_length(path), 8)))
    shrunk = torch.nn.functional.interpolate(large.transpose(0, 1), (48, 64), mode="area").transpose(0, 1)
    items = MotionSet(max(ITEMS) + 1, replace(CONFIG, height=48, width=64, frames=8), seed=SEED)
    small, drawn = items[ITEMS[label]]
    assert drawn == label
    difference = (shrunk - small).abs()
    assert difference.mean() < 0.01
    assert difference.flatten().quantile(0.999) < 0.15  # a few pixels on the outlines of things
    turned = (shrunk - small.flip(1)).abs().mean()
    assert turned > 3 * difference.mean()  # and not like the same item backwards


def test_command_line_says_what_it_needs():
    run = subprocess.run([sys.executable, "-m", "minirsa.data.samples"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "usage: python -m minirsa.data.samples FOLDER" in run.stderr
