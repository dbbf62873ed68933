"""The book's public address: read from `_config.yml`, written wherever a reader needs it.

`repository.url` in `_config.yml` is the only place where a person types the address. Install cells, Colab
links, README.md and CITATION.cff get theirs from here:

    python book/tools/address.py            rewrite every generated text
    python book/tools/address.py --check    exit 1 and name what is out of date (a test does this)

Until the book has a home the address is a placeholder. GitHub allows no underscore in an account's name, so
`address_not_set` can never belong to anybody, and nobody can be led to a stranger's code.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
PLACEHOLDER_OWNER = "address_not_set"
COLAB = "https://colab.research.google.com"
BADGE_TAG = "colab-badge"
INSTALL_TAG = "install"


def config() -> dict:
    """`_config.yml` as a dictionary."""
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def url() -> str:
    """The repository's web address, without a slash at its end."""
    return config()["repository"]["url"].rstrip("/")


def branch() -> str:
    """The branch that Colab opens notebooks from."""
    return config()["repository"]["branch"]


def is_set() -> bool:
    """False while the placeholder stands."""
    return PLACEHOLDER_OWNER not in url()


def release() -> str:
    """The book's release: the version of the package that it is written for."""
    text = (ROOT / "minirsa" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def colab_link(notebook: str) -> str:
    """Address that opens book/<notebook> in Colab."""
    owner_and_name = url().removeprefix("https://github.com/")
    return f"{COLAB}/github/{owner_and_name}/blob/{branch()}/book/{notebook}"


def badge_source(notebook: str) -> str:
    """Markdown of a chapter's Colab badge: text, so that it needs no picture from another server."""
    return f'<a class="colab-badge" href="{colab_link(notebook)}">Open this chapter in Colab</a>'


def install_source() -> str:
    """Source of the install cell, the same in every chapter.

    In Colab it fetches the repository at the book's release, installs minirsa from it (torch and numpy stay
    as Colab has them) and moves to book/, so that a chapter finds ../data_samples as it does anywhere else.
    """
    return (COLAB_INSTALL if is_set() else COLAB_REFUSAL) % {"url": url(), "release": release()}


COLAB_INSTALL = """\
# Generated, the same in every chapter: installs minirsa in Colab, and anywhere says what this runs on.
import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path

if "google.colab" in sys.modules:
    address, release = "%(url)s", "v%(release)s"
    home = Path("/content/book-of-minirsa")
    if not home.exists():
        clone = ["git", "clone", "--quiet", "--depth", "1", "--branch", release, address, str(home)]
        subprocess.run(clone, check=True)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", str(home)], check=True)
        importlib.invalidate_caches()
    os.chdir(home / "book")
    os.environ.setdefault("MINIRSA_PROFILE", "colab")

import torch

import minirsa

assert minirsa.__version__ == "%(release)s", f"written for minirsa %(release)s, found {minirsa.__version__}"
device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
python = platform.python_version()
print(f"minirsa {minirsa.__version__}, Python {python}, torch {torch.__version__}, {device}")"""

COLAB_REFUSAL = """\
# Generated, the same in every chapter: installs minirsa in Colab, and anywhere says what this runs on.
import platform
import sys

if "google.colab" in sys.modules:
    raise RuntimeError(
        "This copy of the book does not know its public address yet, so Colab cannot install minirsa. "
        "Set repository.url in _config.yml and run `make address`, or run the chapter on your machine."
    )

import torch

import minirsa

assert minirsa.__version__ == "%(release)s", f"written for minirsa %(release)s, found {minirsa.__version__}"
device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
python = platform.python_version()
print(f"minirsa {minirsa.__version__}, Python {python}, torch {torch.__version__}, {device}")"""


def generated_cells(notebook: str) -> list[dict]:
    """The two generated cells of a chapter, as notebook dictionaries (the install cell without outputs)."""
    return [
        {
            "cell_type": "markdown",
            "id": BADGE_TAG,
            "metadata": {"tags": [BADGE_TAG]},
            "source": badge_source(notebook),
        },
        {
            "cell_type": "code",
            "execution_count": None,
            "id": INSTALL_TAG,
            # The line it prints differs from machine to machine: nbval runs the cell, but compares nothing.
            "metadata": {"tags": [INSTALL_TAG, "hide-input", "nbval-ignore-output"]},
            "outputs": [],
            "source": install_source(),
        },
    ]


def place_generated_cells(notebook: dict, name: str) -> None:
    """Put the generated cells behind the chapter's header (its first cell), or refresh them where they stand.

    Outputs and the execution count of an install cell that is already there are kept.
    """
    cells = notebook["cells"]
    old = {tag: cell for cell in cells for tag in (BADGE_TAG, INSTALL_TAG) if tag in cell["metadata"].get("tags", [])}
    fresh = generated_cells(name)
    if INSTALL_TAG in old:
        fresh[1]["outputs"] = old[INSTALL_TAG]["outputs"]
        fresh[1]["execution_count"] = old[INSTALL_TAG]["execution_count"]
    authors = [cell for cell in cells if not any(cell is generated for generated in old.values())]
    notebook["cells"] = [*authors[:1], *fresh, *authors[1:]]


def read_notebook(path: Path) -> dict:
    """A notebook as plain dictionaries, each cell's source one string."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if isinstance(cell["source"], list):
            cell["source"] = "".join(cell["source"])
    return notebook


def notebook_text(notebook: dict) -> str:
    """A notebook as Jupyter writes it: sources and text outputs as lists of lines, one space of indent."""

    def lines(text):
        return text.splitlines(keepends=True) if isinstance(text, str) else text

    written = json.loads(json.dumps(notebook))
    for cell in written["cells"]:
        cell["source"] = lines(cell["source"])
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = lines(output["text"])
            for mime, value in output.get("data", {}).items():
                if mime.startswith("text/"):
                    output["data"][mime] = lines(value)
    return json.dumps(written, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def fill_markers(text: str, name: str, content: str) -> str:
    """Replace what stands between `<!-- generated: name -->` and `<!-- end of name -->`."""
    pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(\n<!-- end of {name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no place for the generated text {name!r}")
    return pattern.sub(lambda match: match.group(1) + content + match.group(2), text)


NO_ADDRESS = "(This copy of the book has no public address yet, so its Colab links lead nowhere so far.)"


def readme_badges() -> str:
    """README's line of Colab links, one a chapter that exists."""
    notebooks = sorted(path.name for path in BOOK.glob("*.ipynb"))
    links = [f"[{name.removesuffix('.ipynb')}]({colab_link(name)})" for name in notebooks]
    warning = "" if is_set() else f"{NO_ADDRESS}\n"
    return f"{warning}Open a chapter in Colab: {' · '.join(links)}"


def readme_clone() -> str:
    """README's command that fetches the repository."""
    return f"```bash\ngit clone {url()}\ncd {url().rsplit('/', 1)[1]}\n```"


def wanted() -> dict[Path, str]:
    """Every file that carries the address, with the text that it should have."""
    texts = {}
    for path in sorted(BOOK.glob("*.ipynb")):
        notebook = read_notebook(path)
        place_generated_cells(notebook, path.name)
        texts[path] = notebook_text(notebook)
    readme = ROOT / "README.md"
    if readme.exists():
        text = fill_markers(readme.read_text(encoding="utf-8"), "clone", readme_clone())
        texts[readme] = fill_markers(text, "colab", readme_badges())
    index = BOOK / "index.md"
    texts[index] = fill_markers(index.read_text(encoding="utf-8"), "colab", "" if is_set() else NO_ADDRESS)
    citation = ROOT / "CITATION.cff"
    if citation.exists():
        text = re.sub(r"(?m)^repository-code: .*$", f'repository-code: "{url()}"', citation.read_text(encoding="utf-8"))
        texts[citation] = re.sub(r"(?m)^version: .*$", f"version: {release()}", text)
    return texts


def main(arguments: list[str] | None = None) -> int:
    """Rewrite what is out of date, or with --check only name it."""
    parser = argparse.ArgumentParser(description="Write the book's public address wherever it is needed.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is out of date")
    check = parser.parse_args(arguments).check
    stale = [path for path, text in wanted().items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{'out of date' if check else 'rewritten'}: {path.relative_to(ROOT)}")
        if not check:
            path.write_text(wanted()[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
