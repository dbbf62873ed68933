"""What keeps a run whole: signals that wait for the end of a step, a folder with one writer.

Book: chapter 16, Checkpoints.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO

import torch

NOTED = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While inside, SIGINT and SIGTERM are noted in `number` instead of stopping; a second SIGINT stops at once.

    Outside the main thread, where no handler can be set, nothing changes.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in NOTED}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def flags(self) -> list[float]:
        """One number for each of `NOTED`, 1 where it came, to be summed over processes."""
        return [float(self.number == number) for number in NOTED]

    def hear(self, flags: list[float]) -> bool:
        """Take over what any process noted when it was asked; whether there was anything."""
        heard = [int(number) for number, flag in zip(NOTED, flags) if flag]
        if heard:  # otherwise a signal that came since then stays noted for the next question
            self.number = heard[0]
        return bool(heard)


def leave_signals_to_the_loop(worker: int) -> None:
    """For a process that reads clips: Ctrl-C reaches every process of a terminal, and the loop needs this one still."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Make the folder and lock it, so that two runs cannot mix their files. The lock goes with the process.

    Raises BlockingIOError if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        if not _lock(file):
            raise BlockingIOError(f"another process trains into {folder}: wait for it, or choose another folder")
        yield


def _lock(file: IO[str]) -> bool:
    """Whether this process has the lock now; True as well where the system has no such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network file system without locks
        return True
    return True


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """What a net's forward pass runs in by a recipe's `precision`: torch's autocast, or nothing for "float32"."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device.type, dtype=kinds[precision]) if precision in kinds else nullcontext()


@contextmanager
def fast_convolutions(device: torch.device) -> Iterator[None]:
    """Let cuDNN try its algorithms on the first step, since every step has the same shapes."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
