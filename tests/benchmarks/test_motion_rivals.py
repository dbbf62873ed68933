"""The comparison of rivals: one recipe for all, one process each, stops in time, goes on, and keeps what is done."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import motion_rivals as rivals
from minirsa.layers.relational import RelationalSelfAttention
from minirsa.training.engine import build_model
from minirsa.training.recipes import PRESETS, load_recipe

RESULTS = Path(rivals.ROOT) / "benchmarks" / "results"
TINY = ["epochs=2", "epoch_clips=48", "validation_clips=24", "size=12", "frames=4", "batch_size=8", "log_every=1"]
TINY += ["model_options.widths=[4, 8, 8]", "validate_every=1"]


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Runs the command on tiny nets; the exit code and what the result file holds come back."""

    def run(*arguments):
        output = tmp_path / "results.json"
        settings = [word for value in TINY for word in ("--set", value)]
        fixed = ["--recipe", "motion-ci", *settings, "--runs", tmp_path / "runs", "--output", output]
        words = [*fixed, "--test-clips", 24, "--device", "cpu", *arguments]
        monkeypatch.setattr(sys, "argv", ["motion_rivals", *map(str, words)])
        threads = torch.get_num_threads()
        try:
            code = rivals.main()
        finally:
            torch.set_num_threads(threads)
        return code, json.loads(output.read_text()) if output.exists() else None

    return run


@pytest.mark.slow
def test_a_run_stops_in_time_goes_on_and_is_not_repeated(call, tmp_path, capfd):
    code, record = call("--only", "rsa", "--minutes", 1e-6)
    assert (code, record) == (0, None)
    assert "call again" in capfd.readouterr().out
    code, record = call("--only", "rsa")
    assert code == 0
    (row,) = record["runs"]
    assert (row["net"], row["seed"], row["starts"], row["threads"]) == ("rsa", 0, 2, 1)
    assert [entry["epoch"] for entry in row["epochs"]] == [0, 1]
    assert [step for step, _ in row["losses"]] == list(range(1, 13))
    assert all(entry["validation"]["clips"] == 24 for entry in row["epochs"])
    assert row["params"] == sum(p.numel() for p in build_model(rivals.rival(_tiny(), "rsa", 0)).parameters())
    assert row["peak memory MiB"] > 0
    assert row["clips/s"]["lowest"] <= row["clips/s"]["median"] <= row["clips/s"]["highest"]
    scores = row["test"]
    assert set(scores["shifted"]) == {"fine", "finer", "low_contrast", "grey", "flicker"}
    assert all(0 <= value <= 1 for value in [*scores["shifted"].values(), scores["top1"], scores["reversed"]])
    assert scores["pair"] >= scores["top1"]
    assert (record["test"], "seed" in record["recipe"]) == ({"clips": 24, "seed": 1000}, False)
    assert "--runs" not in record["provenance"]["command"]
    assert (tmp_path / "runs" / ".gitignore").read_text() == "*\n"
    before = (tmp_path / "runs" / "motion-ci-rsa-0" / "last.pt").read_bytes()
    code, record = call("--only", "rsa", "conv2d")
    assert code == 0
    assert [row["net"] for row in record["runs"]] == ["rsa", "conv2d"]
    assert record["runs"][0] == row
    assert (tmp_path / "runs" / "motion-ci-rsa-0" / "last.pt").read_bytes() == before
    frames = record["runs"][1]["test"]
    assert (frames["shuffled"], frames["unmoved"]) == (frames["top1"], 1.0)  # it is blind to order


@pytest.mark.slow
def test_an_error_of_the_training_is_this_commands_error(call, tmp_path, capfd):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "motion-ci-rsa-0").write_text("in the way")
    code, record = call("--only", "rsa")
    assert code == 1
    assert record is None
    assert "motion-ci-rsa-0" in capfd.readouterr().err


def _tiny():
    return load_recipe("motion-ci", TINY)


def test_rivals_differ_in_the_transform_and_in_nothing_else():
    for preset in ("motion-ci", "motion-colab", "motion-full"):
        base = PRESETS[preset]
        recipes = {name: rivals.rival(base, name, 3) for name in rivals.NETS}
        for recipe in recipes.values():
            same = {"model", "model_options", "seed"}
            assert {k: v for k, v in vars(recipe).items() if k not in same} == {
                k: v for k, v in vars(base).items() if k not in same
            }
            assert recipe.seed == 3
        with torch.device("meta"):
            nets = {name: build_model(recipe) for name, recipe in recipes.items()}
        layers = list(nets["rsa"].replaced())
        assert layers
        assert all(isinstance(layer, RelationalSelfAttention) for layer in nets["rsa"].replaced().values())
        assert list(nets["conv3d"].replaced()) == layers
        assert {layer.kernel_size for layer in nets["conv3d"].replaced().values()} == {(3, 3, 3)}
        assert not nets["conv2d"].replaced()
        assert recipes["rsa"].model_options.get("widths") == base.model_options.get("widths")


def test_a_recipe_without_rivals_or_runs_of_another_one_are_refused(call, tmp_path, capsys):
    with pytest.raises(ValueError, match="expected a recipe of the motion set"):
        rivals.rival(PRESETS["ssv1-8f"], "rsa", 0)
    (tmp_path / "results.json").write_text(json.dumps({"recipe": {"lr": 3}, "test": {"clips": 24}, "runs": []}))
    with pytest.raises(SystemExit):
        call()
    assert "runs of another recipe" in capsys.readouterr().err


def test_a_folder_of_another_recipe_is_refused_before_anything_is_trained(tmp_path):
    assert not rivals.finished(tmp_path, _tiny())
    torch.save({"format": 1, "recipe": _tiny().to_dict(), "epoch": 2}, tmp_path / "last.pt")
    assert rivals.finished(tmp_path, _tiny())
    assert rivals.finished(tmp_path, _tiny().replace(log_every=7))  # the log's business
    with pytest.raises(ValueError, match=r"lr is 0\.1 there and 0\.2 here"):
        rivals.finished(tmp_path, _tiny().replace(lr=0.2))


@pytest.mark.parametrize(("size", "preset"), [("ci", "motion-ci"), ("colab", "motion-colab")])
def test_the_committed_results_are_whole(size, preset):
    """Every net with every seed, each to its last epoch, and by a recipe that the preset still is but for `--set`."""
    record = json.loads((RESULTS / f"motion_rivals_{size}.json").read_text())
    assert [(row["net"], row["seed"]) for row in record["runs"]] == [(n, s) for s in (0, 1, 2) for n in rivals.NETS]
    for row in record["runs"]:
        assert [epoch["epoch"] for epoch in row["epochs"]] == list(range(record["recipe"]["epochs"]))
        assert row["epochs"][-1]["validation"]["clips"] == record["recipe"]["validation_clips"]
    command = record["provenance"]["command"]
    assert command.startswith(f"python -m benchmarks.motion_rivals --recipe {preset} ")
    words = command.split()
    settings = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    expected = load_recipe(preset, settings).to_dict()
    assert {key: value for key, value in expected.items() if key != "seed"} == record["recipe"]
    assert (record["preset"], record["test"]["seed"]) == (preset, rivals.TEST_SEED)


def test_results_are_named_by_the_recipe(monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(rivals, "_earlier_runs", lambda output, recipe, clips: written.append(output) or [])
    monkeypatch.setattr(rivals, "finished", lambda folder, recipe: True)
    monkeypatch.setattr(rivals, "report", lambda *arguments: {"net": arguments[0], "seed": arguments[1]})
    monkeypatch.setattr(rivals, "score_net", lambda *arguments: {})
    monkeypatch.setattr(rivals, "_write", lambda options, recipe, runs: written.append(options.output))
    threads = torch.get_num_threads()
    monkeypatch.setattr(
        sys, "argv", ["motion_rivals", "--recipe", "motion-full", "--only", "rsa", "--runs", str(tmp_path)]
    )
    try:
        assert rivals.main() == 0
    finally:
        torch.set_num_threads(threads)
    assert written == [RESULTS / "motion_rivals_full.json"] * 2
