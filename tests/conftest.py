"""What the whole test suite needs before anything else is imported."""

import os

import matplotlib
import torch

# Pictures are drawn, never shown. Not by MPLBACKEND: the chapters' kernels would inherit it and show no figures.
os.environ.pop("MPLBACKEND", None)
matplotlib.use("agg")

if torch.version.cuda is None:
    # A torchvision from the package registry registers fake kernels for operators that exist only beside a CUDA
    # build of torch, and fails on import otherwise. Defining the two operators lets it import; nothing calls them.
    TORCHVISION_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        TORCHVISION_OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
