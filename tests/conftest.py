"""What every test may rely on."""

import os
from pathlib import Path

import pytest
import torch

# Pictures are drawn, never shown.
os.environ.setdefault("MPLBACKEND", "agg")

if torch.version.cuda is None:
    # torchvision from the package registry is built for a CUDA torch: beside a CPU build it does not import, for want
    # of two operators that no test calls. Declaring them (kept alive in a module variable) is enough.
    _TORCHVISION_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _TORCHVISION_OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's top folder."""
    return Path(__file__).resolve().parents[1]
