"""Fetch MathJax once, so that the site's equations need no other server.

MathJax 3.2.2's single file tex-svg.js goes to book/.mathjax/ (not committed). It comes from a package registry:
the npm package `mathjax` where npm is installed, else the PyPI package `django-static-mathjax`, which carries the
same release. Either file is accepted only with the SHA-256 sum written here. If neither can be had, an empty
file is left, booksite.py lets the pages load MathJax from its CDN, and this says so.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / ".mathjax" / "tex-svg.js"
# The two differ in one redundant assignment (`r=r`): the same sources, packed by two versions of a minifier.
SHA256 = {
    "npm": "d4295dc33744836935c1399feece5159577b34c5c8ffb9f1c6324cd82e03a882",
    "pypi": "2af9375000b5a3669be94d436ae1c61159855283cd18b3ee9817fb71c8f94c84",
}


def from_npm(folder: Path) -> bytes:
    """tex-svg.js out of the npm package."""
    if shutil.which("npm") is None:
        raise FileNotFoundError("npm is not installed")
    subprocess.run(["npm", "pack", "--silent", "mathjax@3.2.2"], cwd=folder, check=True, capture_output=True)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        return archive.extractfile("package/es5/tex-svg.js").read()


def from_pypi(folder: Path) -> bytes:
    """tex-svg.js out of the PyPI package."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*command, "django-static-mathjax==3.2.2.1"], check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        return archive.read("mathjax/static/mathjax/es5/tex-svg.js")


def main() -> None:
    """Leave MathJax, or an empty file, in its place."""
    TARGET.parent.mkdir(exist_ok=True)
    for source, fetch in (("npm", from_npm), ("pypi", from_pypi)):
        with tempfile.TemporaryDirectory() as folder:
            try:
                content = fetch(Path(folder))
            except (OSError, subprocess.CalledProcessError, KeyError, StopIteration) as error:
                print(f"MathJax: not from {source} ({error})", file=sys.stderr)
                continue
        if hashlib.sha256(content).hexdigest() == SHA256[source]:
            TARGET.write_bytes(content)
            print(f"MathJax 3.2.2 fetched ({len(content) / 1e6:.1f} MB): equations will work without a network")
            return
        print(f"MathJax: the file from {source} is not the expected one; not used", file=sys.stderr)
    TARGET.write_bytes(b"")
    print(f"MathJax could not be fetched: pages will load it from its CDN. To try again: rm {TARGET}")


if __name__ == "__main__":
    main()
