"""Whole networks: one paper a file, readable alone.

Translators take token sequences `(B, n)`, image networks `(B, 3, H, W)`, video networks `(B, 3, T, H, W)`; image and
video networks give logits `(B, num_classes)`. Published variants have a builder each, with `num_classes`, `image_size`
and `num_frames` as keyword arguments where they apply.
"""

from minirsa.models.deit import DistilledVisionTransformer, deit_base, deit_small, deit_tiny
from minirsa.models.mvit import MViT, mvit_base_16x4, mvit_base_32x3, mvit_small, vit_base_video
from minirsa.models.resnet import TSNResNet, tsn_resnet50
from minirsa.models.rsanet import RSANet, conv3d_resnet50, rsanet_r50, rsanet_small
from minirsa.models.seq2seq import Seq2Seq
from minirsa.models.timesformer import TimeSformer, timesformer_base, timesformer_hr, timesformer_large
from minirsa.models.transformer import Transformer, transformer_base, transformer_big
from minirsa.models.vit import (
    VisionTransformer,
    vit_base_16,
    vit_base_32,
    vit_huge_14,
    vit_large_16,
    vit_large_32,
)
from minirsa.models.vivit import ViViT, vivit_base

__all__ = [
    "DistilledVisionTransformer",
    "MViT",
    "RSANet",
    "Seq2Seq",
    "TSNResNet",
    "TimeSformer",
    "Transformer",
    "ViViT",
    "VisionTransformer",
    "conv3d_resnet50",
    "deit_base",
    "deit_small",
    "deit_tiny",
    "mvit_base_16x4",
    "mvit_base_32x3",
    "mvit_small",
    "rsanet_r50",
    "rsanet_small",
    "timesformer_base",
    "timesformer_hr",
    "timesformer_large",
    "transformer_base",
    "transformer_big",
    "tsn_resnet50",
    "vit_base_16",
    "vit_base_32",
    "vit_base_video",
    "vit_huge_14",
    "vit_large_16",
    "vit_large_32",
    "vivit_base",
]
