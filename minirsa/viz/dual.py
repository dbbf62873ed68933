"""A figure that is alive wherever it is read: the base class of the book's interactive figures.

A notebook of this book is read in four places, and each shows something else of what a cell puts out:

| where                              | kernel? | our script? | what it shows of a dual figure              |
|------------------------------------|---------|-------------|---------------------------------------------|
| Jupyter, JupyterLab, Colab, VS Code | yes     |             | the ipywidget: Python draws each change      |
| the site (Jupyter Book)            | no      | yes         | the HTML: its own script draws each change   |
| GitHub, an untrusted notebook      | no      | removed     | the picture inside the HTML                  |
| a terminal, `nbconvert --to script` | maybe   | no          | one line of text                             |

One cell output may hold several forms of the same thing, by MIME type, and each reader takes the richest it
knows. `DualFigure._repr_mimebundle_` puts three into one bundle:

    application/vnd.jupyter.widget-view+json    a reference to a live widget
    text/html                                   a self-contained figure: no CDN, no kernel, no other file
    text/plain                                  what it is, in a line

A subclass gives three methods, and nothing else:

    class MyFigure(DualFigure):
        def html(self) -> str: ...        # same input, same bytes: a notebook test compares them
        def widget(self): ...             # an ipywidgets widget, new each time
        def text(self) -> str: ...

What each must keep to:

- `html()` returns `page_figure(...)`: a `<figure>` whose `data-state` attribute changes with every
interaction
  (browser tests read it), with a static picture inside until the script takes over, and an identity that is a
  hash of its content: two runs give the same bytes and several figures share a page. Scripts are wrapped in a
  function and leave no global name.
- `widget()` uses what ipywidgets 7.7 already had, which Colab still ships: sliders, Dropdown, Image, HTML,
HBox,
  VBox. Not `interact`, `interactive` or `Output`: they can stall a notebook run without a browser for a whole
  cell timeout. Observers run in Python and set `Image.value`.
- The widget reference is built here by hand, because ipywidgets 7 widgets carry `_ipython_display_` and
have no
  `_repr_mimebundle_`, and ipywidgets 8 widgets the other way round.

nbval leaves out the widget reference (its identity is random) and compares text/html byte for byte. Values
computed by a network differ in their last digits from one processor to another, and may then be stored one
level up or down: tag a cell that shows such values `nbval-ignore-output`, and assert in it what the reader
should see.

In the site's configuration: `nb_mime_priority_overrides: [['html', 'text/html', 5]]`, or the page takes the
widget.

Book: chapter 13 shows the first one (`KernelExplorer`).
"""

from __future__ import annotations

import hashlib
import html as markup
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from minirsa.viz.style import PALETTE, PALETTE_DARK

if TYPE_CHECKING:
    from ipywidgets import Widget

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class DualFigure(ABC):
    """Shows a live widget where there is a kernel and a self-contained page figure where there is none."""

    @abstractmethod
    def html(self) -> str:
        """The figure as self-contained HTML, the same bytes for the same input."""

    @abstractmethod
    def widget(self) -> Widget:
        """A new live widget, made of what ipywidgets 7.7 has."""

    @abstractmethod
    def text(self) -> str:
        """The figure in a line of text."""

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> dict[str, Any]:
        makers = {
            "text/plain": self.text,
            "text/html": self.html,
            WIDGET_VIEW: lambda: {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.widget().model_id,
            },
        }
        wanted = set(makers if include is None else include) - set(exclude or ())
        return {mime: make() for mime, make in makers.items() if mime in wanted}


def asset(name: str) -> str:
    return files("minirsa.viz").joinpath("assets", name).read_text(encoding="utf-8")


def _style_sheet(own: str | None) -> str:
    def variables(palette: dict[str, str], line: str, soft: str, outside: str) -> str:
        colors = {
            "paper": palette["paper"],
            "ink": palette["ink"],
            "neutral": palette["paper"],
            "negative": palette["basic"],
            "positive": palette["relational"],
            "attention": palette["attention"],
            "highlight": palette["highlight"],
            "line": line,
            "soft": soft,
            "outside": outside,
        }
        return " ".join(f"--mx-{name}: {color};" for name, color in colors.items()) + " color-scheme: normal;"

    light = variables(PALETTE, "#d5dae1", "#5c6773", "#e3e7ec")
    dark = variables(PALETTE_DARK, "#39424e", "#aab4c0", "#2a313b")
    shared = asset("figure.css").replace("LIGHT", light).replace("DARK", dark)
    return shared if own is None else shared + asset(own)


def page_figure(
    kind: str,
    data: dict[str, Any],
    *,
    scripts: Sequence[str],
    picture: str,
    alternative: str,
    caption: str,
    style: str | None = None,
) -> str:
    """Self-contained HTML of a figure that a script brings to life.

    `kind`: the figure's class is `minirsa-<kind>`. `data`: what the script finds as `DATA`, plus `DATA.id`.
    `scripts`: files in assets/, run in this order after figure.js, all inside one function. `picture`: data
    address of the static picture shown until the script takes over, and for good where scripts are removed.
    `alternative`: what the picture shows, in words. `caption`: plain text. `style`: a file in assets/ with the
    rules that only this figure needs, after figure.css.
    """
    body = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    source = "".join(asset(name) for name in ("figure.js", *scripts))
    identity = hashlib.sha256((kind + body + source + caption).encode()).hexdigest()[:12]
    literal = f'{{"id":"{identity}",{body[1:]}'.replace("<", "\\u003c")
    quoted = markup.escape(alternative)
    return (
        f'<figure class="minirsa-figure minirsa-{kind}" data-minirsa="{identity}" data-state="static">\n'
        f"<style>{_style_sheet(style)}</style>\n"
        f'<div class="mx-stage"><img class="mx-static" src="{picture}" alt="{quoted}"></div>\n'
        f"<figcaption>{markup.escape(caption)}</figcaption>\n"
        f'<script>(() => {{\n"use strict";\nconst DATA = {literal};\n{source}}})();</script>\n'
        "</figure>"
    )
