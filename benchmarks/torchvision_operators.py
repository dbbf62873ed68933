"""Lets torchvision import beside a CPU build of torch.

A torchvision from the package registry registers fake kernels for operators that exist only beside a CUDA build of
torch, and fails on import otherwise. Defining the two operators lets it import; nothing calls them.
"""

from __future__ import annotations

from functools import cache

import torch


@cache
def define_operators() -> torch.library.Library | None:
    """Define torchvision's `nms` and `qnms` where they are missing; call it before torchvision is first imported.

    Also before timm and transformers, which import torchvision. The definitions live as long as the process.
    """
    if torch.version.cuda is not None:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
