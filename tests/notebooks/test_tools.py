"""The tool that runs chapters: what it writes, and what it refuses to write."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "tools"))

import address  # noqa: E402
import execute  # noqa: E402


def notebook(*sources):
    cells = [{"cell_type": "markdown", "id": "header", "metadata": {}, "source": "# A chapter"}]
    for index, source in enumerate(sources):
        metadata = {"tags": ["kept"], "ExecuteTime": {"start": "now"}}
        cell = {"cell_type": "code", "id": f"code-{index}", "metadata": metadata, "source": source}
        cells.append({**cell, "execution_count": 7, "outputs": []})
    return {"cells": cells, "metadata": {"widgets": {"state": {}}}, "nbformat": 4, "nbformat_minor": 4}


@pytest.fixture
def chapter(tmp_path):
    def write(*sources):
        path = tmp_path / "98_trial.ipynb"
        path.write_text(json.dumps(notebook(*sources)))
        return path

    return write


def test_runs_in_place_and_twice_gives_the_same_file(chapter):
    path = chapter("x = 2\nprint(x)", "print(x + 1)")
    assert execute.run(path, timeout=120)
    first = path.read_text()
    assert execute.run(path, timeout=120)
    assert path.read_text() == first
    cells = json.loads(first)["cells"]
    assert [cell["id"] for cell in cells] == ["header", "colab-badge", "install", "code-0", "code-1"]
    assert [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"] == [1, 2, 3]
    assert cells[4]["outputs"][0]["text"] == ["3\n"]
    assert cells[4]["metadata"] == {"tags": ["kept"]}
    assert "widgets" not in json.loads(first)["metadata"]


@pytest.mark.parametrize("source", ["1 / 0", "import sys\nprint('hm', file=sys.stderr)"], ids=["fails", "stderr"])
def test_writes_nothing_if_a_cell_fails_or_complains(chapter, source, capsys):
    path = chapter(source)
    before = path.read_text()
    assert not execute.run(path, timeout=120)
    assert path.read_text() == before
    assert "nothing was written" in capsys.readouterr().err


def test_refreshing_generated_cells_keeps_outputs():
    trial = notebook("print(1)")
    address.place_generated_cells(trial, "98_trial.ipynb")
    trial["cells"][2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "minirsa 0"}]
    trial["cells"][2]["source"] = "an old install cell"
    trial["cells"][1]["source"] = "an old badge"
    address.place_generated_cells(trial, "98_trial.ipynb")
    assert len(trial["cells"]) == 4
    assert trial["cells"][1]["source"] == address.badge_source("98_trial.ipynb")
    assert trial["cells"][2]["source"] == address.install_source()
    assert trial["cells"][2]["outputs"][0]["text"] == "minirsa 0"


def test_live_widget_view_gives_way_to_html():
    trial = notebook("widget")
    view = {execute.WIDGET_VIEW: {"model_id": "random"}, "text/html": "<p>figure</p>", "text/plain": "Figure"}
    trial["cells"][1]["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": view}]
    execute.normalise(trial)
    assert set(trial["cells"][1]["outputs"][0]["data"]) == {"text/html", "text/plain"}


def test_pieces_of_one_stream_are_joined():
    pieces = [
        {"output_type": "stream", "name": "stdout", "text": "a\n"},
        {"output_type": "stream", "name": "stdout", "text": "b\n"},
        {"output_type": "display_data", "data": {}, "metadata": {}},
        {"output_type": "stream", "name": "stdout", "text": "c\n"},
    ]
    joined = execute.joined_streams(pieces)
    assert [piece.get("text") for piece in joined] == ["a\nb\n", None, "c\n"]


def test_chapter_is_found_by_number_or_name(tmp_path, monkeypatch):
    for name in ("00_start", "07_video_data", "13_rsa"):
        (tmp_path / f"{name}.ipynb").touch()
    monkeypatch.setattr(execute, "BOOK", tmp_path)
    assert [path.stem for path in execute.find("7")] == ["07_video_data"]
    assert execute.find("13_rsa.ipynb") == execute.find("13") == execute.find("13_rsa")
    assert len(execute.find("all")) == 3
    with pytest.raises(SystemExit, match="no chapter '5'; there are: 00_start, 07_video_data, 13_rsa"):
        execute.find("5")
