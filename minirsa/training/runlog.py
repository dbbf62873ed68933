"""What a run says while it goes: rows of JSON in a file, one line on a terminal, curves for TensorBoard.

    log.jsonl       the run itself: its recipe, then rows of steps and epochs. Going on from a checkpoint cuts off what
                    was written after it, so that the rows are those of a run that was never stopped, but for "timing"
    sessions.jsonl  every start of a process: when, from which checkpoint, on which device, with which versions

Book: chapter 16, Reading a log.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

LOG, SESSIONS = "log.jsonl", "sessions.jsonl"


def read_log(path: str | os.PathLike[str]) -> list[dict[str, object]]:
    """The rows of a log or sessions file, or of a run's folder; a last line cut short by a kill is left out.

    Raises FileNotFoundError, and ValueError naming file and line where a row is not JSON.
    """
    path = Path(path)
    path = path / LOG if path.is_dir() else path
    return [_row(line, number, path) for number, line in enumerate(_lines(path), 1)]


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]


def _row(line: bytes, number: int, path: Path) -> dict[str, object]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} of {path} is no row of a log: {error}") from error


class RunLog:
    """Writes a run's log; on processes other than the first it writes nothing.

    folder: of the run. keep: rows that a checkpoint vouches for; the ones after them are cut off. tensorboard: whether
    numbers go to TensorBoard too, into `folder/tensorboard`.

    Raises ValueError if rows that a checkpoint vouches for are missing, or TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: Path, *, keep: int, writes: bool, tensorboard: bool = False, step: int = 0):
        self.rows = keep
        self.folder = folder
        self._file: TextIO | None = None
        self._board = None
        if not writes:
            return
        path = folder / LOG
        lines = _lines(path) if path.is_file() else []
        if len(lines) < keep:
            raise ValueError(f"expected the {keep} rows that the checkpoint knows of in {path}, got {len(lines)}")
        if path.is_file():
            os.truncate(path, sum(len(line) + 1 for line in lines[:keep]))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        if tensorboard:
            self._board = _summary_writer(folder / "tensorboard", step)

    def write(self, row: Mapping[str, object], *, step: int | None = None) -> None:
        """Append a row, and reach the file system before anything else happens."""
        self.rows += 1
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._board is not None and step is not None:
            for name, value in _numbers(row, str(row["kind"])):
                self._board.add_scalar(name, value, step)

    def write_session(self, row: Mapping[str, object]) -> None:
        """Append a row to the file of starts."""
        if self._file is not None:
            with open(self.folder / SESSIONS, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def sync(self) -> None:
        """Have every row on the disk before a checkpoint vouches for it."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()
        self._file = self._board = None


def _numbers(row: Mapping[str, object], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}/{name}")
        elif isinstance(value, (int, float)) and name not in ("epoch", "step"):
            yield f"{prefix}/{name}", value


def _summary_writer(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("TensorBoard is not installed: pip install minirsa[tensorboard], or leave it out") from error
    return SummaryWriter(folder, purge_step=step)  # steps that a killed run wrote beyond its checkpoint are hidden


class ProgressLine:
    """One line on a terminal that is written over; where there is no terminal, nothing."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.shown = self.stream.isatty()
        self._next = 0.0
        self._open = False

    def update(self, text: str) -> None:
        """Show a text, at most five times a second."""
        now = time.monotonic()
        if self.shown and now >= self._next:
            self._next, self._open = now + 0.2, True
            width = shutil.get_terminal_size().columns
            self.stream.write("\r\x1b[K" + text[: max(width - 1, 20)])
            self.stream.flush()

    def close(self) -> None:
        """Leave the line empty for what comes next."""
        if self._open:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self._open = False
