"""The papers' numbers, each with its source, as plain data: what a chapter compares its own figures with.

    >>> from minirsa import published
    >>> published.RSA_LATENT.find(latent="C^Q").top1
    51.5
    >>> print(published.RSA_LATENT.source)
    Kim, Kwon, Wang, Kwak, Cho, "Relational Self-Attention: ...", NeurIPS 2021, arXiv 2111.01673, Table 4(b)

Numbers stand as printed: accuracies in percent, "FLOPs" are multiply-adds (G = 1e9, T = 1e12) of one view unless a
`clips` column says how many are run, parameters in millions, None where a table prints a dash. Where a printed number
does not agree with another table, or with our own count, the table's source has a note.

Book: every chapter's comparison with its paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Source:
    """Where a table was printed, and what to know before trusting a digit of it."""

    authors: str
    title: str
    venue: str
    place: str
    note: str = ""

    def __str__(self) -> str:
        return f'{self.authors}, "{self.title}", {self.venue}, {self.place}'


@dataclass(frozen=True)
class Table:
    """Rows of one dataclass, in the printed order, and their source. Iterate, index, or `find` a row."""

    source: Source
    rows: tuple[Any, ...]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice) -> Any:
        return self.rows[index]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(field.name for field in fields(self.rows[0]))

    def column(self, name: str) -> list[Any]:
        """One column, top to bottom. Raises KeyError naming the columns there are."""
        self._check([name])
        return [getattr(row, name) for row in self.rows]

    def find(self, **values: Any) -> Any:
        """The one row with these values.

        Raises KeyError for an unknown column, LookupError for none or several rows.
        """
        self._check(values)
        found = [row for row in self.rows if all(getattr(row, name) == value for name, value in values.items())]
        if len(found) != 1:
            raise LookupError(f"expected one row with {values} in {self.source.place}, got {len(found)}")
        return found[0]

    def _check(self, names: Any) -> None:
        unknown = [name for name in names if name not in self.columns]
        if unknown:
            raise KeyError(f"expected a column among {self.columns}, got {unknown}")


def tables() -> dict[str, Table]:
    """Every table of this module under its name."""
    return {name: value for name, value in globals().items() if isinstance(value, Table)}


def rows_of(model: str) -> list[tuple[str, Any]]:
    """Every row printed for a model of exactly this name: [(table's name, row)]; papers may disagree about it.

    Raises LookupError for a name that no table has.
    """
    found = [(name, row) for name, table in tables().items() for row in table if getattr(row, "model", None) == model]
    if not found:
        raise LookupError(f"no table has a model named {model!r}")
    return found


# Sources -------------------------------------------------------------------------------------------------------------

_VASWANI = ("Vaswani et al.", "Attention Is All You Need", "NeurIPS 2017, arXiv 1706.03762")
_SUTSKEVER = (
    "Sutskever, Vinyals, Le",
    "Sequence to Sequence Learning with Neural Networks",
    "NeurIPS 2014, arXiv 1409.3215",
)
_LUONG = (
    "Luong, Pham, Manning",
    "Effective Approaches to Attention-based Neural Machine Translation",
    "EMNLP 2015, arXiv 1508.04025",
)
_VIT = (
    "Dosovitskiy et al.",
    "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
    "ICLR 2021, arXiv 2010.11929",
)
_DEIT = (
    "Touvron et al.",
    "Training data-efficient image transformers & distillation through attention",
    "ICML 2021, arXiv 2012.12877",
)
_TIMESFORMER = (
    "Bertasius, Wang, Torresani",
    "Is Space-Time Attention All You Need for Video Understanding?",
    "ICML 2021, arXiv 2102.05095",
)
_VIVIT = ("Arnab et al.", "ViViT: A Video Vision Transformer", "ICCV 2021, arXiv 2103.15691")
_MVIT = ("Fan et al.", "Multiscale Vision Transformers", "ICCV 2021, arXiv 2104.11227")
_RSA = (
    "Kim, Kwon, Wang, Kwak, Cho",
    "Relational Self-Attention: What's Missing in Attention for Video Understanding",
    "NeurIPS 2021, arXiv 2111.01673",
)
_REVIEW = ("Susang Kim", "Paper Review: Relational Self-Attention", "2022")


# Attention and image transformers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerComplexity:
    """n: sequence length, d: width, k: kernel size of the convolution, r: size of the neighbourhood."""

    layer: str
    operations: str
    sequential: str
    path: str


ATTENTION_COMPLEXITY = Table(
    Source(*_VASWANI, "Table 1"),
    (
        LayerComplexity("Self-Attention", "n^2 d", "1", "1"),
        LayerComplexity("Recurrent", "n d^2", "n", "n"),
        LayerComplexity("Convolutional", "k n d^2", "1", "log_k(n)"),
        LayerComplexity("Self-Attention (restricted)", "r n d", "1", "n/r"),
    ),
)


@dataclass(frozen=True)
class FixedVectorSystem:
    """How many LSTM translators vote, which way they read the source, beam size; bleu, English to French."""

    members: int
    reads: str
    beam: int
    bleu: float


SUTSKEVER_BEAMS = Table(
    Source(*_SUTSKEVER, "Table 1", "the rows of the paper's own systems"),
    (
        FixedVectorSystem(1, "forward", 12, 26.17),
        FixedVectorSystem(1, "reversed", 12, 30.59),
        FixedVectorSystem(5, "reversed", 1, 33.00),
        FixedVectorSystem(2, "reversed", 12, 33.27),
        FixedVectorSystem(5, "reversed", 2, 34.50),
        FixedVectorSystem(5, "reversed", 12, 34.81),
    ),
)


@dataclass(frozen=True)
class TranslationSystem:
    """perplexity and tokenised bleu on newstest2014, English to German; None where nothing is printed."""

    system: str
    perplexity: float | None
    bleu: float


LUONG_PROGRESS = Table(
    Source(*_LUONG, "Table 1", "the rows of the paper's own systems"),
    (
        TranslationSystem("Base", 10.6, 11.3),
        TranslationSystem("Base + reverse", 9.9, 12.6),
        TranslationSystem("Base + reverse + dropout", 8.1, 14.0),
        TranslationSystem("Base + reverse + dropout + global attention (location)", 7.3, 16.8),
        TranslationSystem("Base + reverse + dropout + global attention (location) + feed input", 6.4, 18.1),
        TranslationSystem("Base + reverse + dropout + local-p attention (general) + feed input", 5.9, 19.0),
        TranslationSystem("Base + reverse + dropout + local-p attention (general) + feed input + unk", None, 20.9),
        TranslationSystem("Ensemble of 8 models + unk", None, 23.0),
    ),
)


@dataclass(frozen=True)
class AttentionChoice:
    """One attention of a translator with input feeding: perplexity and bleu as in Table 1, bleu_unk after unknown
    words were replaced by the word looked at; None where the table prints x."""

    attention: str
    score: str
    perplexity: float
    bleu: float | None
    bleu_unk: float | None


LUONG_ARCHITECTURES = Table(
    Source(
        *_LUONG,
        "Table 4",
        "for concat only perplexities are printed, in a footnote: 6.7 (global), 7.1 (local-m), 7.1 (local-p)",
    ),
    (
        AttentionChoice("global", "location", 6.4, 18.1, 19.3),
        AttentionChoice("global", "dot", 6.1, 18.6, 20.5),
        AttentionChoice("global", "general", 6.1, 17.3, 19.1),
        AttentionChoice("local-m", "dot", 7.0, None, None),
        AttentionChoice("local-m", "general", 6.2, 18.6, 20.4),
        AttentionChoice("local-p", "dot", 6.6, 18.0, 19.6),
        AttentionChoice("local-p", "general", 5.9, 19.0, 20.9),
    ),
)


@dataclass(frozen=True)
class ViTVariant:
    model: str
    layers: int
    width: int
    mlp: int
    heads: int
    params_m: float


VIT_VARIANTS = Table(
    Source(*_VIT, "Table 1"),
    (
        ViTVariant("ViT-Base", 12, 768, 3072, 12, 86),
        ViTVariant("ViT-Large", 24, 1024, 4096, 16, 307),
        ViTVariant("ViT-Huge", 32, 1280, 5120, 16, 632),
    ),
)


@dataclass(frozen=True)
class Pretraining:
    """Top-1 on ImageNet after pre-training on a data set of so many million images, fine-tuned at 384 pixels."""

    model: str
    dataset: str
    images_m: float
    imagenet: float


VIT_PRETRAINING = Table(
    Source(
        *_VIT,
        "Table 5, its ImageNet rows",
        "Sizes of the data sets from section 4.1: JFT-300M has 303 M images of 18 k classes; the review says 19 K.",
    ),
    (
        Pretraining("ViT-B/16", "ImageNet", 1.3, 77.91),
        Pretraining("ViT-B/32", "ImageNet", 1.3, 73.38),
        Pretraining("ViT-L/16", "ImageNet", 1.3, 76.53),
        Pretraining("ViT-L/32", "ImageNet", 1.3, 71.16),
        Pretraining("ViT-B/16", "ImageNet-21k", 14, 83.97),
        Pretraining("ViT-B/32", "ImageNet-21k", 14, 81.28),
        Pretraining("ViT-L/16", "ImageNet-21k", 14, 85.15),
        Pretraining("ViT-L/32", "ImageNet-21k", 14, 80.99),
        Pretraining("ViT-H/14", "ImageNet-21k", 14, 85.13),
        Pretraining("ViT-B/16", "JFT-300M", 303, 84.15),
        Pretraining("ViT-B/32", "JFT-300M", 303, 80.73),
        Pretraining("ViT-L/16", "JFT-300M", 303, 87.12),
        Pretraining("ViT-L/32", "JFT-300M", 303, 84.37),
        Pretraining("ViT-H/14", "JFT-300M", 303, 88.04),
    ),
)


@dataclass(frozen=True)
class Transfer:
    """Top-1 after ImageNet pre-training, and images a second."""

    model: str
    imagenet: float | None
    cifar10: float | None
    cifar100: float | None
    flowers: float | None
    cars: float | None
    inat18: float | None
    inat19: float | None
    images_per_second: float


DEIT_TRANSFER = Table(
    Source(
        *_DEIT,
        "Table 7",
        "Distilled models carry an alembic sign in print. DeiT-B at 384 is 83.1 here, 82.9 as released.",
    ),
    (
        Transfer("Grafit ResNet-50", 79.6, None, None, 98.2, 92.5, 69.8, 75.9, 1226.1),
        Transfer("Grafit RegNetY-8GF", None, None, None, 99.0, 94.0, 76.8, 80.0, 591.6),
        Transfer("ResNet-152", None, None, None, None, None, 69.1, None, 526.3),
        Transfer("EfficientNet-B7", 84.3, 98.9, 91.7, 98.8, 94.7, None, None, 55.1),
        Transfer("ViT-B/32", 73.4, 97.8, 86.3, 85.4, None, None, None, 394.5),
        Transfer("ViT-B/16", 77.9, 98.1, 87.1, 89.5, None, None, None, 85.9),
        Transfer("ViT-L/32", 71.2, 97.9, 87.1, 86.4, None, None, None, 124.1),
        Transfer("ViT-L/16", 76.5, 97.9, 86.4, 89.7, None, None, None, 27.3),
        Transfer("DeiT-B", 81.8, 99.1, 90.8, 98.4, 92.1, 73.2, 77.7, 292.3),
        Transfer("DeiT-B 384", 83.1, 99.1, 90.8, 98.5, 93.3, 79.5, 81.4, 85.9),
        Transfer("DeiT-B distilled", 83.4, 99.1, 91.3, 98.8, 92.9, 73.7, 78.4, 290.9),
        Transfer("DeiT-B distilled 384", 84.4, 99.2, 91.4, 98.9, 93.9, 80.1, 83.0, 85.9),
    ),
)


@dataclass(frozen=True)
class Distillation:
    """Top-1 on ImageNet of the three sizes at 224, and of the largest after fine-tuning at 384."""

    method: str
    tiny: float
    small: float
    base: float
    base_384: float


DEIT_DISTILLATION = Table(
    Source(
        *_DEIT,
        "Table 3",
        "The last three rows are one model with a distillation token: its class head, its distillation head, both. "
        "For both at 384 the transfer table prints 84.4; DeiT-S without distillation is 79.9 as released.",
    ),
    (
        Distillation("no distillation", 72.2, 79.8, 81.8, 83.1),
        Distillation("soft", 72.2, 79.8, 81.8, 83.2),
        Distillation("hard", 74.3, 80.9, 83.0, 84.0),
        Distillation("token: class head", 73.9, 80.9, 83.0, 84.2),
        Distillation("token: distillation head", 74.6, 81.1, 83.1, 84.4),
        Distillation("token: both heads", 74.5, 81.2, 83.4, 84.5),
    ),
)


@dataclass(frozen=True)
class Throughput:
    """Parameters, image size, images a second on one 16 GB V100 at the largest batch that fits, top-1 on ImageNet."""

    model: str
    params_m: float
    size: int
    images_per_second: float
    imagenet: float


DEIT_THROUGHPUT = Table(
    Source(*_DEIT, "Table 5", "The rows whose networks this project builds."),
    (
        Throughput("ResNet-50", 25, 224, 1226.1, 76.2),
        Throughput("ResNet-152", 60, 224, 526.4, 78.3),
        Throughput("ViT-B/16", 86, 384, 85.9, 77.9),
        Throughput("ViT-L/16", 307, 384, 27.3, 76.5),
        Throughput("DeiT-Ti", 5, 224, 2536.5, 72.2),
        Throughput("DeiT-S", 22, 224, 940.4, 79.8),
        Throughput("DeiT-B", 86, 224, 292.3, 81.8),
        Throughput("DeiT-B 384", 86, 384, 85.9, 83.1),
        Throughput("DeiT-Ti distilled", 6, 224, 2529.5, 74.5),
        Throughput("DeiT-S distilled", 22, 224, 936.2, 81.2),
        Throughput("DeiT-B distilled", 87, 224, 290.9, 83.4),
        Throughput("DeiT-B distilled 384", 87, 384, 85.8, 84.5),
    ),
)


# Video transformers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingCost:
    """Kinetics-400: hours of training, top-1, and inference over all views in T multiply-adds."""

    model: str
    pretrained: str | None
    k400_hours: int
    k400_top1: float
    inference_tflops: float
    params_m: float


TIMESFORMER_COST = Table(
    Source(*_TIMESFORMER, "Table 2"),
    (
        TrainingCost("I3D 8x8 R50", "ImageNet-1K", 444, 71.0, 1.11, 28.0),
        TrainingCost("I3D 8x8 R50", "ImageNet-1K", 1440, 73.4, 1.11, 28.0),
        TrainingCost("SlowFast R50", "ImageNet-1K", 448, 70.0, 1.97, 34.6),
        TrainingCost("SlowFast R50", "ImageNet-1K", 3840, 75.6, 1.97, 34.6),
        TrainingCost("SlowFast R50", None, 6336, 76.4, 1.97, 34.6),
        TrainingCost("TimeSformer", "ImageNet-1K", 416, 75.8, 0.59, 121.4),
        TrainingCost("TimeSformer", "ImageNet-21K", 416, 78.0, 0.59, 121.4),
    ),
)


@dataclass(frozen=True)
class AttentionScheme:
    """One way to attend over a clip: parameters, and top-1 on Kinetics-400 and Something-Something V2."""

    scheme: str
    params_m: float
    k400_top1: float
    ssv2_top1: float


TIMESFORMER_SCHEMES = Table(
    Source(
        *_TIMESFORMER,
        "Table 1",
        "8 frames of 224. Our counts agree with the printed parameters at 174 classes, those of Something-Something.",
    ),
    (
        AttentionScheme("space", 85.9, 76.9, 36.6),
        AttentionScheme("joint", 85.9, 77.4, 58.5),
        AttentionScheme("divided", 121.4, 78.0, 59.5),
        AttentionScheme("local_global", 121.4, 75.9, 56.3),
        AttentionScheme("axial", 156.8, 73.5, 56.2),
    ),
)


@dataclass(frozen=True)
class TubeletInput:
    """Kinetics-400 top-1 of ViViT-B, model 1, by how 32 frames become tokens: 8 frames, or tubelets of 4 frames."""

    embedding: str
    start: str
    k400_top1: float


VIVIT_INPUTS = Table(
    Source(*_VIVIT, "Table 1"),
    (
        TubeletInput("uniform frame sampling", "image embedding", 78.5),
        TubeletInput("tubelets", "random", 73.2),
        TubeletInput("tubelets", "filter inflation", 77.6),
        TubeletInput("tubelets", "central frame", 79.2),
    ),
)


@dataclass(frozen=True)
class VideoVariant:
    """ViViT-B/16x2, 32 frames: top-1 on Kinetics-400, actions on Epic Kitchens; cost of one view, ms on a TPU-v3."""

    model: int
    name: str
    k400_top1: float
    epic_top1: float
    gflops: float
    params_m: float
    runtime_ms: float


VIVIT_VARIANTS = Table(
    Source(
        *_VIVIT,
        "Table 2",
        "The second row of model 2 has no temporal encoder: the mean over frames is classified.",
    ),
    (
        VideoVariant(1, "spatio-temporal", 80.0, 43.1, 455.2, 88.9, 58.9),
        VideoVariant(2, "factorised encoder", 78.8, 43.7, 284.4, 115.1, 17.4),
        VideoVariant(3, "factorised self-attention", 77.4, 39.1, 372.3, 117.3, 31.7),
        VideoVariant(4, "factorised dot product", 76.3, 39.5, 277.1, 88.9, 22.9),
        VideoVariant(2, "average pooling baseline", 75.8, 38.8, 283.9, 86.7, 17.3),
    ),
)


@dataclass(frozen=True)
class Regulariser:
    """ViViT-B/16x2, model 2: action top-1 on Epic Kitchens with this and everything above it."""

    added: str
    epic_top1: float


VIVIT_REGULARISERS = Table(
    Source(*_VIVIT, "Table 4", "Table 3 in the first arXiv version."),
    (
        Regulariser("random crop, flip, colour jitter", 38.4),
        Regulariser("Kinetics-400 initialisation", 39.6),
        Regulariser("stochastic depth", 40.2),
        Regulariser("random augment", 41.1),
        Regulariser("label smoothing", 43.1),
        Regulariser("mixup", 43.7),
    ),
)


@dataclass(frozen=True)
class MultiscaleCost:
    """Kinetics-400 top-1 with 5 centre views; multiply-adds of one clip; memory of a training batch of 4 clips."""

    model: str
    gflops: float
    params_m: float
    memory_gb: float
    k400_top1: float


MVIT_COST = Table(
    Source(*_MVIT, "Table 3", "MViT-B here pools by maximum. The configuration of MViT-S was never released."),
    (
        MultiscaleCost("ViT-B", 179.6, 87.2, 16.8, 68.5),
        MultiscaleCost("MViT-B", 70.5, 36.5, 6.8, 77.2),
        MultiscaleCost("MViT-S", 32.9, 26.1, 4.3, 74.3),
    ),
)


@dataclass(frozen=True)
class Stage:
    """One line of an architecture: the first convolution (kernel, stride) or repeated blocks (width, mlp)."""

    model: str
    stage: str
    channels: int
    output: tuple[int, int, int]
    blocks: int | None = None
    mlp: int | None = None
    kernel: tuple[int, int, int] | None = None
    stride: tuple[int, int, int] | None = None


MVIT_STAGES = Table(
    Source(*_MVIT, "Table 3", "Frames are first taken with a stride: 8 for ViT-B, 4 for both MViT."),
    (
        Stage("ViT-B", "patch1", 768, (8, 14, 14), kernel=(1, 16, 16), stride=(1, 16, 16)),
        Stage("ViT-B", "scale2", 768, (8, 14, 14), blocks=12, mlp=3072),
        Stage("MViT-B", "cube1", 96, (8, 56, 56), kernel=(3, 7, 7), stride=(2, 4, 4)),
        Stage("MViT-B", "scale2", 96, (8, 56, 56), blocks=1, mlp=384),
        Stage("MViT-B", "scale3", 192, (8, 28, 28), blocks=2, mlp=768),
        Stage("MViT-B", "scale4", 384, (8, 14, 14), blocks=11, mlp=1536),
        Stage("MViT-B", "scale5", 768, (8, 7, 7), blocks=2, mlp=3072),
        Stage("MViT-S", "cube1", 128, (8, 28, 28), kernel=(3, 8, 8), stride=(2, 8, 8)),
        Stage("MViT-S", "scale2", 128, (8, 28, 28), blocks=3, mlp=512),
        Stage("MViT-S", "scale3", 256, (8, 14, 14), blocks=7, mlp=1024),
        Stage("MViT-S", "scale4", 512, (8, 7, 7), blocks=6, mlp=2048),
    ),
)


@dataclass(frozen=True)
class Gap:
    """Top-1 on Kinetics-400 and Something-Something V2, and their printed difference."""

    model: str
    k400_top1: float
    ssv2_top1: float
    gap: float


APPEARANCE_MOTION_GAP = Table(
    Source(
        *_REVIEW,
        "Table 1",
        "Collected from the models' papers. TimeSformer-L and ViViT-L have 62.4 and 65.4 on SSV2 in SOTA_SOMETHING.",
    ),
    (
        Gap("TSM", 74.1, 63.4, 10.7),
        Gap("MSNet", 76.4, 64.7, 11.7),
        Gap("MoViNet-A3", 78.2, 64.1, 14.1),
        Gap("SELFYNet", 76.9, 65.7, 11.2),
        Gap("TimeSformer-L", 80.7, 62.3, 18.4),
        Gap("MViT-B 16x4", 78.4, 64.7, 13.7),
        Gap("ViViT-L", 81.7, 65.9, 15.8),
        Gap("Swin-B", 82.7, 69.6, 13.1),
    ),
)


# Relational self-attention -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Combination:
    """Kernel and context, each "V" basic, "R" relational or "VR" both; SS-V1, 8 frames, one layer in stage 4."""

    kernel: str
    context: str
    gflops: float
    params_m: float
    top1: float
    top5: float


RSA_COMBINATIONS = Table(
    Source(*_RSA, "Table 4(a)", "The paper's stage 4 is res4, the third of ResNet's four residual stages."),
    (
        Combination("V", "V", 32.3, 23.4, 44.8, 73.8),
        Combination("R", "V", 32.7, 23.6, 45.4, 73.9),
        Combination("VR", "V", 32.7, 23.6, 45.7, 74.8),
        Combination("V", "R", 32.7, 23.4, 46.2, 75.4),
        Combination("R", "R", 33.2, 23.6, 46.5, 75.6),
        Combination("VR", "R", 33.2, 23.6, 46.7, 75.6),
        Combination("V", "VR", 32.7, 23.4, 46.5, 75.6),
        Combination("R", "VR", 33.2, 23.6, 46.8, 75.6),
        Combination("VR", "VR", 33.2, 23.6, 47.0, 75.7),
    ),
)


@dataclass(frozen=True)
class Latent:
    """Latent dimension D (None: H is not decomposed); SS-V1, 8 frames, 7 layers. None: out of memory."""

    latent: int | str | None
    gflops: float
    params_m: float
    memory_gb: float | None
    top1: float | None
    top5: float | None


RSA_LATENT = Table(
    Source(
        *_RSA,
        "Table 4(b)",
        "By our count D = 8 costs 32.3 G, not 32.2; and 32.0 M and 62.9 G of the first row are those of the relational "
        "kernel with the basic context, without the product of kernel and context: all parts are 32.1 M and 68.1 G.",
    ),
    (
        Latent(None, 62.9, 32.0, None, None, None),
        Latent(8, 32.2, 20.5, 8.8, 50.1, 78.8),
        Latent(16, 34.7, 20.9, 9.2, 51.3, 78.8),
        Latent(32, 39.6, 21.7, 10.2, 50.9, 79.0),
        Latent("C^Q/2", 32.9, 21.1, 8.8, 51.1, 79.1),
        Latent("C^Q", 35.9, 22.0, 9.6, 51.5, 79.2),
    ),
)


@dataclass(frozen=True)
class KernelSize:
    """Neighbourhood (kT, kH, kW); SS-V1, 8 frames, 7 layers."""

    kernel_size: tuple[int, int, int]
    gflops: float
    params_m: float
    top1: float
    top5: float


RSA_KERNEL_SIZE = Table(
    Source(*_RSA, "Table 4(c)", "3 x 5 x 5 has 20.6498 M parameters by our count, printed as 20.7."),
    (
        KernelSize((3, 3, 3), 28.5, 20.3, 49.4, 77.6),
        KernelSize((3, 5, 5), 30.2, 20.7, 50.5, 78.7),
        KernelSize((3, 7, 7), 32.6, 21.2, 50.7, 78.9),
        KernelSize((3, 9, 9), 35.8, 22.0, 51.1, 79.1),
        KernelSize((5, 7, 7), 35.9, 22.0, 51.5, 79.2),
        KernelSize((5, 9, 9), 41.3, 23.3, 51.2, 78.9),
    ),
)


@dataclass(frozen=True)
class Groups:
    """Groups G of the query-key product, "C^Q" being the Hadamard product; SS-V1, 8 frames, 7 layers."""

    groups: int | str
    gflops: float
    params_m: float
    top1: float
    top5: float


RSA_GROUPS = Table(
    Source(*_RSA, "Table 4(d)"),
    (
        Groups(1, 35.9, 20.2, 50.4, 78.9),
        Groups(2, 35.9, 20.2, 50.9, 78.9),
        Groups(4, 35.9, 20.3, 51.2, 78.9),
        Groups(8, 35.9, 20.5, 51.2, 79.0),
        Groups("C^Q", 35.9, 22.0, 51.5, 79.2),
    ),
)


@dataclass(frozen=True)
class Something:
    """Something-Something V1 and V2; multiply-adds of one clip, and how many clips are run."""

    model: str
    pretrained: str | None
    frames: int | str
    gflops: float | None
    clips: int
    ssv1_top1: float | None
    ssv1_top5: float | None
    ssv2_top1: float | None
    ssv2_top5: float | None


SOTA_SOMETHING = Table(
    Source(*_RSA, "Table 3(a)", "The review prints it as (a) of its comparison. EN: mean of the 8- and 16-frame nets."),
    (
        Something("I3D", "IN", 32, 153, 2, 41.6, 72.2, None, None),
        Something("TSM-R50", "IN", 16, 65, 1, 47.2, 77.1, 63.4, 88.5),
        Something("ir-CSN-152", None, 32, 97, 10, 49.3, None, None, None),
        Something("SlowFast8x8-R50", "K400", 32, 67, 3, None, None, 61.7, 86.9),
        Something("CT-Net-R50", "IN", 16, 75, 1, 52.5, 80.9, 64.5, 89.3),
        Something("STM-R50", "IN", 16, 67, 30, 50.7, 80.4, 64.2, 89.8),
        Something("CorrNet-R101", None, 32, 187, 10, 50.9, None, None, None),
        Something("TEA", "IN", 16, 70, 3, 52.3, 81.9, 65.1, 89.9),
        Something("MSNet-TSM-R50", "IN", 16, 67, 1, 52.1, 82.3, 64.7, 89.4),
        Something("NL-I3D", "IN", 32, 168, 2, 44.4, 76.0, None, None),
        Something("TimeSformer-HR", "IN", 16, 1703, 3, None, None, 62.2, None),
        Something("TimeSformer-L", "IN", 96, 2380, 3, None, None, 62.4, None),
        Something("ViViT-L", "IN21K & K400", 32, None, 4, None, None, 65.4, 89.8),
        Something("RSANet-R50", "IN", 8, 36, 1, 51.9, 79.6, 64.8, 89.1),
        Something("RSANet-R50", "IN", 16, 72, 1, 54.0, 81.1, 66.0, 89.8),
        Something("RSANet-R50 EN", "IN", "8+16", 108, 1, 55.5, 82.6, 67.3, 90.8),
        Something("RSANet-R50 EN", "IN", "8+16", 108, 2, 56.1, 82.8, 67.7, 91.1),
    ),
)


@dataclass(frozen=True)
class Diving:
    """Diving-48; multiply-adds of one clip, and how many clips are run."""

    model: str
    gflops: float
    clips: int
    top1: float


SOTA_DIVING = Table(
    Source(*_RSA, "Table 3(b)", "The upper four rows are quoted there from the TimeSformer paper."),
    (
        Diving("SlowFast-R101", 213, 3, 77.6),
        Diving("TimeSformer", 196, 3, 75.0),
        Diving("TimeSformer-HR", 1703, 3, 78.0),
        Diving("TimeSformer-L", 2380, 3, 81.0),
        Diving("RSANet-R50", 72, 2, 84.2),
    ),
)


@dataclass(frozen=True)
class FineGym:
    """Accuracy averaged over classes."""

    model: str
    gym288: float
    gym99: float


SOTA_FINEGYM = Table(
    Source(*_RSA, "Table 3(c)", "The upper four rows are quoted there from the FineGym paper."),
    (
        FineGym("TRN", 33.1, 68.7),
        FineGym("I3D", 27.9, 63.2),
        FineGym("TSM", 34.8, 70.6),
        FineGym("TSM two-stream", 46.5, 81.2),
        FineGym("RSANet-R50", 50.9, 86.4),
    ),
)


# Data sets -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dataset:
    """Number of classes and of clips in each split (None: there is none, or its labels are not public as a split)."""

    name: str
    classes: int
    train: int
    validation: int | None
    test: int | None
    access: str
    paper: str


DATASETS = Table(
    Source(
        "The data sets' own pages and annotation files",
        "Something-Something, Diving-48 V2, FineGym",
        "see `paper` of each row",
        "numbers of clips",
        "None of them can be shipped or downloaded by this project: a reader brings a copy.",
    ),
    (
        Dataset(
            "Something-Something V1",
            174,
            86_017,
            11_522,
            10_960,
            "no longer offered officially",
            "Goyal et al., ICCV 2017, arXiv 1706.04261",
        ),
        Dataset(
            "Something-Something V2",
            174,
            168_913,
            24_777,
            27_157,
            "licence form",
            "Goyal et al., ICCV 2017, arXiv 1706.04261",
        ),
        Dataset(
            "Diving-48 V2",
            48,
            15_027,
            None,
            1_970,
            "project page, no licence text found",
            "Li, Li, Vasconcelos, ECCV 2018",
        ),
        Dataset(
            "FineGym Gym99",
            99,
            20_484,
            8_521,
            None,
            "annotations CC BY-NC 4.0; videos by id, many gone",
            "Shao, Zhao, Dai, Lin, CVPR 2020, arXiv 2004.06704",
        ),
        Dataset(
            "FineGym Gym288",
            288,
            22_671,
            9_646,
            None,
            "annotations CC BY-NC 4.0; videos by id, many gone",
            "Shao, Zhao, Dai, Lin, CVPR 2020, arXiv 2004.06704",
        ),
    ),
)
