"""A trained model in one safetensors file: the weights, and a card that says how to build, feed and remake it.

    model.safetensors = tensors + header {"minirsa": json of a Card}

`minirsa predict` and the book read models through this file; nothing in it can run code. Book: chapter 13.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from minirsa.data.sampling import segment_indices
from minirsa.data.transforms import CenterCrop, Compose, Normalize, Resize, to_tensor
from minirsa.data.video import clip_length, read_clip
from minirsa.models.resnet import tsn_resnet50
from minirsa.models.rsanet import conv3d_resnet50, rsanet_r50, rsanet_small
from minirsa.models.weights import load_exactly

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "conv3d_resnet50": conv3d_resnet50,
    "rsanet_r50": rsanet_r50,
    "rsanet_small": rsanet_small,
    "tsn_resnet50": tsn_resnet50,
}
"""The models that a card may name: {name: builder(num_classes, num_frames, **options)}."""

MOTION_MODEL = Path(__file__).parent.parent / "weights" / "motion_rsa.safetensors"
"""The small RSA net that ships with the package: it names the twelve motions of `minirsa.data.motion`."""


@dataclass(frozen=True)
class Card:
    """What a file of weights needs beside its tensors.

    builder, options: a name of `BUILDERS` and its keyword arguments, without num_classes and num_frames.
    labels: the classes' names, in the order of the logits.
    frames, height, width: the clip that the model reads: `frames` segments' middles, resized to height x width.
    crop: the middle crop x crop of it, for models that read squares.
    normalize: whether clips in [0, 1] are normalised with ImageNet's mean and standard deviation.
    recipe: how it was trained, as plain data; provenance: command, commit, hardware, date, measured accuracy.
    """

    builder: str
    labels: list[str]
    frames: int
    height: int
    width: int
    crop: int | None = None
    normalize: bool = False
    options: dict[str, object] = field(default_factory=dict)
    recipe: dict[str, object] = field(default_factory=dict)
    provenance: dict[str, object] = field(default_factory=dict)

    def __post_init__(self):
        if self.builder not in BUILDERS:
            raise ValueError(f"expected a builder out of {sorted(BUILDERS)}, got {self.builder!r}")
        if not isinstance(self.labels, list) or not self.labels or not all(isinstance(n, str) for n in self.labels):
            raise ValueError(f"expected a list of labels, got {self.labels!r}")
        sizes = (self.frames, self.height, self.width, 1 if self.crop is None else self.crop)
        if not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise ValueError(f"expected whole numbers of at least 1 for frames, height, width and crop, got {sizes}")
        if not isinstance(self.options, Mapping):
            raise ValueError(f"expected options by name, got {self.options!r}")

    def build(self) -> nn.Module:
        """The model, freshly initialised."""
        return BUILDERS[self.builder](len(self.labels), self.frames, **self.options)

    def read(self, path: str | PathLike[str]) -> Tensor:
        """A video file as the model reads it: float32 (3, frames, height, width), or (3, frames, crop, crop).

        Raises VideoReadError for a file that cannot be decoded.
        """
        frames = read_clip(path, segment_indices(clip_length(path), self.frames))
        transforms = [Resize((self.height, self.width))]
        transforms += [CenterCrop(self.crop)] if self.crop else []
        transforms += [Normalize()] if self.normalize else []
        return Compose(transforms)(to_tensor(frames))[0]


def save_model(path: str | PathLike[str], model: nn.Module, card: Card) -> None:
    """Write weights and card to a safetensors file. Raises ValueError if the card does not build this model."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    load_exactly(card.build(), tensors)
    # Through bytes, not save_file: that makes files which only their owner may read.
    Path(path).write_bytes(save(tensors, metadata={"minirsa": json.dumps(dataclasses.asdict(card))}))


def load_model(path: str | PathLike[str]) -> tuple[nn.Module, Card]:
    """The model of a file that `save_model` wrote, in evaluation mode, with its card.

    Raises FileNotFoundError, and ValueError naming the file if it is no such file or does not fit its card.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if "minirsa" not in header:
            raise ValueError("it has weights but no card; minirsa.models.checkpoint.save_model writes both")
        content = json.loads(header["minirsa"])
        known = {entry.name for entry in dataclasses.fields(Card)}
        if not isinstance(content, Mapping) or set(content) - known:
            raise ValueError(f"its card has unknown fields: {sorted(set(content) - known)}")
        card = Card(**content)
        options = {name: tuple(value) if isinstance(value, list) else value for name, value in card.options.items()}
        model = dataclasses.replace(card, options=options).build()
        load_exactly(model, tensors)
    except (SafetensorError, TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{path} is not a model file of minirsa: {error}") from error
    return model.eval(), card


@torch.no_grad()
def predict(model: nn.Module, clip: Tensor) -> Tensor:
    """Probabilities of one clip (3, T, H, W), prepared by `Card.read`: (num_classes,)."""
    return model(clip[None]).softmax(1)[0]
