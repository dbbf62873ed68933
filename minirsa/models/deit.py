"""DeiT: a ViT that learns from a teacher through a token of its own.

    image (B, 3, H, W) -- patches --> [x_class; x_distillation; x_1 E; ...; x_N E] + E_pos    (B, N + 2, D)
    -- pre-LN encoder, LN --> y_class (B, D), y_distillation (B, D) -- one head each --> two logits (B, num_classes)

    soft:  L = (1 - lambda) CE(softmax(Z_s), y) + lambda tau^2 KL(softmax(Z_s / tau), softmax(Z_t / tau))    equation 2
    hard:  L = 1/2 CE(softmax(Z_s), y) + 1/2 CE(softmax(Z_s), y_t),   y_t = argmax of the teacher's logits  equation 3

With the distillation token the label teaches the class head and the teacher the other one. Without, DeiT is a ViT and
what is new is its training.

Source: Touvron et al., "Training data-efficient image transformers & distillation through attention", ICML 2021
(arXiv 2012.12877), section 4. Book: chapter 6.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirsa.models.vit import VisionTransformer, fit_positions, from_timm, load_without_heads
from minirsa.models.weights import read_tensors


class DistilledVisionTransformer(VisionTransformer):
    """ViT with a distillation token behind the class token and a head for each: (B, 3, H, W) -> (B, num_classes).

    In training, forward gives two logits, (class, distillation), for `distillation_loss`; in evaluation their mean.
    Args and errors as for `VisionTransformer`, whose pool must be "class". Source: Touvron et al. 2021, section 4 and
    figure 2. Book: chapter 6, "The distillation token".
    """

    def __init__(self, *, num_classes: int = 1000, **options):
        if options.get("pool", "class") != "class":
            raise ValueError("the distilled model reads two tokens: pool cannot be 'mean'")
        super().__init__(num_classes=num_classes, **options)
        self.distillation_token = nn.Parameter(torch.zeros(self.width))
        self.distillation_position = None
        if self.class_position is not None:
            self.distillation_position = nn.Parameter(torch.empty(self.width))
            nn.init.trunc_normal_(self.distillation_position, std=0.02)
        nn.init.trunc_normal_(self.class_token, std=0.02)  # two tokens that start equal would stay so, without E_pos
        nn.init.trunc_normal_(self.distillation_token, std=0.02)
        self.distillation_head = nn.Linear(self.width, num_classes)
        nn.init.zeros_(self.distillation_head.weight)
        nn.init.zeros_(self.distillation_head.bias)

    def embed(self, images: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 2 + N, D): class token, distillation token, patches."""
        x = super().embed(images)
        token = self.distillation_token
        if self.distillation_position is not None:
            token = token + self.distillation_position
        token = self.dropout(token.expand(len(x), 1, -1))
        return torch.cat([x[:, :1], token, x[:, 1:]], 1)

    def features(self, images: Tensor, *, return_weights: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """What the heads read, the class token's then the distillation token's: (B, channels, H, W) -> (B, 2, D)."""
        result = self.encoder(self.embed(images), return_weights=return_weights)
        x, weights = result if return_weights else (result, None)
        return (x[:, :2], weights) if return_weights else x[:, :2]

    def forward(self, images: Tensor, *, return_weights: bool = False):
        """Mean logits (B, num_classes), in training (class, distillation); with return_weights also each layer's."""
        result = self.features(images, return_weights=return_weights)
        y, weights = result if return_weights else (result, None)
        both = self.head(y[:, 0]), self.distillation_head(y[:, 1])
        logits = both if self.training else (both[0] + both[1]) / 2
        return (logits, weights) if return_weights else logits


def soft_distillation(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, weight: float = 0.1, temperature: float = 3.0
) -> Tensor:
    """Equation 2, the mean over the batch: (B, K), (B, K), (B,) -> scalar.

    Args:
        weight: lambda, share of the teacher. temperature: tau. The defaults are the paper's.

    The divergence is the teacher's from the student's, sum of p_t log(p_t / p_s): the direction of Hinton et al. 2015
    and of the published code; the paper's KL(student, teacher) names the arguments in torch's order. No gradient
    reaches the teacher. Raises ValueError for shapes that do not fit, a weight outside [0, 1], a temperature not
    above 0. Source: Touvron et al. 2021, equation 2. Book: chapter 6, "Soft distillation".
    """
    _check(logits, teacher_logits, labels)
    if not 0 <= weight <= 1 or not temperature > 0:
        raise ValueError(f"expected weight in [0, 1] and temperature above 0, got {weight} and {temperature}")
    student = F.log_softmax(logits / temperature, -1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, -1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (1 - weight) * F.cross_entropy(logits, labels) + weight * temperature**2 * divergence


def hard_distillation(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Equation 3, the mean over the batch: (B, K), (B, K), (B,) -> scalar; the teacher's decision is a second label.

    Raises ValueError for shapes that do not fit. Source: Touvron et al. 2021, equation 3. Book: chapter 6, "Hard
    distillation".
    """
    _check(logits, teacher_logits, labels)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits, teacher_logits.argmax(-1))) / 2


def token_distillation(
    logits: tuple[Tensor, Tensor],
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    kind: str = "hard",
    weight: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """The loss of a model with a distillation token: labels teach the class head, the teacher the other one.

    logits: (class, distillation), each (B, K). kind "hard": CE of the distillation head to the teacher's decision;
    "soft": tau^2 times its divergence. weight: share of the teacher's part, 1/2 as in equation 3.

    Raises ValueError for an unknown kind and as `soft_distillation`. Source: Touvron et al. 2021, section 4
    (distillation token). Book: chapter 6, "The distillation token".
    """
    if not isinstance(logits, tuple) or len(logits) != 2:
        raise ValueError("expected (class logits, distillation logits), as the distilled model gives them in training")
    if kind not in ("hard", "soft"):
        raise ValueError(f'expected kind "hard" or "soft", got {kind!r}')
    if not 0 <= weight <= 1:
        raise ValueError(f"expected weight in [0, 1], got {weight}")
    class_logits, distillation_logits = logits
    _check(class_logits, teacher_logits, labels)
    own = F.cross_entropy(class_logits, labels)
    if kind == "hard":
        taught = F.cross_entropy(distillation_logits, teacher_logits.argmax(-1))
    else:
        taught = soft_distillation(distillation_logits, teacher_logits, labels, weight=1.0, temperature=temperature)
    return (1 - weight) * own + weight * taught


@torch.no_grad()
def token_similarity(model: DistilledVisionTransformer, images: Tensor) -> Tensor:
    """Cosine between class and distillation token, averaged over images: (B, channels, H, W) -> (depth + 1,).

    Entry 0 is what enters the first layer (positions included), entry l what leaves layer l, before the last norm; in
    the mode, training or evaluation, that the model is in. Source: Touvron et al. 2021, section 5.2 (analysis of the
    tokens). Book: chapter 6, "Two tokens, two vectors".
    """
    x = model.embed(images)
    kept = [F.cosine_similarity(x[:, 0], x[:, 1], dim=-1).mean()]
    for layer in model.encoder.layers:
        x = layer(x)
        kept.append(F.cosine_similarity(x[:, 0], x[:, 1], dim=-1).mean())
    return torch.stack(kept)


def deit_tiny(num_classes: int = 1000, image_size: int | tuple[int, int] = 224, *, distilled: bool = False, **options):
    """DeiT-T: 5,717,416 parameters, distilled 5,910,800; published top-1 on ImageNet 72.2 and 74.5."""
    return _variant(192, 3, distilled, num_classes=num_classes, image_size=image_size, **options)


def deit_small(num_classes: int = 1000, image_size: int | tuple[int, int] = 224, *, distilled: bool = False, **options):
    """DeiT-S: 22,050,664 parameters, distilled 22,436,432; published top-1 on ImageNet 79.9 and 81.2."""
    return _variant(384, 6, distilled, num_classes=num_classes, image_size=image_size, **options)


def deit_base(num_classes: int = 1000, image_size: int | tuple[int, int] = 224, *, distilled: bool = False, **options):
    """DeiT-B: 86,567,656 parameters, distilled 87,338,192; published top-1 on ImageNet 81.8 and 83.4."""
    return _variant(768, 12, distilled, num_classes=num_classes, image_size=image_size, **options)


def from_pretrained(
    path: str | PathLike[str],
    builder: Callable[..., VisionTransformer] = deit_base,
    *,
    keep_head: bool = True,
    **options,
) -> DistilledVisionTransformer:
    """A distilled model with the weights of a checkpoint under timm's names (`deit_..._distilled_patch16_224`).

    A model without the second token is a ViT: `minirsa.models.vit.from_pretrained(path, deit_base)` reads its weights.
    builder, keep_head, options and errors as there; keep_head=False leaves both heads at their start.
    """
    model = builder(distilled=True, **options)
    if model.class_position is None or model.positions.kind != "learned":
        raise ValueError("published DeiT weights have learned positions; this model has not")
    tensors = from_timm(read_tensors(path), len(model.encoder.layers), tokens=2, heads=("head", "head_dist"))
    for kind in ("weight", "bias"):
        tensors[f"distillation_head.{kind}"] = tensors.pop(f"head_dist.{kind}")
    tensors["positions.table"] = fit_positions(tensors["positions.table"], model.positions.grid)
    load_without_heads(model, tensors, () if keep_head else ("head", "distillation_head"))
    return model


def _variant(width: int, heads: int, distilled: bool, **options) -> VisionTransformer:
    options = {"patch_size": 16, "depth": 12, "stochastic_depth": 0.1, **options}
    model = DistilledVisionTransformer if distilled else VisionTransformer
    return model(width=width, heads=heads, hidden=4 * width, **options)


def _check(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or teacher_logits.shape != logits.shape or labels.shape != logits.shape[:1]:
        raise ValueError(
            "expected logits (B, K), the teacher's (B, K) and labels (B,), "
            f"got {tuple(logits.shape)}, {tuple(teacher_logits.shape)} and {tuple(labels.shape)}"
        )
