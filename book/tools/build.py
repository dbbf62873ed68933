"""Build the site: what `make book` runs.

python book/tools/build.py             build what changed, print the path of the start page
python book/tools/build.py --strict    from nothing, with every warning and every dangling reference an error
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_PAGE = ROOT / "_build" / "html" / "index.html"
BUILT = ROOT / "_build" / "built"  # touched after every good build


def check_version() -> None:
    """Stop unless Jupyter Book is 1.x: 2.x is another program, and would rename _config.yml away."""
    found = version("jupyter-book")
    if found.split(".")[0] != "1":
        raise SystemExit(f"error: jupyter-book {found} is installed, this book needs 1.x: run `make setup`")


def must_start_over() -> bool:
    """True if what every page depends on is newer than the last build: Sphinx copies style sheets only then."""
    common = [ROOT / "_config.yml", *(ROOT / "book" / "assets").iterdir(), *(ROOT / "book" / "tools").glob("*.py")]
    common += (ROOT / "book" / ".mathjax").glob("*")
    return not BUILT.exists() or any(path.stat().st_mtime > BUILT.stat().st_mtime for path in common)


def main() -> int:
    """Build, and say where the result is."""
    parser = argparse.ArgumentParser(description="Build the site.")
    parser.add_argument("--strict", action="store_true", help="from nothing, warnings are errors")
    strict = parser.parse_args().strict
    check_version()
    if strict:
        shutil.rmtree(ROOT / "_build", ignore_errors=True)
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        "book",
        "--config",
        "_config.yml",
    ]
    command += ["--path-output", ".", *(["-W", "--keep-going", "-n"] if strict else ["--quiet"])]
    command += ["--all"] if must_start_over() else []
    # Sphinx imports the book's own extension from here.
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "book" / "tools")}
    print("building the site", flush=True)
    # Warnings go to stderr, where they are seen; of stdout only an error's account is worth reading.
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0 or not START_PAGE.exists():
        print(done.stdout[-5000:], file=sys.stderr)
        print("error: the site was not built; the reasons stand above", file=sys.stderr)
        return 1
    BUILT.touch()
    print(f"The book is built. Open {START_PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
