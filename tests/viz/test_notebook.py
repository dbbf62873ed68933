"""The figures in real kernels: today's ipywidgets, and the pair that Colab still ships.

Colab has ipywidgets 7.7.1 and IPython 7.34. They are laid over the test environment, from a folder under .cache/
that is filled once from the package registry; without a registry that half is skipped, except in CI.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from minirsa.viz.dual import WIDGET_VIEW

ROOT = Path(__file__).parents[2]
COLAB = ("ipywidgets==7.7.1", "ipython==7.34.0", "backcall", "pickleshare", "ipython_genutils", "decorator")
SETUP = f"""\
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import IPython, ipywidgets
from conftest import small_scene
from minirsa.viz import KernelExplorer
print(ipywidgets.__version__.split(".")[0], IPython.__version__.split(".")[0])
explorer = KernelExplorer(*small_scene(), caption="In a notebook.")
explorer"""
MOVE = """\
live = explorer.widget()
slider, image = live.children[0].children[0], live.children[2]
before = bytes(image.value)
slider.value = 1
print(before.startswith(b"\\x89PNG"), bytes(image.value) != before)"""


ATTENTION = f"""\
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import ipywidgets
from conftest import small_alignments, small_attention
from minirsa.viz import AlignmentMap, AttentionExplorer
print(ipywidgets.__version__.split(".")[0])
explorer = AttentionExplorer(*small_attention(), caption="In a notebook.")
explorer"""
ALIGNMENT = """\
words = AlignmentMap(small_alignments(), caption="In a notebook, too.")
words"""
MOVE_BOTH = """\
for figure, slider in ((explorer, (1, 0)), (words, (0, 1))):
    live = figure.widget()
    image = next(part for part in live.children if isinstance(part, ipywidgets.Image))
    before = bytes(image.value)
    live.children[slider[0]].children[slider[1]].value = 3
    print(before.startswith(b"\\x89PNG"), bytes(image.value) != before)"""


def colab_packages() -> Path:
    folder = ROOT / ".cache" / "ipywidgets-7.7.1"
    if (folder / "complete").exists():
        return folder
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", folder, *COLAB]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        message = f"ipywidgets 7.7.1 could not be installed into {folder.relative_to(ROOT)}: {done.stderr[-500:]}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    (folder / "complete").touch()
    return folder


def kernel(name: str, folder: Path, before: str, monkeypatch) -> None:
    """Make a kernel `name` of this Python with `before` ahead of its packages, and let Jupyter find it."""
    spec = folder / "kernels" / name / "kernel.json"
    spec.parent.mkdir(parents=True)
    path = os.pathsep.join(filter(None, [before, str(ROOT), os.environ.get("PYTHONPATH")]))
    spec.write_text(
        json.dumps(
            {
                "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": name,
                "language": "python",
                "env": {"PYTHONPATH": path, "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
            }
        )
    )
    monkeypatch.setenv("JUPYTER_PATH", str(folder))


@pytest.mark.parametrize(("name", "versions"), [("today", None), ("colab", "7 7")])
def test_explorer_in_a_notebook(name, versions, tmp_path, monkeypatch):
    before = str(colab_packages()) if name == "colab" else ""
    kernel(name, tmp_path, before, monkeypatch)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (SETUP, MOVE)])
    NotebookClient(notebook, timeout=60, kernel_name=name, store_widget_state=False).execute()

    assert [o.get("name") for cell in notebook.cells for o in cell.outputs].count("stderr") == 0
    printed, shown = notebook.cells[0].outputs
    if versions:
        assert printed["text"].strip() == versions
    assert set(shown["data"]) == {"text/plain", "text/html", WIDGET_VIEW}
    assert notebook.cells[1].outputs[0]["text"].strip() == "True True"

    if name == "today":
        strict_nbval_sees_only_the_altered_figure(notebook, tmp_path)


@pytest.mark.parametrize(("name", "version"), [("today", None), ("colab", "7")])
def test_attention_figures_in_a_notebook(name, version, tmp_path, monkeypatch):
    kernel(name, tmp_path, str(colab_packages()) if name == "colab" else "", monkeypatch)
    sources = (ATTENTION, ALIGNMENT, MOVE_BOTH)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=60, kernel_name=name, store_widget_state=False).execute()
    assert [o.get("name") for cell in notebook.cells for o in cell.outputs].count("stderr") == 0
    printed, explorer = notebook.cells[0].outputs
    if version:
        assert printed["text"].strip() == version
    (words,) = notebook.cells[1].outputs
    assert set(explorer["data"]) == set(words["data"]) == {"text/plain", "text/html", WIDGET_VIEW}
    assert "".join(output["text"] for output in notebook.cells[2].outputs).split() == ["True"] * 4


def strict_nbval_sees_only_the_altered_figure(notebook, folder: Path) -> None:
    """A second run is equal under strict nbval, figure included; where the stored figure is altered, it is not."""
    notebook.cells.append(nbformat.v4.new_code_cell("explorer", outputs=[notebook.cells[0].outputs[1].copy()]))
    altered = nbformat.from_dict(json.loads(json.dumps(notebook.cells[2].outputs[0])))
    altered["data"]["text/html"] = altered["data"]["text/html"].replace("In a notebook.", "In another notebook.")
    notebook.cells[2].outputs = [altered]
    path = folder / "figure.ipynb"
    nbformat.write(notebook, path)
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", folder, "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--nbval", "--nbval-current-env", path], capture_output=True, text=True, timeout=120, cwd=folder
    )
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "Cell 2" in done.stdout.split("short test summary")[-1]
