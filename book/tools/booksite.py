"""Sphinx extension of this book: equations without a network.

If tools/mathjax.py could fetch MathJax, pages load it from the site itself; otherwise Sphinx's default, the CDN.
"""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

MATHJAX = Path(__file__).resolve().parents[1] / ".mathjax" / "tex-svg.js"


def serve_mathjax(app: Sphinx, config: Config) -> None:
    """Point the pages at the site's own MathJax where there is one."""
    if MATHJAX.exists() and MATHJAX.stat().st_size > 0:
        config.html_static_path = [*config.html_static_path, ".mathjax"]
        config.mathjax_path = MATHJAX.name


def setup(app: Sphinx) -> dict[str, bool | str]:
    """Register with Sphinx."""
    app.connect("config-inited", serve_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
