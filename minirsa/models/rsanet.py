"""RSANet: a residual network over frames in which a few 3x3 convolutions give way to relational self-attention.

Kim, Kwon, Wang, Kwak, Cho, "Relational Self-Attention: What's Missing in Attention for Video Understanding", NeurIPS
2021 (arXiv 2111.01673). The net is `minirsa.models.resnet.TSNResNet`; what changes is the transform in
the middle of the chosen bottlenecks:

    x (B, 4w, T, H, W) -- 1x1 reduce --> (B, w, T, H, W) -- RSA --> (B, w, T, H, W) -- 1x1 expand --> (B, 4w, T, H, W)

RSANet-R50 replaces 7 of the 16: the last block of res2, every second of res3 and res4, and the middle one of res5.

Book: chapter 15, Where RSA goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike

from torch import Tensor, nn

from minirsa.layers.local import LocalSelfAttention
from minirsa.layers.relational import Kernels, RelationalSelfAttention
from minirsa.models.resnet import (
    BOTTLENECK_NAMES,
    BlockIndex,
    TransformFactory,
    TSNResNet,
    load_torchvision,
)
from minirsa.models.weights import load_exactly, read_tensors, rename

RSANET_R50_BLOCKS = ((2,), (1, 3), (1, 3, 5), (1,))
"""The replaced bottlenecks of RSANet-R50, from 0, a stage each (Kim et al. 2021; the public release's option)."""


class RSANet(TSNResNet):
    """A `TSNResNet` that knows which of its transforms are relational: (B, 3, T, H, W) -> (B, num_classes)."""

    def relational_layers(self) -> dict[BlockIndex, RelationalSelfAttention]:
        """The relational layers under their places (stage, block), both from 0."""
        return {place: layer for place, layer in self.replaced().items() if isinstance(layer, RelationalSelfAttention)}

    def kernels(self, video: Tensor, place: BlockIndex) -> Kernels:
        """The kernels that the relational layer at `place` composes on this video, basic and relational.

        (B, 3, T, H, W) -> two tensors (B, L, M, T, H', W'). Raises ValueError if no relational layer stands there.
        """
        layers = self.relational_layers()
        if place not in layers:
            raise ValueError(f"expected the place of a relational layer, one of {sorted(layers)}, got {place}")
        return layers[place].kernels(self.transform_inputs(video)[place])


def rsanet_r50(
    num_classes: int = 174,
    num_frames: int = 8,
    *,
    blocks: Sequence[Sequence[int]] = RSANET_R50_BLOCKS,
    dropout: float = 0.5,
    keep: float = 0.8,
    **rsa: object,
) -> RSANet:
    """RSANet-R50: 22.034 M parameters, 35.887 G multiply-adds (174 classes, 8 frames of 224 x 224).

    blocks: the replaced bottlenecks, from 0, of each of the four stages; ((), (), (), ()) is TSN-ResNet50.
    rsa: options of `RelationalSelfAttention`, the same in every layer. `latent` and `groups` may also be functions of
        the layer's C/L, since stages differ in width: `latent=lambda width: width // 2`.

    Published (Something-Something V1 / V2, top-1): 51.9 / 64.8 % with 8 frames, 54.0 / 66.0 % with 16.
    """
    return RSANet(num_classes, num_frames, transforms=_places(blocks, _relational(rsa)), dropout=dropout, keep=keep)


def conv3d_resnet50(
    num_classes: int = 174,
    num_frames: int = 8,
    *,
    blocks: Sequence[Sequence[int]] = RSANET_R50_BLOCKS,
    dropout: float = 0.5,
    keep: float = 0.8,
) -> RSANet:
    """RSANet-R50 with a 3x3x3 convolution wherever it has a relational layer: what RSA is to be compared with.

    32.786 M parameters, 45.648 G multiply-adds (174 classes, 8 frames of 224 x 224): our own count, no paper's.
    """
    return RSANet(
        num_classes, num_frames, transforms=_places(blocks, _space_time_convolution), dropout=dropout, keep=keep
    )


SMALL_WIDTHS = (16, 32, 64)
SMALL_BLOCKS = ((), (1,), (1,))
SMALL_OPTIONS = {
    "rsa": {"queries": 4, "kernel_size": (5, 5, 5)},
    "attention": {"heads": 4, "kernel_size": (5, 5, 5)},
}


def rsanet_small(
    num_classes: int = 12,
    num_frames: int = 8,
    *,
    transform: str = "rsa",
    widths: Sequence[int] = SMALL_WIDTHS,
    depths: Sequence[int] = (1, 2, 2),
    blocks: Sequence[Sequence[int]] = SMALL_BLOCKS,
    dropout: float = 0.0,
    keep: float = 1.0,
    **options: object,
) -> RSANet:
    """A tiny bottleneck net for clips of the motion set, 8 x 32 x 32 or 8 x 48 x 64, that a CPU trains in a minute.

    Apart from the transform in the chosen blocks, nothing in it looks at more than one frame:

    transform: "rsa" (relational self-attention), "attention" (self-attention over the same neighbourhood),
        "conv3d" (3x3x3 convolution) or "conv2d" (3x3 in every frame: no transform sees time).
    blocks: where it stands, from 0, in each stage.
    options: those of the transform's layer; by default 4 queries (heads) and a neighbourhood of 5 x 5 x 5.

    Raises ValueError for another transform, or options for a convolution.
    """
    factories: dict[str, Callable[[dict[str, object]], TransformFactory | None]] = {
        "rsa": _relational,
        "attention": _attention,
        "conv3d": lambda _: _space_time_convolution,
        "conv2d": lambda _: None,
    }
    if transform not in factories:
        raise ValueError(f"expected one of {sorted(factories)} as transform, got {transform!r}")
    if transform.startswith("conv") and options:
        raise ValueError(f"{transform} takes no options, got {sorted(options)}")
    factory = factories[transform](SMALL_OPTIONS.get(transform, {}) | options)
    return RSANet(
        num_classes,
        num_frames,
        depths=depths,
        widths=widths,
        transforms=_places(blocks, factory) if factory else None,
        stem_width=widths[0],
        stem_size=5,
        stem_stride=2,
        stem_pool=False,
        dropout=dropout,
        keep=keep,
    )


def _places(blocks: Sequence[Sequence[int]], factory: TransformFactory) -> dict[BlockIndex, TransformFactory]:
    return {(stage, block): factory for stage, chosen in enumerate(blocks) for block in chosen}


def _relational(options: Mapping[str, object]) -> TransformFactory:
    def make(channels: int, stride: int) -> RelationalSelfAttention:
        width = channels // max(options.get("queries", 8), 1)
        sized = {name: value(width) if callable(value) else value for name, value in options.items()}
        return RelationalSelfAttention(channels, stride=(1, stride, stride), **sized)

    return make


def _attention(options: Mapping[str, object]) -> TransformFactory:
    def make(channels: int, stride: int) -> LocalSelfAttention:
        if stride != 1:
            raise ValueError(f"self-attention over a neighbourhood has no stride, got a block of stride {stride}")
        return LocalSelfAttention(channels, **options)

    return make


def _space_time_convolution(channels: int, stride: int) -> nn.Conv3d:
    return nn.Conv3d(channels, channels, 3, stride=(1, stride, stride), padding=1, bias=False)


def from_pretrained(
    path: str | PathLike[str], num_classes: int = 174, num_frames: int = 8, **options: object
) -> RSANet:
    """RSANet-R50 on ImageNet weights of ResNet-50 in torchvision's format (.pth or .safetensors).

    As in the release: where a relational layer stands, the bottleneck's weights are dropped, its 3x3 convolution
    among them, and the whole bottleneck starts afresh; so does the classifier. `options` are those of `rsanet_r50`.
    Raises ValueError naming what is missing, unknown or of another shape.
    """
    return load_torchvision(rsanet_r50(num_classes, num_frames, **options), path)


def from_release(path: str | PathLike[str], num_classes: int = 174, num_frames: int = 8, **options: object) -> RSANet:
    """RSANet-R50 from a training checkpoint of the public release (KimManjin/RSA).

    The file holds a dictionary with "state_dict"; `release_key_map` names its tensors. `options` are those of
    `rsanet_r50` and must be the run's. Raises ValueError naming what is missing, unknown or of another shape.
    """
    model = rsanet_r50(num_classes, num_frames, **options)
    content = read_tensors(path)
    if not isinstance(content.get("state_dict"), Mapping):
        names = ", ".join(sorted(content)[:3])
        raise ValueError(f'expected a training checkpoint with a "state_dict" in {path}, got the keys {names}, ...')
    return load_release(model, content["state_dict"])


def load_release(model: RSANet, state_dict: Mapping[str, Tensor]) -> RSANet:
    """Fill a model from the release's tensors, (C, 2048, 1) classifier and relational layers included."""
    key_map = release_key_map(model)
    if not any(name.startswith("module.new_fc.") for name in state_dict):  # trained without dropout
        key_map = {ours: theirs.replace("new_fc", "base_model.fc1") for ours, theirs in key_map.items()}
    tensors = rename(state_dict, key_map)
    relational = {f"stages.{s}.{b}.transform": layer for (s, b), layer in model.relational_layers().items()}
    for prefix, layer in relational.items():
        own = [name for name in tensors if name.startswith(f"{prefix}.")]
        stem = key_map[own[0]].partition("conv2.")[0] + "conv2."
        layer.load_release({key_map[name].removeprefix(stem): tensors.pop(name) for name in own})
    loaded = {f"{prefix}.{name}" for prefix, layer in relational.items() for name in layer.state_dict()}
    tensors["classifier.weight"] = tensors["classifier.weight"].squeeze(-1)  # a convolution of size 1 there
    load_exactly(model, tensors, fresh=loaded)
    return model


def release_key_map(model: RSANet) -> dict[str, str]:
    """{name in this model: name in the release's state_dict}.

    There the net is TSN inside DataParallel ("module."), the backbone "base_model" has torchvision's names, a
    relational layer is "conv2" with its own tensors, and the classifier is "new_fc" ("base_model.fc1" in a
    run without dropout).
    """
    modules = {"stem": "base_model.conv1", "stem_norm": "base_model.bn1", "classifier": "new_fc"}
    for stage, block in model.bottlenecks():
        ours, theirs = f"stages.{stage}.{block}", f"base_model.layer{stage + 1}.{block}"
        modules |= {f"{ours}.{module}": f"{theirs}.{name}" for module, name in BOTTLENECK_NAMES.items()}
    for (stage, block), _ in model.relational_layers().items():
        ours, theirs = f"stages.{stage}.{block}.transform", f"base_model.layer{stage + 1}.{block}.conv2"
        modules[f"{ours}.projection"] = f"{theirs}.projection"
    key_map = {}
    for name in model.state_dict():
        module, _, tensor = name.rpartition(".")
        if tensor in RELEASE_PARAMETERS and module in modules:
            key_map[name] = f"module.{modules[module]}.{RELEASE_PARAMETERS[tensor]}"
        else:
            key_map[name] = f"module.{modules[module]}.{tensor}"
    return key_map


RELEASE_PARAMETERS = {"H1": "H1.weight", "H2": "H2.weight", "G": "G.weight", "P1": "P1", "I": "I"}
"""Parameters of a relational layer: {here: in the release}."""
