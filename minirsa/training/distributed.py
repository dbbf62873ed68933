"""Several processes as one: who am I, sums over all, and the same net everywhere.

    torchrun --nproc-per-node 8 ... -> 8 processes with RANK, WORLD_SIZE, LOCAL_RANK -> `processes()` in each
    gradients: averaged by DistributedDataParallel; everything else the loop needs: `Processes.sum`, one call a step

NCCL between GPUs, gloo between CPUs. Without torchrun there is one process and nothing is sent. When a process dies,
torchrun (--max-restarts) starts all of them again, they meet where the dead left nothing (`_meeting_place`), and the
run goes on from its last checkpoint, also with fewer processes, if they divide the batch. Book: chapter 16, One GPU,
eight GPUs, several machines.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

_MEETINGS = itertools.count()
"""How often the processes have met: each meeting leaves its addresses in a place of its own."""


@dataclass(frozen=True)
class Processes:
    """This process among `world`: its number `rank`, from 0, and its device. Rank 0 writes files."""

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes, the same on each, in float64. All must call it with as many values."""
        if self.world == 1:
            return [float(value) for value in values]
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(totals)
        return totals.tolist()

    def gather(self, value: object) -> list[object]:
        """What every process gave, by rank, on each of them. All must call it; values travel as pickles."""
        if self.world == 1:
            return [value]
        values: list[object] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.world > 1:
            dist.barrier()

    def same_buffers(self, model: nn.Module) -> None:
        """Give every process the buffers of rank 0: each updates its batch norms from its own clips."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with averaged gradients; the model itself where there is one process."""
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


@contextmanager
def processes(device: str | torch.device | None = None) -> Iterator[Processes]:
    """Join the processes that torchrun started, or be the only one.

    device: "cpu", "cuda", "cuda:1"; by default a GPU if there is one. Each process of a machine takes the GPU of its
    LOCAL_RANK. A process group that exists already is used and left as it is.

    Raises ValueError for variables of torchrun that do not fit together, a device that is not there, fewer GPUs than
    processes, or a torchrun whose processes would not find each other after a restart.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"expected a device that is there, got {chosen}: this torch sees no CUDA GPU; try cpu")
    joined = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if joined else (_number("RANK", 0), _number("WORLD_SIZE", 1))
    if not 0 <= rank < world:
        raise ValueError(f"expected RANK below WORLD_SIZE, got RANK={rank} and WORLD_SIZE={world}: start with torchrun")
    if chosen.type == "cuda":
        index = _number("LOCAL_RANK", rank) if world > 1 else chosen.index or 0
        if index >= torch.cuda.device_count():
            raise ValueError(
                f"expected a GPU for every process, got {torch.cuda.device_count()} on this machine for process {index}"
                ": start torchrun with a smaller --nproc-per-node"
            )
        chosen = torch.device("cuda", index)
        torch.cuda.set_device(chosen)
    ours = world > 1 and not joined
    if ours:
        meet = {"store": _meeting_place(), "rank": rank, "world_size": world}
        if chosen.type == "cuda":
            dist.init_process_group("nccl", device_id=chosen, **meet)
        else:
            dist.init_process_group("gloo", **meet)
    yield Processes(rank, world, chosen)
    if ours:  # after an error the others may wait in a sum: then the process ends, and torchrun ends them
        dist.destroy_process_group()


def _meeting_place() -> dist.Store:
    """The store in which the processes leave their addresses for each other: one of this start of them all.

    torchrun keeps one store over its restarts, and in it a new process finds the addresses of the dead and waits for
    them (https://github.com/pytorch/pytorch/issues/135712). On one machine the count of restarts tells one start from
    the next. Machines count for themselves and may differ; there torchrun has to be told to use a new store each time.
    Processes that part and meet again have the same need; all of them meet equally often.
    """
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    one_machine = _number("LOCAL_WORLD_SIZE", 1) == _number("WORLD_SIZE", 1)
    if shared and not one_machine and _number("TORCHELASTIC_MAX_RESTARTS", 0):
        raise ValueError(
            "on several machines torchrun's processes do not find each other after a restart unless it is started with "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment and --rdzv-backend c10d; or give --max-restarts 0"
        )
    store, _, _ = next(dist.rendezvous("env://"))
    start = _number("TORCHELASTIC_RESTART_COUNT", 0) if shared and one_machine else 0
    return dist.PrefixStore(f"start {start}, meeting {next(_MEETINGS)}", store)


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable)
    if text is None:
        return default
    if not text.isdecimal():
        raise ValueError(f"expected a whole number in the variable {variable}, got {text!r}: start with torchrun")
    return int(text)
