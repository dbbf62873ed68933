"""The regulariser benchmark: what each setting does to clips, labels and net, and that its results are whole."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from benchmarks import regularisers
from benchmarks.provenance import ROOT
from minirsa.models.vivit import ViViT
from minirsa.training import Recipe
from minirsa.training.video import small_net

RESULTS = ROOT / "benchmarks" / "results" / "regularisers.json"


def clips(count=4):
    return torch.rand(count, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["regularisers.py", *map(str, arguments)])
    threads = torch.get_num_threads()
    try:
        regularisers.main()
    finally:
        torch.set_num_threads(threads)


def test_the_net_is_the_small_model_2():
    ours = ViViT(num_classes=12, num_frames=8, image_size=32, **regularisers.NET)
    theirs = small_net("ViViT 2")
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}


def test_every_clip_comes_once_a_pass_in_an_order_of_its_own():
    data, labels = clips(6), torch.arange(6)
    got = [y.tolist() for _, y in regularisers.finite_batches(Recipe(steps=4, batch_size=3, seed=1), data, labels)]
    passes = got[0] + got[1], got[2] + got[3]
    assert [sorted(p) for p in passes] == [list(range(6))] * 2
    assert passes[0] != passes[1]
    again = [y.tolist() for _, y in regularisers.finite_batches(Recipe(steps=4, batch_size=3, seed=1), data, labels)]
    assert again == got


def test_augmented_clips_stay_in_range_differ_and_keep_their_motion():
    still = clips()[:, :, :1].expand(-1, -1, 4, -1, -1)
    for seed in range(6):
        out = regularisers.random_augment(still, 2, torch.Generator().manual_seed(seed))
        assert out.shape == still.shape
        assert 0 <= out.min() <= out.max() <= 1
        assert not torch.equal(out, still)
        assert (out == out[:, :, :1]).all(), "one draw holds for all frames of a clip"
        backwards = regularisers.random_augment(clips().flip(2), 2, torch.Generator().manual_seed(seed))
        forwards = regularisers.random_augment(clips(), 2, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(backwards.flip(2), forwards)


def test_no_operations_change_nothing():
    assert torch.equal(regularisers.random_augment(clips(), 0, torch.Generator()), clips())


@pytest.mark.parametrize("name", regularisers.SETTINGS)
def test_only_what_a_setting_names_is_changed(name):
    setting = regularisers.SETTINGS[name]
    data, labels = clips() * 4 - 2, torch.arange(4)
    ((out, mixture),) = regularisers.regularised([(data, labels)], setting, seed=0)
    assert torch.equal(out, data) == (not setting.augment and not setting.mixup)
    assert (mixture.share == 1.0) == (not setting.mixup)
    assert mixture.second.tolist() == [3, 2, 1, 0]


def test_mixed_clips_and_labels_have_the_same_share():
    data, labels = clips(), torch.arange(4)
    setting = regularisers.Setting(mixup=0.3)
    ((out, mixture),) = regularisers.regularised([(data, labels)], setting, seed=2)
    torch.testing.assert_close(out, mixture.share * data + (1 - mixture.share) * data.flip(0))
    scores = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    target = mixture.share * F.one_hot(labels, 12) + (1 - mixture.share) * F.one_hot(labels.flip(0), 12)
    loss = mixture.mean(lambda y: F.cross_entropy(scores, y))
    torch.testing.assert_close(loss, F.cross_entropy(scores, target))


def test_each_setting_alone_and_all_of_them():
    plain = dataclasses.asdict(regularisers.Setting())
    changed = {
        name: {key for key, value in dataclasses.asdict(setting).items() if value != plain[key]}
        for name, setting in regularisers.SETTINGS.items()
    }
    assert changed["none"] == set()
    assert all(len(changed[name]) == 1 for name in changed if name not in ("none", "all four"))
    assert changed["all four"] == set(plain)


def test_runs_are_kept_and_other_settings_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(regularisers, "TEST_CLIPS", 12)
    monkeypatch.setattr(regularisers, "TRAINING_CLIPS", 12)
    short = Recipe(steps=2, batch_size=6)
    monkeypatch.setattr(regularisers, "RECIPE", short)
    trained = []

    def quick(name, seed):
        trained.append((name, seed))
        return original(name, seed, short, 12)

    original = regularisers.train_and_test
    monkeypatch.setattr(regularisers, "train_and_test", quick)
    output = tmp_path / "results.json"
    run(monkeypatch, "--seeds", 0, "--only", "mixup", "--output", output)
    run(monkeypatch, "--seeds", 0, "--only", "none", "mixup", "--output", output)
    assert trained == [("mixup", 0), ("none", 0)]
    record = json.loads(output.read_text())
    assert [row["setting"] for row in record["runs"]] == ["none", "mixup"]
    assert record["provenance"]["command"].endswith(str(output))
    monkeypatch.setattr(regularisers, "TRAINING_CLIPS", 24)
    with pytest.raises(SystemExit):
        run(monkeypatch, "--output", output)
    assert "other settings" in capsys.readouterr().err


def test_committed_results_are_whole():
    record = json.loads(RESULTS.read_text())
    settings = {name: dataclasses.asdict(setting) for name, setting in regularisers.SETTINGS.items()}
    assert record["settings"]["values"] == settings
    assert record["settings"]["clips"] == regularisers.TRAINING_CLIPS
    assert record["settings"]["recipe"] == dataclasses.asdict(regularisers.RECIPE)
    runs = {(row["setting"], row["seed"]) for row in record["runs"]}
    seeds = {seed for _, seed in runs}
    assert len(seeds) >= 2
    assert runs == {(name, seed) for name in regularisers.SETTINGS for seed in seeds}
    assert len(record["runs"]) == len(runs)
