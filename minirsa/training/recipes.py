"""Recipes: every number that a training run depends on, as one frozen dataclass of plain values.

    preset or TOML file + "key=value" overrides -> TrainingRecipe -> `minirsa.training.engine.train`

A recipe is written into every checkpoint and log, so that a run can be made again, and a checkpoint refuses to go on
under another one. Kim et al. 2021 (arXiv 2111.01673) and the training logs of their public release (KimManjin/RSA).
Book: chapter 16, The recipe line by line.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

PRECISIONS = ("float32", "bf16", "fp16")
FLIPS = ("off", "skip", "swap")
INITIALISATIONS = ("scratch", "imagenet")
SCORES = ("top1", "class_accuracy")
FREE = frozenset({"workers", "log_every", "save_every", "compile", "accumulation", "test_clips", "test_crops"})
"""Fields that may change when a run goes on: they fit it to a machine, or belong to the log and the test. Accumulation
is among them for a run that moves from eight GPUs to four: with 2, every batch norm has as many clips as before."""


@dataclass(frozen=True)
class TrainingRecipe:
    """One training run in plain Python. The defaults are the 16-frame Something-Something V1 run of the release's log.

    The net:

    model, model_options: a name of `minirsa.models.checkpoint.BUILDERS` and keyword arguments for it.
    initialisation: "imagenet" (torchvision's ResNet-50 where shapes allow, `engine.train` is given the file) or
        "scratch".
    classes, frames, size: what it tells apart, and the clip that it reads: 3 x frames x size x size.
    dropout: before the classifier.
    stochastic_depth: probability of leaving the last block's branch out; from 0 at the first block it grows linearly.

    The data:

    data: a name of `minirsa.data.datasets.READERS`, or "motion" for the synthetic motion set.
    data_options: for "motion" the options of `MotionConfig`, without size and frames.
    epoch_clips, validation_clips: for "motion", which has no end, clips an epoch and clips to validate on; else 0.
    resize: frames before cropping: (height, width) exactly, or (short side,).
    flip: mirroring in training: "off", "skip" (not where the label says left or right) or "swap" (and swap the label).

    The optimisation:

    epochs, batch_size: passes over the data, and clips for one step of the optimiser: over all processes, and over all
        parts that `accumulation` cuts it into.
    lr, base_batch: highest learning rate for a batch of `base_batch` clips; for `batch_size`, in proportion.
    warmup_epochs, stepped_by, final_lr_fraction: see `minirsa.training.schedule`.
    momentum, nesterov, weight_decay: of SGD; norms and biases do not decay.
    label_smoothing: share of the target spread evenly over all classes.
    clip_norm: largest norm of the whole gradient; 0 clips nothing.
    accumulation: parts of a batch that go through the net one after another, for less memory.
    seed: of weights, order, augmentation and dropout.

    The machine and the log:

    precision: "float32", or autocast to "bf16" or "fp16" (the latter with a GradScaler).
    channels_last: channels last in memory. compile: torch.compile, whose dropout draws other random numbers.
    sync_batch_norm: statistics over all processes.
    workers: processes that read clips, each process of the run; for "motion", 1 or more draws ahead in a thread.
    validate_every, validate_last: validation after every so many epochs, and after each of so many last ones.
    best_by: which score of a validation says what is best: "top1", or "class_accuracy" (the mean over classes).
    save_every, log_every: steps between checkpoints (0: only at the end of epochs) and between rows of the log.

    The test:

    test_clips, test_crops: views that `minirsa evaluate` averages: clips in time, crops in space.

    Raises ValueError for a value of another type or outside its range: field, what was expected, what came.
    """

    model: str = "rsanet_r50"
    model_options: dict[str, object] = field(default_factory=dict)
    initialisation: str = "imagenet"
    classes: int = 174
    frames: int = 16
    size: int = 224
    dropout: float = 0.5
    stochastic_depth: float = 0.2

    data: str = "something-v1"
    data_options: dict[str, object] = field(default_factory=dict)
    epoch_clips: int = 0
    validation_clips: int = 0
    resize: tuple[int, ...] = (240, 320)
    flip: str = "skip"

    epochs: int = 80
    batch_size: int = 64
    lr: float = 0.02
    base_batch: int = 64
    warmup_epochs: int = 5
    stepped_by: str = "epoch"
    final_lr_fraction: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    clip_norm: float = 100.0
    accumulation: int = 1
    seed: int = 0

    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    sync_batch_norm: bool = False
    workers: int = 8
    validate_every: int = 1
    validate_last: int = 10
    best_by: str = "top1"
    save_every: int = 500
    log_every: int = 20

    test_clips: int = 1
    test_crops: int = 1

    def __post_init__(self):
        for name, value in vars(self).items():
            object.__setattr__(self, name, _convert(name, value))
        for name, (fits, wanted) in _RANGES.items():
            if not fits(getattr(self, name)):
                raise ValueError(f"{name}: expected {wanted}, got {getattr(self, name)!r}")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size: expected a multiple of accumulation={self.accumulation}, got {self.batch_size}"
            )
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs: expected fewer than epochs={self.epochs}, got {self.warmup_epochs}")
        if self.nesterov and not self.momentum:
            raise ValueError("momentum: expected more than 0 with nesterov=true, got 0.0")
        endless = self.data == "motion"
        for name in ("epoch_clips", "validation_clips"):
            if endless != bool(getattr(self, name)):
                wanted = "at least 1 for the motion set" if endless else f"0 for {self.data}, which has its own number"
                raise ValueError(f"{name}: expected {wanted}, got {getattr(self, name)}")

    @property
    def peak_lr(self) -> float:
        """The highest learning rate: `lr` in proportion to the batch (Goyal et al. 2017, arXiv 1706.02677)."""
        return self.lr * self.batch_size / self.base_batch

    def validates(self, epoch: int) -> bool:
        """Whether validation follows epoch 0, 1, ... epochs - 1; it always follows the last."""
        left = self.epochs - epoch - 1
        return (epoch + 1) % self.validate_every == 0 or left < max(self.validate_last, 1)

    def replace(self, **values: object) -> TrainingRecipe:
        """The recipe with other values. Raises ValueError as `from_dict`."""
        return TrainingRecipe.from_dict(vars(self) | values)

    def to_dict(self) -> dict[str, object]:
        """All fields as what JSON and TOML have: lists for tuples."""
        return {name: _plain(value) for name, value in vars(self).items()}

    @staticmethod
    def from_dict(values: Mapping[str, object]) -> TrainingRecipe:
        """A recipe from some fields, the others at their defaults.

        Raises ValueError for a name that no field has, with the nearest one that is, and for a value that does not fit.
        """
        for name in values:
            if name not in _TYPES:
                raise ValueError(unknown(name, _TYPES, "field of a recipe"))
        return TrainingRecipe(**values)

    def to_toml(self) -> str:
        """The recipe as a TOML file that `load_recipe` reads: every field on a line of its own, tables at the end."""
        lines, tables = [], []
        for name, value in self.to_dict().items():
            if isinstance(value, dict):
                tables += ["", f"[{name}]", *(f"{_key(inner)} = {_toml(v)}" for inner, v in value.items())]
            else:
                lines.append(f"{name} = {_toml(value)}")
        return "\n".join(lines + tables) + "\n"


def load_recipe(name: str | PathLike[str], overrides: Sequence[str] = ()) -> TrainingRecipe:
    """A preset by its name, or a recipe from a TOML file, with some fields changed.

    A path ending in .toml is a file: the recipe's fields, or `preset = "..."` and the fields that differ from it.
    overrides: "key=value" each, later ones first in rank; the value is written as in TOML, quotation marks may be left
    out. "data_options.noise=0.1" changes one entry of a table.

    Raises ValueError naming the file or the override for anything unknown or unfit, FileNotFoundError for no file.
    """
    path = Path(name)
    if path.suffix == ".toml":
        values = _read_toml(path)
    elif str(name) in PRESETS:
        values = vars(PRESETS[str(name)])
    else:
        raise ValueError(unknown(str(name), PRESETS, "preset") + ", or a file ending in .toml")
    values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    try:
        TrainingRecipe.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    for override in overrides:
        _override(values, override)
    return TrainingRecipe.from_dict(values)


def _read_toml(path: Path) -> dict[str, object]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no recipe at {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    preset = values.pop("preset", None)
    if preset is None:
        return values
    if preset not in PRESETS:
        raise ValueError(f"{path}: {unknown(str(preset), PRESETS, 'preset')}")
    return vars(PRESETS[preset]) | values


def _override(values: dict[str, object], text: str) -> None:
    """Change `values` in place as "key=value" says."""
    key, equals, written = text.partition("=")
    key, inner = key.strip(), None
    if not equals:
        raise ValueError(f'expected an override "key=value", got {text!r}')
    if "." in key:
        key, inner = key.split(".", 1)
    if key not in _TYPES:
        raise ValueError(unknown(key, _TYPES, "field of a recipe"))
    if (inner is not None) and _TYPES[key] is not dict:
        raise ValueError(f"{key}: expected {key}=value, since it has no entries, got {text!r}")
    value = written.strip()
    try:
        value = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:  # a name without quotation marks, or a number that Python writes and TOML does not
        if _TYPES[key] is float:
            try:
                value = float(value)
            except ValueError:
                raise ValueError(f"{key}: expected a number, got {value!r}") from None
    if inner is None:
        values[key] = value
    else:
        values[key] = {**values.get(key, {}), inner: value}


def unknown(name: str, known: Sequence[str] | Mapping[str, object], kind: str) -> str:
    """What an error says of a name that is not among the known ones: the nearest, or all of them."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"no {kind} is called {name!r}: " + (f"did you mean {near[0]!r}?" if near else f"there are {list(known)}")


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """Fields outside `FREE` in which two recipes (as `to_dict` gives them) differ, in the order of the fields."""
    names = [*_TYPES, *sorted((set(one) | set(other)) - set(_TYPES))]
    missing = object()
    return [name for name in names if name not in FREE and one.get(name, missing) != other.get(name, missing)]


def _convert(name: str, value: object) -> object:
    """A value as its field's type; ints stand for floats, lists for tuples."""
    kind = _TYPES[name]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is tuple and isinstance(value, (list, tuple)):
        if value and all(type(entry) is int for entry in value):
            return tuple(value)
    elif kind is dict and isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _frozen(entry) for key, entry in value.items()}
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    wanted = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    wanted |= {tuple: "a list of whole numbers", dict: "a table of options by name"}
    raise ValueError(f"{name}: expected {wanted[kind]}, got {value!r}")


def _frozen(value: object) -> object:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, (list, tuple)) else value


def _plain(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return {key: _plain(entry) for key, entry in value.items()} if isinstance(value, Mapping) else value


def _key(text: str) -> str:
    return text if text.replace("_", "").replace("-", "").isalnum() and text.isascii() else json.dumps(text)


def _toml(value: object) -> str:
    """Text, numbers, booleans and lists are written alike in JSON and TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(entry)}" for key, entry in value.items()) + "}"
    return json.dumps(value) if not isinstance(value, list) else "[" + ", ".join(map(_toml, value)) + "]"


def _types() -> dict[str, type]:
    hints = typing.get_type_hints(TrainingRecipe)
    return {entry.name: typing.get_origin(hints[entry.name]) or hints[entry.name] for entry in fields()}


def fields() -> tuple[dataclasses.Field, ...]:
    """The fields of a recipe, in order."""
    return dataclasses.fields(TrainingRecipe)


_TYPES = _types()


def _at_least(low: int) -> tuple[Callable[[int], bool], str]:
    return lambda value: value >= low, f"at least {low}"


def _one_of(names: Sequence[str]) -> tuple[Callable[[str], bool], str]:
    return lambda value: value in names, "one of " + ", ".join(map(repr, names))


_FRACTION = (lambda value: 0 <= value < 1, "a number in [0, 1)")
_POSITIVE = (lambda value: 0 < value < math.inf, "a number above 0")
_RANGES: dict[str, tuple[Callable[[typing.Any], bool], str]] = {
    **{name: _at_least(1) for name in ("classes", "frames", "size", "epochs", "batch_size", "base_batch")},
    **{name: _at_least(1) for name in ("accumulation", "log_every", "validate_every", "test_crops")},
    **{name: _at_least(0) for name in ("epoch_clips", "validation_clips", "warmup_epochs", "seed", "workers")},
    **{name: _at_least(0) for name in ("validate_last", "save_every")},
    **{name: _FRACTION for name in ("dropout", "stochastic_depth", "momentum")},
    "lr": _POSITIVE,
    "final_lr_fraction": (lambda value: 0 <= value <= 1, "a number in [0, 1]"),
    "label_smoothing": (lambda value: 0 <= value <= 1, "a number in [0, 1]"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "a number of at least 0"),
    "clip_norm": (lambda value: 0 <= value < math.inf, "a number of at least 0 (0 clips nothing)"),
    "stepped_by": _one_of(("epoch", "step")),
    "precision": _one_of(PRECISIONS),
    "flip": _one_of(FLIPS),
    "best_by": _one_of(SCORES),
    "initialisation": _one_of(INITIALISATIONS),
    "resize": (lambda value: len(value) in (1, 2) and min(value) >= 1, "(height, width) or (short side,)"),
    "test_clips": (lambda value: value in (1, 2), "1 or 2"),
}


# Presets -------------------------------------------------------------------------------------------------------------

_SSV1 = TrainingRecipe()
_SSV2 = _SSV1.replace(data="something-v2", dropout=0.3, validate_every=5)
_DIVING = _SSV1.replace(data="diving48", classes=48, test_clips=2)
_GYM = _SSV1.replace(data="gym99", classes=99, best_by="class_accuracy")

HARD_MOTION = {"camouflage": True, "distractors": 3, "noise": 0.05}
"""Options of `MotionConfig` for clips whose single frames hardly show anything: the hard setting of the motion set."""

_MOTION_CI = TrainingRecipe(
    model="rsanet_small",
    initialisation="scratch",
    classes=12,
    frames=8,
    size=32,
    dropout=0.0,
    stochastic_depth=0.0,
    data="motion",
    epoch_clips=800,
    validation_clips=240,
    flip="off",
    epochs=6,
    batch_size=16,
    lr=0.1,
    base_batch=16,
    warmup_epochs=1,
    stepped_by="step",
    label_smoothing=0.0,
    clip_norm=5.0,
    workers=0,
    validate_last=1,
    validate_every=2,
    save_every=25,
    log_every=10,
)
_MOTION_COLAB = _MOTION_CI.replace(
    size=48,
    data_options={"distractors": 2, "noise": 0.05},
    epochs=4,
    epoch_clips=2400,
    validate_every=1,
    save_every=100,
)
_MOTION_FULL = TrainingRecipe(
    initialisation="scratch",
    classes=12,
    frames=8,
    data="motion",
    data_options=HARD_MOTION,
    epoch_clips=12_800,
    validation_clips=1200,
    flip="off",
    epochs=20,
    warmup_epochs=1,
    stepped_by="step",
    precision="bf16",
    channels_last=True,
    workers=1,
    validate_last=1,
    save_every=100,
)

PRESETS: dict[str, TrainingRecipe] = {
    "ssv1-8f": _SSV1.replace(frames=8),
    "ssv1-16f": _SSV1,
    "ssv2-8f": _SSV2.replace(frames=8),
    "ssv2-16f": _SSV2,
    "diving48": _DIVING,
    "gym99": _GYM,
    "gym288": _GYM.replace(data="gym288", classes=288),
    "motion-ci": _MOTION_CI,
    "motion-colab": _MOTION_COLAB,
    "motion-full": _MOTION_FULL,
}
"""Recipes by name.

"ssv1-16f" and "ssv2-16f" are the runs of the release's two training logs: 54.0 % and 66.0 % top-1. The release's
scripts disagree with its logs: the script for V1 has 50 epochs and dropout 0.3, its log 80 and 0.5; for V2 both have 80
epochs and dropout 0.3. Validation came after every epoch (V1), or every fifth and each of the last ten (V2). The logs
are of eight GPUs in one process, so that each batch norm saw 8 clips: `torchrun --nproc-per-node 8` does the same. The
"-8f" ones change nothing but the number of frames, as those scripts do.

"diving48", "gym99" and "gym288" take the V1 recipe over: the release has no log and no script for these sets. What the
paper says of them: 16 frames (by the cost in its Table 3(b)) and a test on two clips for Diving-48, accuracy averaged
over classes for FineGym.

"motion-ci" trains a small net in minutes on a CPU; "motion-colab" the same one, longer and on larger, harder clips;
"motion-full" RSANet-R50 from scratch at the published size on a GPU, whose rivals are model=tsn_resnet50 and
model=conv3d_resnet50. `minirsa bench` says how long each takes on a machine.
"""
