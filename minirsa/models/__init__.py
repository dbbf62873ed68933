"""Whole networks: one paper a file, readable alone. Videos `(B, 3, T, H, W)` in, logits `(B, num_classes)` out."""

from minirsa.models.resnet import TSNResNet, tsn_resnet50
from minirsa.models.rsanet import RSANet, rsanet_r50, rsanet_small

__all__ = ["RSANet", "TSNResNet", "rsanet_r50", "rsanet_small", "tsn_resnet50"]
