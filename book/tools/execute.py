"""Run chapters and write their outputs back into the notebooks.

    python book/tools/execute.py 13            one chapter, by number (or by file name)
    python book/tools/execute.py 00 07 13      several, one after the other
    python book/tools/execute.py all

A chapter's source of truth is its executed notebook. This puts in (or refreshes) the generated cells, runs
everything from top to bottom in a fresh kernel, and leaves out what changes from run to run without meaning
anything: times, widget ids, metadata of editors. If a cell fails, or writes to stderr, the notebook on disk
stays as it was.

MINIRSA_PROFILE is `ci` unless the caller sets it: the committed outputs are those the tests compare with.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import address
import nbformat
from address import BOOK, notebook_text, place_generated_cells, read_notebook
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KEPT_CELL_METADATA = ("tags", "mystnb")


def find(chapter: str) -> list[Path]:
    """The notebooks that an argument names: "13", "13_rsa", "13_rsa.ipynb" or "all"."""
    notebooks = sorted(BOOK.glob("*.ipynb"))
    if chapter == "all":
        return notebooks
    stem = Path(chapter).name.removesuffix(".ipynb")
    number = f"{int(stem):02d}" if stem.isdigit() else None
    found = [path for path in notebooks if path.stem == stem or path.stem.split("_")[0] == number]
    if len(found) != 1:
        names = ", ".join(path.stem for path in notebooks)
        raise SystemExit(f"no chapter {chapter!r}; there are: {names}")
    return found


def normalise(notebook: dict) -> None:
    """Keep what a reader or a tool needs, so that two runs of an unchanged chapter give the same file."""
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook["nbformat"], notebook["nbformat_minor"] = 4, 5
    ids = set()
    for index, cell in enumerate(notebook["cells"]):
        cell["metadata"] = {key: cell["metadata"][key] for key in KEPT_CELL_METADATA if key in cell["metadata"]}
        if not cell.get("id") or cell["id"] in ids:
            cell["id"] = f"cell-{index:03d}"
        ids.add(cell["id"])
        if cell["cell_type"] == "code":
            cell["outputs"] = joined_streams(cell["outputs"])
            for output in cell["outputs"]:
                # The live view is worthless without its kernel; the same object's text/html is what stays.
                if len(output.get("data", {})) > 1:
                    output["data"].pop(WIDGET_VIEW, None)


def joined_streams(outputs: list[dict]) -> list[dict]:
    """Outputs with neighbouring pieces of one stream joined: where a stream is cut depends on timing."""
    joined: list[dict] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output["output_type"] == "stream" == last["output_type"] and output["name"] == last["name"]:
            last["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def run(path: Path, timeout: int) -> bool:
    """Execute one notebook in place; False, with the reason printed, if it may not be committed."""
    started = time.perf_counter()
    print(f"{path.name}: running", flush=True)
    notebook = read_notebook(path)
    place_generated_cells(notebook, path.name)
    normalise(notebook)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    node = nbformat.from_dict(notebook)
    client = NotebookClient(
        node,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        extra_arguments=["--IPKernelApp.log_level=40"],
    )
    client.on_cell_executed = lambda cell, cell_index, execute_reply: progress(cell_index, cell)
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"{path.name}: a cell failed, nothing was written\n{error}", file=sys.stderr)
        return False
    executed = read_node(node)
    normalise(executed)
    noisy = [
        i for i, cell in enumerate(executed["cells"]) for out in cell.get("outputs", []) if out.get("name") == "stderr"
    ]
    if noisy:
        text = next(out["text"] for out in executed["cells"][noisy[0]]["outputs"] if out.get("name") == "stderr")
        print(f"{path.name}: cell {noisy[0]} wrote to stderr, nothing was written:\n{text}", file=sys.stderr)
        return False
    path.write_text(notebook_text(executed), encoding="utf-8")
    print(f"{path.name}: done in {time.perf_counter() - started:.0f} s", flush=True)
    return True


def progress(index: int, cell: dict) -> None:
    """One line a code cell, so that a long chapter shows where it is."""
    if cell["cell_type"] == "code":
        first = cell["source"].strip().splitlines()[:1]
        print(f"  cell {index}: {first[0][:80] if first else ''}", flush=True)


def read_node(node: nbformat.NotebookNode) -> dict:
    """nbformat's node as plain dictionaries."""
    return json.loads(json.dumps(node))


def main() -> int:
    """Run the chapters named on the command line."""
    parser = argparse.ArgumentParser(description="Run chapters in place.")
    parser.add_argument("chapters", nargs="+", help="numbers, file names, or `all`")
    parser.add_argument("--timeout", type=int, default=600, help="seconds that one cell may take (600)")
    arguments = parser.parse_args()
    os.environ.setdefault("MINIRSA_PROFILE", "ci")
    os.environ.pop("MPLBACKEND", None)  # a kernel with another backend would show no figures
    paths = [path for chapter in arguments.chapters for path in find(chapter)]
    done = [run(path, arguments.timeout) for path in paths]
    address.main([])  # a chapter that is new gets its link in README
    return int(not all(done))


if __name__ == "__main__":
    sys.exit(main())
