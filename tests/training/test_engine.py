"""One process trains by a recipe: what it writes, what it refuses, and that it does what the recipe says."""

import json
import math

import numpy as np
import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn

from minirsa.data.datasets import MotionDataset
from minirsa.data.video import write_clip
from minirsa.models.resnet import tsn_resnet50
from minirsa.training import inputs
from minirsa.training.checkpoints import BEST, LAST, load
from minirsa.training.engine import NonFiniteError, build_model, restore_model, train
from minirsa.training.evaluation import evaluate, open_clips, report
from minirsa.training.guards import autocast, only_writer
from minirsa.training.recipes import load_recipe
from minirsa.training.runlog import read_log
from minirsa.training.schedule import learning_rate, parameter_groups

from .conftest import tiny

PLAIN = {"model": "plain", "epochs": 2}


@pytest.fixture
def something_v2(tmp_path):
    """Four clips in the layout of Something-Something V2: labels, lists, VP9 videos."""
    root = tmp_path / "ssv2"
    for folder in ("labels", "20bn-something-something-v2"):
        (root / folder).mkdir(parents=True)
    classes = ["Dropping something", "Moving something down", "Moving something up"]
    dump(root / "labels" / "labels.json", {text: str(number) for number, text in enumerate(classes)})
    rows = [{"id": str(n), "template": classes[n % 3].replace("something", "[something]")} for n in range(4)]
    dump(root / "labels" / "train.json", rows[:3])
    dump(root / "labels" / "validation.json", rows[3:])
    draw = np.random.default_rng(0)
    for row in rows:
        frames = draw.integers(0, 255, (6, 48, 64, 3), dtype=np.uint8)
        write_clip(root / "20bn-something-something-v2" / f"{row['id']}.webm", frames)
    return root


def dump(path, content):
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train(tiny(), folder, device="cpu")


def test_a_run_leaves_its_recipe_its_log_and_its_checkpoints(run):
    folder, result = run
    assert (result.finished, result.epoch, result.exit_code) == (True, 3, 0)
    assert load_recipe(folder / "recipe.toml") == tiny()
    kinds = [row["kind"] for row in read_log(folder)]
    assert kinds == ["recipe", "train", "epoch", "train", "train", "epoch", "train", "epoch"]  # a row each fourth step
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        "best.pt", "good.pt", "last.pt", "log.jsonl", "recipe.toml", "sessions.jsonl",
    ]  # fmt: skip
    assert json.dumps(load(folder / LAST)["recipe"]) == json.dumps(tiny().to_dict())


def test_the_loop_is_sgd_with_nesterov_by_the_recipes_rates(plain, tmp_path):
    """Written once more in ten lines: the same weights after two epochs of six steps."""
    recipe = tiny(**PLAIN, weight_decay=0.01, label_smoothing=0.1, clip_norm=0.5)
    train(recipe, tmp_path, device="cpu")
    torch.manual_seed(recipe.seed)
    model = build_model(recipe)
    clips = MotionDataset(48, inputs.open_data(recipe, None)[0].config, seed=recipe.seed, infinite=True)
    optimizer = torch.optim.SGD(parameter_groups(model, recipe), lr=1.0, momentum=0.9, nesterov=True)
    for epoch in range(2):
        clips.set_epoch(epoch)
        order = inputs.epoch_order(48, recipe.seed, epoch)
        for step, indices in enumerate(order.view(6, 8).tolist()):
            batch = clips.batch(indices)
            loss = F.cross_entropy(model(batch.videos), batch.labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, epoch, step, 6) * group["lr_scale"]
            optimizer.step()
    trained = load(tmp_path / LAST)["model"]
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(trained[name], weight, msg=name)


def test_parts_of_a_batch_are_one_batch(plain, tmp_path):
    for parts in (1, 4):
        train(tiny(**PLAIN, accumulation=parts), tmp_path / str(parts), device="cpu")
    one, four = (load(tmp_path / str(parts) / LAST)["model"] for parts in (1, 4))
    for name in one:
        torch.testing.assert_close(one[name], four[name], atol=1e-6, rtol=1e-5)


def test_validation_is_what_evaluate_finds_of_the_best_checkpoint(run):
    folder, result = run
    model, recipe, classes = restore_model(folder)
    found = report(evaluate(model, recipe, open_clips(recipe), device="cpu"))
    assert found.top1 == pytest.approx(result.best["top1"])
    assert found.class_accuracy == pytest.approx(result.best["class_accuracy"])
    assert classes == MotionDataset.classes
    rows = [row for row in read_log(folder) if row["kind"] == "epoch"]
    assert result.best["top1"] == max(row["validation"]["top1"] for row in rows)
    assert load(folder / BEST)["epoch"] == result.best["epoch"] + 1
    assert not model.training


@pytest.mark.parametrize("values", [{"precision": "bf16"}, {"channels_last": True}, {"stepped_by": "step"}])
def test_other_ways_of_computing_train_too(tmp_path, values):
    result = train(tiny(epochs=2, **values), tmp_path, device="cpu")
    assert result.finished
    assert all(math.isfinite(row["loss"]) for row in read_log(tmp_path) if row["kind"] == "train")


@pytest.mark.slow
def test_a_compiled_net_is_one_graph_and_takes_the_same_steps(tmp_path, monkeypatch):
    """Dynamo and the joint forward and backward graph as on a GPU, without the code a compiler makes of it."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    compile_net = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_net(self, backend="aot_eager"))
    recipe = tiny(epochs=2, epoch_clips=16)
    train(recipe, tmp_path / "eager", device="cpu")
    train(recipe.replace(compile=True), tmp_path / "compiled", device="cpu")
    assert counters["stats"]["unique_graphs"] == 2  # training and evaluation
    assert not counters["graph_break"]
    one, other = (load(tmp_path / name / LAST)["model"] for name in ("eager", "compiled"))
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("precision", "kind"), [("float32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_computed_in_the_recipes_precision(precision, kind):
    square = torch.ones(2, 2)
    with autocast(precision, torch.device("cpu")):
        assert (square @ square).dtype is kind


def test_a_loss_that_is_not_finite_stops_with_step_and_clips_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    recipe = tiny()
    order = inputs.epoch_order(48, recipe.seed, 0)
    draw = MotionDataset.batch

    def poisoned(self, indices, device="cpu"):
        batch = draw(self, indices, device)
        if self.infinite and int(order[4 * 8]) in indices:  # the fifth step of the first epoch
            batch.videos[0] = float("inf")
        return batch

    monkeypatch.setattr(MotionDataset, "batch", poisoned)
    with pytest.raises(NonFiniteError, match=r"epoch 0, step 4: not finite: loss nan.*the run can go on from") as stop:
        train(recipe, tmp_path, device="cpu")
    assert len(stop.value.names) == 8
    assert (stop.value.epoch, stop.value.step) == (0, 4)
    state = load(tmp_path / LAST)
    assert (state["epoch"], state["step"]) == (0, 4)
    assert all(torch.isfinite(weight).all() for weight in state["model"].values())
    monkeypatch.undo()
    assert train(recipe, tmp_path, device="cpu").finished


def test_a_second_run_into_a_folder_in_use_is_refused(tmp_path):
    with only_writer(tmp_path), pytest.raises(BlockingIOError, match="another process trains into"):
        train(tiny(), tmp_path, device="cpu")


def test_resume_says_whether_a_checkpoint_must_be_there(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint to go on from"):
        train(tiny(), tmp_path, device="cpu", resume="must")
    with pytest.raises(ValueError, match="expected a folder without a run"):
        train(tiny(), run[0], device="cpu", resume="never")
    with pytest.raises(ValueError, match="resume: expected one of auto, never, must"):
        train(tiny(), tmp_path, resume="yes")


def test_a_data_set_that_has_changed_is_refused(tmp_path):
    train(tiny(epochs=2), tmp_path, device="cpu")
    state = load(tmp_path / LAST)
    torch.save({**state, "clips": 47}, tmp_path / LAST)
    with pytest.raises(ValueError, match="expected the 47 clips of 12 classes that the run began with, got 48"):
        train(tiny(epochs=2), tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "rsanet_smal"}, "did you mean 'rsanet_small'"),
        ({"model_options": {"widths": [4, 8, 8], "colour": 1}}, "model_options: rsanet_small does not take"),
        ({"batch_size": 64, "base_batch": 64}, "batch_size: expected at most the 48 clips of motion, got 64"),
        ({"data_options": {"colour": 1}}, "data_options: expected options of MotionConfig"),
        ({"classes": 11}, "classes: expected 12, as motion has, got 11"),
        ({"initialisation": "imagenet"}, "give the file of torchvision's ResNet-50"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, values, message):
    with pytest.raises((ValueError, TypeError), match=message):
        train(tiny(**values), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / LAST).exists()


def test_imagenet_weights_are_loaded_and_named_in_the_log(tmp_path):
    """A file in torchvision's layout; a net without RSA holds its weights before the first step."""
    pytest.importorskip("torchvision")
    from torchvision.models import resnet50

    torch.manual_seed(3)
    theirs = resnet50().state_dict()
    torch.save(theirs, tmp_path / "resnet50.pth")
    recipe = tiny(
        model="tsn_resnet50", model_options={}, initialisation="imagenet", size=32, frames=2, epochs=1, warmup_epochs=0,
        epoch_clips=12, validation_clips=12, batch_size=4, lr=1e-12, save_every=0, weight_decay=0.0,
    )  # fmt: skip
    train(recipe, tmp_path / "run", device="cpu", pretrained=tmp_path / "resnet50.pth")
    kept = load(tmp_path / "run" / LAST)["model"]
    first = next(name for name in kept if kept[name].ndim == 5)
    torch.testing.assert_close(kept[first][:, :, 0], theirs["conv1.weight"])
    row = read_log(tmp_path / "run")[0]
    assert row["pretrained"]["file"] == "resnet50.pth"
    assert len(row["pretrained"]["sha256"]) == 64
    with pytest.raises(ValueError, match='expected "imagenet" to use'):
        train(tiny(), tmp_path / "other", device="cpu", pretrained=tmp_path / "resnet50.pth")


def test_the_published_recipe_trains_on_a_folder_in_something_somethings_layout(tmp_path, something_v2):
    """RSANet-R50 itself, on small frames, trained, restored and tested."""
    values = [
        "classes=3", "size=32", "resize=[36, 48]", "frames=2", "epochs=1", "warmup_epochs=0", "batch_size=2",
        "base_batch=2", "workers=0", "initialisation=scratch", "log_every=1",
    ]  # fmt: skip
    recipe = load_recipe("ssv2-8f", values)
    result = train(recipe, tmp_path / "run", data_root=something_v2, device="cpu")
    assert result.finished
    assert result.last["clips"] == 1
    (row,) = [row for row in read_log(tmp_path / "run") if row["kind"] == "epoch"]
    assert row["clips"] == 2
    model, restored, classes = restore_model(tmp_path / "run")
    assert type(model).__name__ == "RSANet"
    assert restored == recipe
    scores = evaluate(model, recipe, open_clips(recipe, something_v2, clips=2), device="cpu")
    assert scores.protocol == "2 frames x 2 clips x 1 crop"
    assert scores.data == "something-v2 validation"
    assert len(classes) == 3


def test_tsn_is_a_rival_by_one_word():
    recipe = load_recipe("motion-full", ["model=tsn_resnet50"])
    with torch.device("meta"):
        model = build_model(recipe)
        assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in tsn_resnet50(12, 8).parameters())
