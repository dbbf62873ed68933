"""What every chapter must be before it is committed, beside running again with the same outputs.

The rerun itself is nbval's: `pytest` collects book/*.ipynb (pyproject.toml), strictly. But nbval passes a notebook
whose outputs were stripped, and cannot see what a reader needs; that is tested here.
"""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "tools"))

import address  # noqa: E402
import execute  # noqa: E402

from minirsa.viz.dual import asset  # noqa: E402

CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
MIB = 2**20


@pytest.fixture(scope="module", params=CHAPTERS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(scope="module")
def chapter(path):
    return address.read_notebook(path)


def code_cells(chapter):
    return [cell for cell in chapter["cells"] if cell["cell_type"] == "code"]


def outputs(chapter):
    return [(cell, output) for cell in code_cells(chapter) for output in cell["outputs"]]


def text(value):
    return "".join(value) if isinstance(value, list) else value


def figure_cells(chapter):
    """Code cells whose outputs hold a picture, with what follows them."""
    cells = chapter["cells"]
    for index, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            kinds = {mime for output in cell["outputs"] for mime in output.get("data", {})}
            if kinds & {"image/png", "image/jpeg"}:
                yield cell, cells[index + 1] if index + 1 < len(cells) else None


def test_there_are_chapters():
    assert {"00_start", "07_video_data", "13_rsa"} <= {path.stem for path in CHAPTERS}


def test_every_cell_was_executed_in_order_and_none_was_stripped(chapter):
    cells = code_cells(chapter)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["source"].strip() for cell in cells)
    silent = [
        cell["id"]
        for cell in cells
        if not cell["outputs"] and re.search(r"^(print\(|plt\.show\(\))", cell["source"], re.MULTILINE)
    ]
    assert not silent, "these print or draw, but their outputs are gone"


def test_no_cell_may_fail(chapter):
    assert "allow_errors" not in str(chapter["metadata"])
    allowed = {"raises-exception", "nbval-raises-exception", "nbval-skip", "skip-execution"}
    assert not [cell["id"] for cell in code_cells(chapter) if allowed & set(cell["metadata"].get("tags", []))]
    assert not [cell["id"] for cell, output in outputs(chapter) if output["output_type"] == "error"]


def test_generated_cells_are_the_generated_ones(path, chapter):
    header, badge, install = chapter["cells"][:3]
    wanted_badge, wanted_install = address.generated_cells(path.name)
    assert header["cell_type"] == "markdown"
    assert (badge["source"], badge["metadata"]) == (wanted_badge["source"], wanted_badge["metadata"])
    assert (install["source"], install["metadata"]) == (wanted_install["source"], wanted_install["metadata"])
    tags = [tag for cell in chapter["cells"] for tag in cell["metadata"].get("tags", [])]
    assert tags.count(address.INSTALL_TAG) == tags.count(address.BADGE_TAG) == 1
    printed = "".join(text(output["text"]) for output in install["outputs"])
    assert re.fullmatch(r"minirsa \S+, Python 3\.\d+\.\d+, torch \S+, .+\n", printed)


def test_file_is_normalised_and_small(path, chapter):
    assert path.stat().st_size < 3 * MIB
    before = address.notebook_text(chapter)
    execute.normalise(chapter)
    assert address.notebook_text(chapter) == before == path.read_text(encoding="utf-8")


def test_outputs_are_of_a_kind_that_can_be_compared(chapter):
    for cell, output in outputs(chapter):
        where = cell["id"]
        assert output.get("name") != "stderr", f"{where} wrote to stderr"
        data = output.get("data", {})
        assert "image/svg+xml" not in data, f"{where} shows SVG"
        assert not any("widget-view" in mime for mime in data), f"{where} needs a kernel to be seen"
        shown = text(output.get("text", "")) + "".join(
            text(value) for mime, value in data.items() if mime == "text/plain"
        )
        assert not re.search(r"0x[0-9a-f]{6,}", shown), f"{where} shows an object's address"


ASSETS = {
    "explorer": ("pointing.js", "explorer.js"),
    "animation": ("animation.js",),
    "attention": ("attention.css", "pointing.js", "weights.js", "attention.js"),
    "alignment": ("attention.css", "weights.js", "alignment.js"),
}
"""What a figure of each kind carries beside figure.js."""


def test_figures_have_the_scripts_of_today(chapter):
    """A figure brings its script along, and may stand in a cell that is not compared: `make execute` renews it."""
    for _, output in outputs(chapter):
        page = text(output.get("data", {}).get("text/html", ""))
        for kind in re.findall(r'<figure class="minirsa-figure minirsa-(\w+)"', page):
            old = [name for name in ("figure.js", *ASSETS[kind]) if asset(name) not in page]
            assert not old, f"{kind}: {', '.join(old)} changed since the chapter was executed"


def test_cells_that_are_not_compared_are_few_and_still_assert(chapter):
    ignored = [cell for cell in code_cells(chapter) if "nbval-ignore-output" in cell["metadata"].get("tags", [])]
    assert len(ignored) <= 4
    assert not [cell["id"] for cell in ignored if not re.search(r"\bassert|assert_close|check_", cell["source"])]
    assert not [cell["id"] for cell in code_cells(chapter) if re.search(r"#\s*NBVAL", cell["source"])]


def test_source_has_no_trailing_semicolon_and_no_magic(chapter):
    for cell in code_cells(chapter):
        for line in cell["source"].splitlines():
            assert not line.rstrip().endswith(";"), f"{cell['id']}: {line}"
            assert not re.match(r"\s*[%!]", line), f"{cell['id']}: {line}"
            assert "/content/" not in line or address.INSTALL_TAG in cell["metadata"]["tags"]


def test_header_tells_what_a_reader_wants_to_know(chapter):
    header = chapter["cells"][0]["source"]
    assert len(re.findall(r"^# \S", header, re.MULTILINE)) == 1
    (promise,) = re.findall(r"^> (\S.*)$", header, re.MULTILINE)
    assert promise.rstrip().endswith((".", "?"))
    assert len(re.findall(r"^[-*] \S", header, re.MULTILINE)) >= 3, "objectives"
    for field in ("Objectives", "Prerequisites", "Time", "GPU"):
        assert f"**{field}**" in header
    assert re.search(r"\*\*Time\*\*.*\b\d+ (minutes|min)\b", header)
    assert re.search(r"\*\*GPU\*\*\W+(no|helps|needed)\b", header)


def test_only_the_header_holds_the_title(chapter):
    titles = [
        cell["id"]
        for cell in chapter["cells"][1:]
        for line in cell["source"].splitlines()
        if cell["cell_type"] == "markdown" and re.match(r"# ", line)
    ]
    assert not titles


def test_every_figure_has_alt_text_and_a_caption(path, chapter):
    number = int(path.stem.split("_")[0])
    for cell, following in figure_cells(chapter):
        alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        assert len(alt) >= 30, f"{cell['id']} has no alt text"
        assert following is not None, f"{cell['id']} has no caption"
        assert re.match(rf"\*\*Figure {number}\.\d+\.\*\* \S", following["source"]), f"{cell['id']} has no caption"
    captions = [
        int(k)
        for cell in chapter["cells"]
        if cell["cell_type"] == "markdown"
        for k in re.findall(rf"^\*\*Figure {number}\.(\d+)\.\*\*", cell["source"], re.MULTILINE)
    ]
    assert captions == list(range(1, len(captions) + 1))
    assert captions


def test_every_exercise_has_a_hint_and_a_solution(chapter):
    prose = "\n".join(cell["source"] for cell in chapter["cells"] if cell["cell_type"] == "markdown")
    assert re.search(r"^## Exercises", prose, re.MULTILINE)
    exercises = prose[re.search(r"^## Exercises", prose, re.MULTILINE).end() :]
    hints = re.findall(r"<summary>Hint", exercises)
    solutions = re.findall(r"<summary>Solution", exercises)
    assert len(hints) == len(solutions)
    assert 3 <= len(solutions) <= 5
    assert prose.count("<details") == prose.count("</details>")


def test_closing_sections(chapter):
    prose = "\n".join(cell["source"] for cell in chapter["cells"] if cell["cell_type"] == "markdown")
    headings = re.findall(r"^## (.+)$", prose, re.MULTILINE)
    assert [heading for heading in headings if re.match(r"Summary", heading)]
    assert headings[-1].startswith("Further reading")


def test_links_to_other_pages_lead_somewhere(path, chapter):
    prose = "\n".join(cell["source"] for cell in chapter["cells"] if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose)
    local = [link for link in links if not re.match(r"https?:", link)]
    assert not [link for link in local if not (path.parent / link).exists()]


def works_of_the_bibliography():
    """(first author's surname, year) of every entry of references.bib."""
    works = set()
    for entry in re.split(r"(?m)^@", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"))[1:]:
        fields = dict(re.findall(r"(?m)^  (author|year) = \{(.*)\},?$", entry))
        surname = fields["author"].split(" and ")[0].split(",")[0]
        works.add((re.sub(r"[{}\\'`^\"~]|\\.", "", surname).lower(), fields["year"]))
    return works


def test_cited_works_are_in_the_bibliography(chapter):
    prose = "\n".join(cell["source"] for cell in chapter["cells"] if cell["cell_type"] == "markdown")
    cited = re.findall(r"\[([^\]]+)\]\(back/bibliography\.md\)", prose)
    known = works_of_the_bibliography()
    named = [re.fullmatch(r"(\S+?),? .*?((?:19|20)\d\d)\w?", label) for label in cited]
    missing = [match[0] for match in named if match and (match[1].lower(), match[2]) not in known]
    assert not missing
    assert {("vaswani", "2017"), ("kim", "2021"), ("fan", "2021")} <= known


def test_prose_has_no_sphinx_directives(chapter):
    """They show as raw text in Jupyter, on GitHub and in Colab."""
    for cell in chapter["cells"]:
        if cell["cell_type"] == "markdown":
            assert not re.search(
                r"^(```|:::+)\{|\{(cite|ref|eq|numref|doc|term)(:\w)?\}`", cell["source"], re.MULTILINE
            ), cell["id"]


def test_no_formula_begins_a_line_with_a_bracket(chapter):
    r"""LaTeX takes it for an option of \begin or of the line break, and leaves it out: write {} before it."""
    option = re.compile(r"\\begin\{(gathered|aligned|split|cases)\}\s*\[|\\\\\s*\[(?!-?[\d.]+(mm|em|ex|pt)\])")
    for cell in chapter["cells"]:
        if cell["cell_type"] == "markdown":
            for formula in re.findall(r"\$\$(.*?)\$\$", cell["source"], re.DOTALL):
                assert not option.search(formula), (cell["id"], formula)


@pytest.mark.parametrize("word", ["in this notebook we will", "TODO", "FIXME", "color "])
def test_prose_has_no_filler_and_one_spelling(chapter, word):
    prose = "\n".join(cell["source"] for cell in chapter["cells"] if cell["cell_type"] == "markdown")
    prose = re.sub(r"```.*?```|`[^`]*`|<[^>]+>", "", prose, flags=re.DOTALL)
    assert word.lower() not in prose.lower()
