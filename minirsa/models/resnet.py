"""TSN-ResNet: a residual network that reads every frame with the same weights, and averages its opinions.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2016, with frames as in Wang et al., "Temporal
Segment Networks", 2016. It is the backbone of relational self-attention (Kim et al. 2021):
every convolution is the image network's, inflated to 1 x k x k, and the middle one of a bottleneck
may be replaced by another feature transform, which is where frames come to know of each other.

    video  (B, 3, T, H, W)
      stem      7x7 convolution, stride 2, max pool, stride 2      (B,   64, T, H/4,  W/4)
      stage 1   3 bottlenecks                                      (B,  256, T, H/4,  W/4)
      stage 2   4 bottlenecks, the first with stride 2             (B,  512, T, H/8,  W/8)
      stage 3   6 bottlenecks, the first with stride 2             (B, 1024, T, H/16, W/16)
      stage 4   3 bottlenecks, the first with stride 2             (B, 2048, T, H/32, W/32)
      head      average over places, dropout, linear per frame     (B, T, num_classes)
                mean over frames                                   (B, num_classes)

    bottleneck    y = relu(shortcut(x) + norm(expand(relu(norm(transform(relu(norm(reduce(x)))))))))

Book: chapter 15, The backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike

import torch
from torch import Tensor, nn

from minirsa.layers.transformer import StochasticDepth
from minirsa.models.weights import COUNTER, load_exactly, read_tensors, rename

BlockIndex = tuple[int, int]
"""Where a bottleneck stands: (stage, block), both from 0; the paper's res2 is stage 0."""

TransformFactory = Callable[[int, int], nn.Module]
"""Makes a feature transform from (channels, spatial stride): (B, C, T, H, W) -> (B, C, T, H/stride, W/stride)."""


def frame_convolution(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv3d:
    """An image convolution applied to every frame: 1 x size x size, zero padding, no bias."""
    return nn.Conv3d(
        in_channels,
        out_channels,
        kernel_size=(1, size, size),
        stride=(1, stride, stride),
        padding=(0, size // 2, size // 2),
        bias=False,
    )


class Bottleneck(nn.Module):
    """Reduce with 1x1, transform (3x3 in an image network), expand with 1x1, add to the shortcut.

    (B, in_channels, T, H, W) -> (B, expansion * width, T, H/stride, W/stride). The stride sits in the transform.
    He et al. 2016, figure 5 right.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        transform: TransformFactory | None = None,
        keep: float = 1.0,
    ) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.reduce = frame_convolution(in_channels, width, 1)
        self.reduce_norm = nn.BatchNorm3d(width)
        self.replaced = transform is not None
        self.transform = transform(width, stride) if transform else frame_convolution(width, width, 3, stride)
        self.transform_norm = nn.BatchNorm3d(width)
        self.expand = frame_convolution(width, out_channels, 1)
        self.expand_norm = nn.BatchNorm3d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                frame_convolution(in_channels, out_channels, 1, stride), nn.BatchNorm3d(out_channels)
            )
        self.drop = StochasticDepth(keep)

    def before_transform(self, x: Tensor) -> Tensor:
        """What the transform is given: (B, in_channels, T, H, W) -> (B, width, T, H, W)."""
        return self.reduce_norm(self.reduce(x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        out = self.transform(self.before_transform(x))  # (B, width, T, H/stride, W/stride)
        out = self.expand_norm(self.expand(self.transform_norm(out).relu()))  # (B, 4 * width, ...)
        return (self.shortcut(x) + self.drop(out)).relu()


class TSNResNet(nn.Module):
    """A bottleneck ResNet over the frames of a clip; see the module's docstring for the shapes.

    num_classes, num_frames: size of the answer and of the clip.
    depths, widths: bottlenecks a stage, and their inner width; a stage gives 4 * width channels.
    transforms: {(stage, block): factory} of the bottlenecks whose 3x3 convolution is replaced.
    stem_width, stem_size, stem_stride, stem_pool: the first convolution, and whether a max pool follows it.
    dropout: before the classifier, in training.
    keep: probability of keeping the last bottleneck's residual branch in training; it falls to this linearly from 1 at
        the first bottleneck (stochastic depth).

    Initialisation: He et al. 2015 (normal, fan out) for convolutions; the last norm weight of every bottleneck 0, so
    that the net starts as its shortcuts; Glorot for the classifier's weight, 0 for its bias. A transform that
    has parameters of its own and is not a single convolution initialises itself.
    """

    def __init__(
        self,
        num_classes: int,
        num_frames: int,
        *,
        depths: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        transforms: Mapping[BlockIndex, TransformFactory] | None = None,
        stem_width: int = 64,
        stem_size: int = 7,
        stem_stride: int = 2,
        stem_pool: bool = True,
        dropout: float = 0.5,
        keep: float = 0.8,
    ) -> None:
        super().__init__()
        transforms = dict(transforms or {})
        if len(depths) != len(widths):
            raise ValueError(f"expected as many depths as widths, got {tuple(depths)} and {tuple(widths)}")
        places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
        unknown = sorted(set(transforms) - set(places))
        if unknown:
            raise ValueError(
                f"expected the place of a bottleneck as (stage, block) with {tuple(depths)} blocks, got {unknown}"
            )
        if num_classes < 1 or num_frames < 1:
            raise ValueError(f"expected at least one class and one frame, got {num_classes} and {num_frames}")
        self.num_classes, self.num_frames = num_classes, num_frames

        self.stem = frame_convolution(3, stem_width, stem_size, stem_stride)
        self.stem_norm = nn.BatchNorm3d(stem_width)
        self.stem_pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)) if stem_pool else nn.Identity()
        self.stages = nn.ModuleList(nn.Sequential() for _ in depths)
        channels = stem_width
        for index, (stage, block) in enumerate(places):
            self.stages[stage].append(
                Bottleneck(
                    channels,
                    widths[stage],
                    stride=2 if stage > 0 and block == 0 else 1,
                    transform=transforms.get((stage, block)),
                    keep=1.0 - (1.0 - keep) * index / max(len(places) - 1, 1),
                )
            )
            channels = Bottleneck.expansion * widths[stage]
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the class says, transforms that are no single convolution excepted."""
        for bottleneck in self.bottlenecks().values():
            convolutions = [m for m in bottleneck.children() if isinstance(m, nn.Conv3d)]
            convolutions += [m for m in bottleneck.shortcut.children() if isinstance(m, nn.Conv3d)]
            for convolution in convolutions:
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(bottleneck.expand_norm.weight)
        nn.init.kaiming_normal_(self.stem.weight, mode="fan_out", nonlinearity="relu")
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def bottlenecks(self) -> dict[BlockIndex, Bottleneck]:
        """Every bottleneck under its place (stage, block), in the order of the forward pass."""
        return {
            (stage, block): bottleneck
            for stage, blocks in enumerate(self.stages)
            for block, bottleneck in enumerate(blocks)
        }

    def replaced(self) -> dict[BlockIndex, nn.Module]:
        """The feature transforms that stand in for a 3x3 convolution, under their places."""
        return {place: block.transform for place, block in self.bottlenecks().items() if block.replaced}

    def stem_features(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, stem_width, T, H/4, W/4) (H/2 without a pool, H with stride 1).

        Raises ValueError for another shape, another number of frames or channels included.
        """
        if video.dim() != 5 or video.shape[1] != 3 or video.shape[2] != self.num_frames:
            raise ValueError(f"expected a video of shape (B, 3, {self.num_frames}, H, W), got {tuple(video.shape)}")
        # Channels last in memory: 1x1 convolutions and norms then read contiguously. On a CPU a step of the small
        # frame-wise net takes 0.14 s of processor time instead of 0.22 s; ResNet-50 is no slower.
        video = video.contiguous(memory_format=torch.channels_last_3d)
        return self.stem_pool(self.stem_norm(self.stem(video)).relu())

    def feature_maps(self, video: Tensor) -> list[Tensor]:
        """The output of every stage, each (B, 4 * width, T, H', W')."""
        x, maps = self.stem_features(video), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def transform_inputs(self, video: Tensor) -> dict[BlockIndex, Tensor]:
        """What every replaced transform is given on this video: {place: (B, width, T, H', W')}.

        `model.replaced()[place].kernels(model.transform_inputs(video)[place])` are a layer's kernels on a clip.
        """
        x, inputs = self.stem_features(video), {}
        for place, bottleneck in self.bottlenecks().items():
            if bottleneck.replaced:
                inputs[place] = bottleneck.before_transform(x)
            x = bottleneck(x)
        return inputs

    def features(self, video: Tensor) -> Tensor:
        """One vector a frame: (B, 3, T, H, W) -> (B, T, C), the last stage averaged over places."""
        return self.feature_maps(video)[-1].mean(dim=(3, 4)).transpose(1, 2)

    def frame_logits(self, video: Tensor) -> Tensor:
        """What each frame says: (B, 3, T, H, W) -> (B, T, num_classes)."""
        return self.classifier(self.dropout(self.features(video)))

    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, num_classes): the mean of the frames' logits."""
        return self.frame_logits(video).mean(dim=1)


def tsn_resnet50(num_classes: int = 174, num_frames: int = 8, **options: object) -> TSNResNet:
    """TSN-ResNet50: 23.865 M parameters and 32.700 G multiply-adds (174 classes, 8 frames of 224 x 224)."""
    return TSNResNet(num_classes, num_frames, **options)


def torchvision_key_map(model: TSNResNet) -> dict[str, str]:
    """{name in this model: name in torchvision's resnet50}, without the classifier and the replaced bottlenecks."""
    pairs = {"stem": "conv1", "stem_norm": "bn1"}
    for (stage, block), bottleneck in model.bottlenecks().items():
        ours, theirs = f"stages.{stage}.{block}", f"layer{stage + 1}.{block}"
        if bottleneck.replaced:
            continue
        pairs |= {f"{ours}.{module}": f"{theirs}.{name}" for module, name in BOTTLENECK_NAMES.items()}
    return {
        name: f"{pairs[module]}.{tensor}"
        for name in model.state_dict()
        for module, _, tensor in [name.rpartition(".")]
        if module in pairs
    }


BOTTLENECK_NAMES = {
    "reduce": "conv1",
    "reduce_norm": "bn1",
    "transform": "conv2",
    "transform_norm": "bn2",
    "expand": "conv3",
    "expand_norm": "bn3",
    "shortcut.0": "downsample.0",
    "shortcut.1": "downsample.1",
}
"""Modules of a bottleneck: {here: in torchvision}."""


def load_torchvision(model: TSNResNet, path: str | PathLike[str]) -> TSNResNet:
    """Fill a model from ImageNet weights of the same ResNet in torchvision's format (.pth or .safetensors).

    Image convolutions (O, I, k, k) become (O, I, 1, k, k). Left as they are: the classifier, since the classes are
    others, and every bottleneck with a replaced transform, whole, as in the RSA release: `dropped_tensors` names what
    is dropped of the checkpoint. Returns the model.

    Raises ValueError naming what is missing, unknown or of another shape.
    """
    key_map = torchvision_key_map(model)
    tensors = rename(read_tensors(path), key_map, dropped=dropped_tensors(model))
    inflated = {name: t.unsqueeze(2) if t.dim() == 4 else t for name, t in tensors.items()}
    load_exactly(model, inflated, fresh=set(model.state_dict()) - set(key_map))
    return model


def dropped_tensors(model: TSNResNet) -> list[str]:
    """Names in torchvision's resnet50 that `load_torchvision` leaves out for this model."""
    tensors = ("weight", "bias", "running_mean", "running_var", COUNTER)
    return ["fc.weight", "fc.bias"] + [
        f"layer{stage + 1}.{block}.{module}.{tensor}"
        for (stage, block), bottleneck in model.bottlenecks().items()
        if bottleneck.replaced
        for module in BOTTLENECK_NAMES.values()
        for tensor in tensors
    ]


def from_pretrained(
    path: str | PathLike[str], num_classes: int = 174, num_frames: int = 8, **options: object
) -> TSNResNet:
    """TSN-ResNet50 with ImageNet weights in torchvision's format; the classifier starts fresh.

    See `load_torchvision` for what is read and what is refused; `options` are those of `TSNResNet`.
    """
    return load_torchvision(tsn_resnet50(num_classes, num_frames, **options), path)
