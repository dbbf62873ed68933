"""What `benchmarks/image_data.py` trains and counts is what it says, and its stored results are complete."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from benchmarks import image_data as benchmark
from minirsa.data.shapes import ShapeSet
from minirsa.models.vit import VisionTransformer
from minirsa.training.images import normalize_images, shape_images

RESULTS = Path(benchmark.__file__).parent / "results" / "image_data.json"
WEIGHTS = Path(benchmark.__file__).parent.parent / "book" / "figures" / "vit_shapes.safetensors"
SCORES = {"training", "top-1", "names the shape", "names the texture", "shape bias"}


def test_both_nets_have_about_as_many_parameters():
    counts = [sum(p.numel() for p in benchmark.build(net, 0).parameters()) for net in benchmark.NETS]
    assert max(counts) / min(counts) < 1.25


def test_the_seed_decides_the_weights():
    first, again, other = (benchmark.build("vit", seed).patch_embedding.weight for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.fixture
def quick(monkeypatch):
    """Three steps of four images, and few test images."""
    recipes = {net: {**recipe, "steps": 3, "batch_size": 4} for net, recipe in benchmark.SETTINGS["recipes"].items()}
    monkeypatch.setattr(benchmark, "SETTINGS", benchmark.SETTINGS | {"recipes": recipes, "test images": 64})


@pytest.mark.parametrize("net", benchmark.NETS)
@pytest.mark.parametrize("cues", ["agree", "independent"])
def test_a_run_trains_on_so_many_images_of_its_own_seed(quick, monkeypatch, net, cues):
    seen = []

    def record(recipe, images, labels):
        seen.append((recipe, images, labels))
        yield from [(images[:4], labels[:4])] * recipe.steps

    monkeypatch.setattr(benchmark, "shape_batches", record)
    row = benchmark.run(net, cues, 16, 2)
    ((recipe, images, labels),) = seen
    expected = ShapeSet(16, seed=benchmark.TRAINING_SEED + 2, cues=cues).batch(range(16))
    torch.testing.assert_close(images, normalize_images(expected.images))
    assert torch.equal(labels, expected.shapes)
    assert (recipe.seed, recipe.steps) == (2, 3)
    assert recipe.lr == benchmark.SETTINGS["recipes"][net]["lr"]
    assert set(row) == {"net", "cues", "images", "seed", "last loss"} | SCORES
    assert all(0 <= row[score] <= 1 for score in SCORES - {"shape bias"})


class Follower(nn.Module):
    """Names the texture of every conflict image, whatever it has learned."""

    def __init__(self, textures):
        super().__init__()
        self.weight, self.textures = nn.Parameter(torch.zeros(2, 2)), textures

    def forward(self, images):
        logits = self.weight.sum() + torch.zeros(len(images), 8)
        return logits if self.training else logits + nn.functional.one_hot(self.textures[: len(images)], 8)


def test_a_net_that_goes_by_texture_has_no_shape_bias(quick, monkeypatch):
    conflict = shape_images(64, seed=benchmark.TEST_SEED, cues="conflict")
    monkeypatch.setattr(benchmark, "build", lambda net, seed: Follower(conflict.textures))
    monkeypatch.setattr(benchmark, "predict_scores", lambda model, images: model.eval()(images))
    row = benchmark.run("vit", "agree", 8, 0)
    assert (row["names the shape"], row["names the texture"], row["shape bias"]) == (0.0, 1.0, 0.0)


def test_runs_are_every_net_number_and_seed():
    runs = list(benchmark.runs([0, 1]))
    assert len(runs) == 2 * 2 * sum(map(len, benchmark.SETTINGS["images"].values()))
    assert len({json.dumps(run) for run in runs}) == len(runs)
    assert {run["cues"] for run in runs} == {"agree", "independent"}


def test_stored_results_hold_every_run_with_todays_settings():
    record = json.loads(RESULTS.read_text())
    assert record["settings"] == json.loads(json.dumps(benchmark.SETTINGS))
    assert {"command", "commit", "hardware", "versions", "date"} <= set(record["provenance"])
    expected = list(benchmark.runs([0, 1, 2]))
    for arguments in expected:
        assert sum(arguments.items() <= row.items() for row in record["runs"]) == 1, arguments
    assert len(record["runs"]) == len(expected)


def test_stored_weights_are_of_the_pictured_vit_and_say_how_they_were_made():
    with safe_open(WEIGHTS, "pt") as opened:
        note = json.loads(opened.metadata()["minirsa"])
    for key, value in {"net": benchmark.SETTINGS["vit"], **benchmark.PICTURED}.items():
        assert note[key] == json.loads(json.dumps(value)), key
    assert {"command", "commit", "hardware", "versions", "date"} <= set(note["provenance"])
    model = VisionTransformer(num_classes=8, **note["net"])
    model.load_state_dict(load_file(WEIGHTS))
    assert WEIGHTS.stat().st_size < 1_000_000


def test_weights_are_written_with_their_note(quick, monkeypatch, tmp_path):
    small = {
        "recipe": {"steps": 2, "batch_size": 4},
        "images": {"cues": "independent", "length": 8, "seed": 200},
    }
    monkeypatch.setattr(benchmark, "PICTURED", benchmark.PICTURED | small)
    benchmark.store_weights(tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", "pt") as opened:
        note = json.loads(opened.metadata()["minirsa"])
    assert note["images"] == small["images"]
    assert 0 <= note["top-1"] <= 1
    model = VisionTransformer(num_classes=8, **note["net"])
    model.load_state_dict(load_file(tmp_path / "net.safetensors"))
