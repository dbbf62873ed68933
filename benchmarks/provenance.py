"""Where a measured number comes from: command, commit, hardware, versions and date, written beside every result."""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def hardware() -> str:
    """The GPU's name, or the processor's name and the number of threads torch uses."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return f"{name}, {torch.get_num_threads()} threads"


def provenance(seed: int | None = None) -> dict[str, object]:
    """Command, commit (with "+changes" when the tree was not clean), seed, hardware, versions, date."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "minirsa")
    module = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {module.name}" if module else f"python {Path(sys.argv[0]).name}"
    return {
        "command": " ".join([program, *sys.argv[1:]]),
        "seed": seed,
        "commit": git("rev-parse", "--short", "HEAD") + ("+changes" if changed else ""),
        "hardware": hardware(),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "date": datetime.date.today().isoformat(),
    }
