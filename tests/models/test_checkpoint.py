"""Model files: weights and card together, refused when they do not fit; the model that ships knows its motions."""

import csv
import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minirsa.data.motion import LABELS, MotionConfig, MotionSet
from minirsa.models.checkpoint import MOTION_MODEL, Card, load_model, predict, save_model
from minirsa.models.rsanet import rsanet_small
from minirsa.training import accuracy

SAMPLES = Path(__file__).parents[2] / "data_samples"
CARD = Card("rsanet_small", ["up", "down", "left"], 4, 16, 16, options={"widths": [4, 8, 8], "queries": 2})


def small(**options):
    torch.manual_seed(0)
    return rsanet_small(3, 4, widths=(4, 8, 8), queries=2, **options).eval()


def sample_rows():
    with open(SAMPLES / "labels.csv", newline="", encoding="utf-8") as file:
        return [(row["clip"], row["label"]) for row in csv.DictReader(file)]


def test_what_is_saved_is_what_is_loaded(tmp_path):
    model, path = small(), tmp_path / "model.safetensors"
    save_model(path, model, CARD)
    loaded, card = load_model(path)
    clip = torch.rand(1, 3, 4, 16, 16)
    torch.testing.assert_close(loaded(clip), model(clip), rtol=0, atol=0)
    assert card == CARD
    assert not loaded.training


def test_a_card_that_does_not_build_the_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"missing or unknown|expected a tensor of shape"):
        save_model(tmp_path / "model.safetensors", small(), dataclasses.replace(CARD, options={}))


@pytest.mark.parametrize("damage", [
    "no card", "no json", "unknown field", "unknown builder", "tensor gone", "text", "unknown option", "no queries",
    "half a frame", "one label as text", "too few labels",
])  # fmt: skip
def test_files_that_are_no_model_are_refused_by_name(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    save_model(path, small(), CARD)
    tensors, content = load_file(path), dataclasses.asdict(CARD)
    if damage == "text":
        path.write_text("not a model")
    elif damage == "tensor gone":
        del tensors["stem.weight"]
        save_file(tensors, path, metadata={"minirsa": json.dumps(content)})
    elif damage == "no card":
        save_file(tensors, path)
    else:
        content |= {
            "unknown field": {"colour": 1},
            "unknown builder": {"builder": "os.system"},
            "unknown option": {"options": {"foo": 1}},
            "no queries": {"options": {"queries": 0}},
            "half a frame": {"frames": 2.5},
            "one label as text": {"labels": "abc"},
            "too few labels": {"labels": ["a"]},
        }.get(damage, {})
        save_file(tensors, path, metadata={"minirsa": "{" if damage == "no json" else json.dumps(content)})
    with pytest.raises(ValueError, match=r"model\.safetensors is not a model file"):
        load_model(path)


def test_a_saved_file_can_be_read_by_others(tmp_path):
    before = os.umask(0o022)
    try:
        save_model(tmp_path / "model.safetensors", small(), CARD)
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        load_model(tmp_path / "gone.safetensors")


def test_card_reads_a_file_as_the_model_wants_it():
    path = SAMPLES / sample_rows()[0][0]
    plain = CARD.read(path)
    assert plain.shape == (3, 4, 16, 16)
    assert 0 <= plain.min() <= plain.max() <= 1
    cropped = dataclasses.replace(CARD, crop=8, normalize=True).read(path)
    assert cropped.shape == (3, 4, 8, 8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (plain[..., 4:12, 4:12] - mean.view(3, 1, 1, 1)) / std.view(3, 1, 1, 1)
    torch.testing.assert_close(cropped, expected)


def test_shipped_model_is_small_and_says_how_it_was_made():
    assert MOTION_MODEL.stat().st_size < 4e6
    _, card = load_model(MOTION_MODEL)
    assert tuple(card.labels) == LABELS
    assert {"steps", "lr", "seed", "data"} <= set(card.recipe)
    assert {"command", "seeds", "commit", "hardware", "accuracy"} <= set(card.provenance)


def test_shipped_model_names_unseen_clips_forwards_and_backwards():
    model, card = load_model(MOTION_MODEL)
    config = MotionConfig(height=card.height, width=card.width, frames=card.frames)
    clips, labels = MotionSet(120, config, seed=31_337).batch(range(120))
    assert accuracy(model, clips, labels) > 0.9
    assert accuracy(model, clips.flip(2), labels ^ 1) > 0.9


@pytest.mark.parametrize(("clip", "label"), sample_rows())
def test_shipped_model_names_every_sample_and_the_other_of_the_pair_backwards(clip, label):
    model, card = load_model(MOTION_MODEL)
    video = card.read(SAMPLES / clip)
    assert card.labels[int(predict(model, video).argmax())] == label
    assert LABELS.index(label) ^ 1 == int(predict(model, video.flip(1)).argmax())


def test_probabilities_sum_to_one():
    probabilities = predict(small(), torch.rand(3, 4, 16, 16))
    assert probabilities.shape == (3,)
    torch.testing.assert_close(probabilities.sum(), torch.tensor(1.0))
