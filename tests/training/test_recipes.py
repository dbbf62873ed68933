"""Recipes: the published numbers, presets, TOML files, overrides, and errors that name the field."""

import dataclasses
import tomllib

import pytest

from minirsa import published
from minirsa.data.datasets import READERS, evaluation_split
from minirsa.data.layout import PUBLISHED
from minirsa.data.motion import LABELS
from minirsa.training.engine import build_model
from minirsa.training.recipes import FREE, PRESETS, TrainingRecipe, differences, load_recipe
from minirsa.training.schedule import published_run

TINY = {"model": "rsanet_small", "initialisation": "scratch", "data": "motion", "classes": 12}
TINY |= {"epoch_clips": 48, "validation_clips": 24, "epochs": 2, "warmup_epochs": 1}


def test_something_presets_are_the_recipe_of_the_published_logs():
    """The facts of the release: SGD-Nesterov 0.9, lr 0.02 for 64 clips, decay 5e-4, clip 100, smoothing 0.1, ..."""
    for name in ("ssv1-8f", "ssv1-16f", "ssv2-8f", "ssv2-16f"):
        recipe = PRESETS[name]
        assert (recipe.model, recipe.model_options, recipe.initialisation) == ("rsanet_r50", {}, "imagenet")
        assert (recipe.lr, recipe.batch_size, recipe.base_batch, recipe.peak_lr) == (0.02, 64, 64, 0.02)
        assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, True, 5e-4)
        assert (recipe.clip_norm, recipe.label_smoothing, recipe.stochastic_depth) == (100.0, 0.1, 0.2)
        assert (recipe.epochs, recipe.warmup_epochs, recipe.final_lr_fraction) == (80, 5, 1e-3)
        assert (recipe.stepped_by, recipe.precision, recipe.accumulation) == ("epoch", "float32", 1)
        assert (recipe.size, recipe.resize, recipe.flip, recipe.classes) == (224, (240, 320), "skip", 174)
        assert recipe.frames == int(name.split("-")[1].removesuffix("f"))
        assert recipe.data == {"ssv1": "something-v1", "ssv2": "something-v2"}[name.split("-")[0]]
    assert {PRESETS[f"ssv1-{frames}f"].dropout for frames in (8, 16)} == {0.5}
    assert {PRESETS[f"ssv2-{frames}f"].dropout for frames in (8, 16)} == {0.3}


@pytest.mark.parametrize("name", ["ssv1-16f", "ssv2-16f"])
def test_validation_comes_after_the_epochs_that_the_published_log_validated(name):
    recipe = PRESETS[name]
    assert [recipe.validates(row.epoch) for row in published_run(name)] == [
        row.val_top1 is not None for row in published_run(name)
    ]


def test_presets_have_the_classes_of_their_data_sets():
    for recipe in PRESETS.values():
        if recipe.data == "motion":
            assert recipe.classes == len(LABELS)
        else:
            assert recipe.classes == published.DATASETS.find(name=PUBLISHED[recipe.data]).classes
            assert recipe.data in READERS
            assert evaluation_split(recipe.data) != "train"
    assert PRESETS["diving48"].test_clips == published.SOTA_DIVING.find(model="RSANet-R50").clips == 2
    assert {PRESETS[name].best_by for name in ("gym99", "gym288")} == {"class_accuracy"}


def test_stochastic_depth_and_dropout_reach_the_net():
    small = PRESETS["motion-ci"].replace(stochastic_depth=0.2, dropout=0.4)
    model = build_model(small)
    assert [block.drop.keep for block in model.bottlenecks().values()] == pytest.approx([1.0, 0.95, 0.9, 0.85, 0.8])
    assert model.dropout.p == 0.4
    assert model.classifier.out_features == 12


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_survives_toml_and_plain_values(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe == PRESETS[name]
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml())
    assert load_recipe(path) == recipe
    assert TrainingRecipe.from_dict(recipe.to_dict()) == recipe
    assert tomllib.loads(recipe.to_toml()) == recipe.to_dict()


def test_a_toml_file_can_say_only_what_differs_from_a_preset(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('preset = "ssv2-8f"\nlr = 0.01\n\n[model_options]\nkernel_size = [3, 7, 7]\n')
    recipe = load_recipe(path, ["epochs=40"])
    changed = {"lr": 0.01, "epochs": 40, "model_options": {"kernel_size": (3, 7, 7)}}
    assert vars(recipe) == vars(PRESETS["ssv2-8f"]) | changed


def test_overrides_are_typed_by_their_field_and_the_last_one_wins():
    given = ["precision=bf16", "lr=1e-2", "lr=.5", "nesterov=false", "resize=[256]", "warmup_epochs=2"]
    recipe = load_recipe("ssv1-8f", [*given, "model_options.kernel_size=[3, 5, 5]", "model_options.context='V'"])
    assert (recipe.precision, recipe.lr, recipe.nesterov, recipe.resize, recipe.warmup_epochs) == (
        "bf16",
        0.5,
        False,
        (256,),
        2,
    )
    assert recipe.model_options == {"kernel_size": (3, 5, 5), "context": "V"}
    assert PRESETS["ssv1-8f"].model_options == {}
    assert load_recipe("motion-colab", ["data_options.noise=0.1"]).data_options == {
        **PRESETS["motion-colab"].data_options,
        "noise": 0.1,
    }


def test_the_rate_follows_the_batch():
    assert PRESETS["ssv1-8f"].replace(batch_size=256).peak_lr == 0.08
    assert PRESETS["ssv1-8f"].replace(batch_size=16).peak_lr == 0.005


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learning_rate=1"], "no field of a recipe is called 'learning_rate'"),
        (["weigth_decay=0"], "did you mean 'weight_decay'"),
        (["epochs"], 'expected an override "key=value"'),
        (["epochs=many"], "epochs: expected a whole number, got 'many'"),
        (["epochs=1.5"], "epochs: expected a whole number, got 1.5"),
        (["epochs=true"], "epochs: expected a whole number, got True"),
        (["lr=quick"], "lr: expected a number, got 'quick'"),
        (["lr=0"], "lr: expected a number above 0, got 0.0"),
        (["lr=nan"], "lr: expected a number above 0, got nan"),
        (["clip_norm=inf"], "clip_norm: expected a number of at least 0"),
        (["dropout=1"], r"dropout: expected a number in \[0, 1\)"),
        (["precision=fp64"], "precision: expected one of 'float32', 'bf16', 'fp16', got 'fp64'"),
        (["flip=left"], "flip: expected one of"),
        (["resize=[1, 2, 3]"], "resize: expected"),
        (["resize=256"], "resize: expected a list of whole numbers, got 256"),
        (["resize=[]"], "resize: expected a list of whole numbers"),
        (["nesterov=1"], "nesterov: expected true or false, got 1"),
        (["model_options=3"], "model_options: expected a table"),
        (["lr.low=3"], "lr: expected lr=value"),
        (["accumulation=3"], "batch_size: expected a multiple of accumulation=3, got 64"),
        (["warmup_epochs=80"], "warmup_epochs: expected fewer than epochs=80"),
        (["momentum=0"], "momentum: expected more than 0"),
        (["epoch_clips=5"], "epoch_clips: expected 0 for something-v1"),
        (["data=motion"], "epoch_clips: expected at least 1 for the motion set"),
        (["seed=-1"], "seed: expected at least 0"),
        (["test_clips=3"], "test_clips: expected 1 or 2"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(overrides, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("ssv1-16f", overrides)


def test_unknown_presets_and_files_are_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'ssv2-16f'"):
        load_recipe("ssv2-16")
    with pytest.raises(FileNotFoundError, match="no recipe at"):
        load_recipe(tmp_path / "none.toml")
    path = tmp_path / "broken.toml"
    for text, message in [
        ("lr = ", "broken.toml is not TOML"),
        ("lrr = 1", r"broken.toml: no field of a recipe is called 'lrr': did you mean 'lr'"),
        ('preset = "ssv"', "no preset is called 'ssv'"),
        ("epochs = 0", "broken.toml: epochs: expected at least 1, got 0"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_recipe(path)


def test_differences_are_found_in_every_field_but_the_free_ones():
    recipe = TrainingRecipe.from_dict(TINY)
    others = {str: "other", int: 3, float: 0.25, bool: True}
    for entry in dataclasses.fields(TrainingRecipe):
        value = getattr(recipe, entry.name)
        other = {"changed": 1} if isinstance(value, dict) else others.get(type(value), [7])
        other = (not value) if isinstance(value, bool) else other
        changed = recipe.to_dict() | {entry.name: other}
        assert differences(recipe.to_dict(), changed) == ([] if entry.name in FREE else [entry.name])
    assert differences(recipe.to_dict(), recipe.to_dict() | {"added_later": 1}) == ["added_later"]
    assert differences({k: v for k, v in recipe.to_dict().items() if k != "lr"}, recipe.to_dict()) == ["lr"]


def test_a_recipe_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainingRecipe.from_dict(TINY).lr = 1.0
