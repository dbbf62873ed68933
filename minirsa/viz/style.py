"""One look for every figure: colours, sizes and colour maps.

The same hexadecimal values stand in the site's style sheet, so that a relational kernel is orange in a
figure, in an explorer and in the text around it. The eight hues keep apart for the three common kinds of
colour blindness (they differ in lightness as well as in hue), and no figure tells two things apart by
colour alone.

    width of the page   7.2 in = 720 px at 100 px an inch
    fonts               10 pt, never below 9 pt at that width
    background          an opaque white card, in dark mode too: a photograph and its axes stay legible

Book: every chapter.
"""

from __future__ import annotations

import matplotlib as mpl
from cycler import cycler
from matplotlib.colors import LinearSegmentedColormap

PALETTE: dict[str, str] = {
    "ink": "#1b2430",
    "paper": "#ffffff",
    "relational": "#d9480f",
    "basic": "#1864ab",
    "context": "#2b8a3e",
    "attention": "#6741d9",
    "convolution": "#5c6773",
    "highlight": "#f2b705",
}
"""Colours on a light background, by what they stand for."""

PALETTE_DARK: dict[str, str] = {
    "ink": "#e6e9ee",
    "paper": "#14181f",
    "relational": "#ff8a4c",
    "basic": "#74b3ee",
    "context": "#69c97f",
    "attention": "#a98bff",
    "convolution": "#9aa5b1",
    "highlight": "#f2b705",
}
"""The same roles on a dark background (the site's dark mode, the explorer's dark mode)."""

PAGE_WIDTH = 7.2
"""Width of a figure that fills the page's text column, in inches (720 px)."""

DIVERGING = LinearSegmentedColormap.from_list(
    "minirsa_diverging", [PALETTE["basic"], PALETTE["paper"], PALETTE["relational"]]
)
"""Blue (negative), white (zero), orange (positive): signed kernels, on a scale symmetric about zero."""

SEQUENTIAL = mpl.colormaps["viridis"]
"""Non-negative maps, such as attention weights."""


def use_style() -> None:
    """Set the book's look for every matplotlib figure drawn afterwards; calling it again changes nothing.

    Book: the first code cell of every chapter.
    """
    mpl.rcParams.update(
        {
            "figure.figsize": (PAGE_WIDTH, 3.4),
            "figure.dpi": 130,
            "savefig.dpi": 130,
            "figure.facecolor": PALETTE["paper"],
            "savefig.facecolor": PALETTE["paper"],
            "axes.facecolor": PALETTE["paper"],
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.labelsize": 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.fontsize": 9,
            "figure.titlesize": 11,
            "text.color": PALETTE["ink"],
            "axes.labelcolor": PALETTE["ink"],
            "axes.edgecolor": PALETTE["convolution"],
            "xtick.color": PALETTE["ink"],
            "ytick.color": PALETTE["ink"],
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "grid.color": "#d9dee4",
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
            "legend.frameon": False,
            "image.cmap": SEQUENTIAL.name,
            "image.interpolation": "nearest",
            "axes.prop_cycle": cycler(
                color=[PALETTE[k] for k in ("relational", "basic", "context", "attention", "convolution")]
            ),
        }
    )
