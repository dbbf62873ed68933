"""What a run measures of itself: sums over clips, where the time goes, how much memory it has held.

Book: chapter 16, Reading a log.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor


def score(logits: Tensor, labels: Tensor, loss: Tensor) -> Tensor:
    """Sums over a batch: loss, right at first, right within five; (B, classes), (B,), mean loss () -> float32 (3,)."""
    best = logits.topk(min(5, logits.shape[1]), 1).indices == labels[:, None]
    return torch.stack([loss.float() * len(labels), best[:, 0].sum().float(), best.sum().float()])


@dataclass
class Totals:
    """Sums over clips: loss (nats), right at first and within five, and how many clips."""

    loss: float = 0.0
    top1: float = 0.0
    top5: float = 0.0
    clips: float = 0.0

    def add(self, other: Totals) -> None:
        """Add another's sums."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def means(self) -> dict[str, float]:
        """Loss of a clip, and shares of clips in [0, 1]."""
        return {name: getattr(self, name) / max(self.clips, 1) for name in ("loss", "top1", "top5")}


@dataclass
class Clock:
    """Seconds spent waiting for clips, and on everything else; and the clips of all processes in that time."""

    data: float = 0.0
    compute: float = 0.0
    clips: int = 0
    _mark: float = field(default_factory=time.perf_counter)

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before

    def add(self, data: float, compute: float, clips: int) -> None:
        """Add what a step took."""
        self.data, self.compute, self.clips = self.data + data, self.compute + compute, self.clips + clips

    @property
    def clips_per_s(self) -> float:
        """Clips a second, of all processes together."""
        return self.clips / max(self.data + self.compute, 1e-9)

    @property
    def data_share(self) -> float:
        """Share of the time that went into waiting for clips, in [0, 1]."""
        return self.data / max(self.data + self.compute, 1e-9)

    def row(self, device: torch.device) -> dict[str, float | None]:
        """What a row of the log says of time and memory."""
        return {
            "clips_per_s": self.clips_per_s,
            "data_s": self.data,
            "compute_s": self.compute,
            "peak_memory_mib": peak_memory(device),
        }


def peak_memory(device: torch.device) -> float | None:
    """Most memory held so far, in MiB: of the GPU by torch's tensors, or of the machine by this process.

    None where the system does not tell (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def is_finite(tensors: dict[str, Tensor]) -> bool:
    """Whether every value of every tensor is a finite number."""
    return all(math.isfinite(tensor.double().sum().item()) for tensor in tensors.values())
