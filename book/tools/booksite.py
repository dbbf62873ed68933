"""Sphinx extension of this book: equations without a network, and docstrings as they are written.

- If tools/mathjax.py could fetch MathJax, pages load it from the site itself; otherwise from Sphinx's default, the CDN.
- Docstrings in minirsa are plain text that is read in an editor: `name` between single backticks is code, an indented
  block is a diagram or an equation in fixed type. Sphinx would take them for reStructuredText, so they are rewritten.
- Sphinx puts an equation with a line break into a split environment, in which MathJax allows no number: equations that
  bring theirs (`\\tag`) are left as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

MATHJAX = Path(__file__).resolve().parents[1] / ".mathjax" / "tex-svg.js"

# A code span between backticks (one or two), or anything that reStructuredText would read as markup.
SPAN_OR_MARKUP = re.compile(r"(?P<ticks>``?)(?P<code>[^`]+)(?P=ticks)|(?P<markup>[*|\\]|_(?!\w))")
LIST_ITEM = re.compile(r"(- |\d+[.)] )")


def serve_mathjax(app: Sphinx, config: Config) -> None:
    """Point the pages at the site's own MathJax where there is one."""
    if MATHJAX.exists() and MATHJAX.stat().st_size > 0:
        config.html_static_path = [*config.html_static_path, ".mathjax"]
        config.mathjax_path = MATHJAX.name


def plain_line(line: str) -> str:
    """A line of plain text as reStructuredText: code spans as literals, everything else without meaning."""

    def replace(match: re.Match[str]) -> str:
        return f"``{match['code'].strip()}``" if match["code"] else "\\" + match["markup"]

    return SPAN_OR_MARKUP.sub(replace, line)


def plain_paragraphs(text: list[str]) -> list[str]:
    """A plain-text docstring as reStructuredText.

    A blank line ends a paragraph; a paragraph whose first line is indented is set in fixed type; in one that opens with
    `- ` or `1. ` every such line is an item.
    """
    blocks: list[list[str]] = [[]]
    for line in text:
        if not line.strip() and blocks[-1]:
            blocks.append([])
        elif line.strip():
            # A diagram may follow its sentence without a blank line, and a sentence its diagram.
            starts = blocks[-1][:1]
            indented, was_indented = line.startswith("  "), bool(starts) and starts[0].startswith("  ")
            in_list = bool(starts) and LIST_ITEM.match(starts[0]) is not None
            if starts and indented != was_indented and not in_list:
                blocks.append([])
            blocks[-1].append(line.rstrip())
    lines: list[str] = []
    previous = [""]
    for block in filter(None, blocks):
        if previous == ["Args:"]:
            del lines[-2:]  # the word itself
            lines += argument_list(block)
        elif block[0].startswith("  "):
            lines += [".. code-block:: text", "", *(f"   {line}" for line in block), ""]
        elif LIST_ITEM.match(block[0]):
            for line in block:
                is_item = LIST_ITEM.match(line)
                if is_item and lines and lines[-1]:
                    lines.append("")
                lines.append(plain_line(line) if is_item else f"  {plain_line(line.strip())}")
            lines.append("")
        else:
            lines += [*map(plain_line, block[:-1]), plain_line(block[-1]).replace("::", ":"), ""]
        previous = block
    return lines


def argument_list(block: list[str]) -> list[str]:
    """The indented `name: meaning` lines under `Args:` as a list; deeper lines go on with the one above."""
    margin = min(len(line) - len(line.lstrip()) for line in block)
    lines: list[str] = []
    for line in block:
        name, colon, meaning = line.strip().partition(":")
        if line[margin] != " " and colon:
            lines += ["", f"- ``{name}``: {plain_line(meaning.strip())}"]
        else:
            lines.append(f"  {plain_line(line.strip())}")
    return [*lines, ""]


def skip_fields(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the entries that Python itself documents as "Alias for field number 0"."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def rewrite_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite minirsa's docstrings; those that come from elsewhere stay."""
    if name.startswith("minirsa"):
        lines[:] = plain_paragraphs(lines)


def keep_numbered_equations(app: Sphinx, document: nodes.document) -> None:
    """Have equations with `\\tag` set as they are written, also where a matrix or a case makes a line break."""
    for equation in document.findall(nodes.math_block):
        text = equation.astext().strip()
        if r"\tag" in text and not text.startswith(r"\begin{equation"):
            equation.children = [nodes.Text(rf"\begin{{equation*}}{text}\end{{equation*}}")]
            equation["nowrap"] = True


def setup(app: Sphinx) -> dict[str, bool | str]:
    """Register with Sphinx."""
    app.connect("config-inited", serve_mathjax)
    app.connect("autodoc-process-docstring", rewrite_docstring)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("doctree-read", keep_numbered_equations)
    return {"version": "4", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
