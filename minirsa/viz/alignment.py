"""Alignment maps: which words of the input each word of the output looked at.

    source   n words          weights (m, n): row = one output word, columns = the input words
    target   m words

              s1  s2  s3  s4           `alignment`     a picture of one such grid
        t1  [ ##              ]        `AlignmentMap`  several of them: point at an output word, see its row
        t2  [          ##  .  ]                        over the input's words

Paper is a weight of zero, purple the largest weight of the example. Words may be in any script on a page; a
picture's font has letters of few scripts, so that `gloss` (a transcription or translation, one for each
source word) stands in for the words there.

Bahdanau et al. 2015, figure 3, and Luong et al. 2015, figure 7, draw such maps. Book: chapter 1, "Alignment".
"""

from __future__ import annotations

import functools
import html as markup
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from minirsa.viz.dual import DualFigure, page_figure
from minirsa.viz.encoding import data_uri, few_colors
from minirsa.viz.style import PAGE_WIDTH, PALETTE

if TYPE_CHECKING:
    from ipywidgets import Widget

UNIT = 10_000
"""A page stores weights in ten thousandths, as whole numbers: most take one to three characters."""

WEIGHTS = LinearSegmentedColormap.from_list("minirsa_weights", [PALETTE["paper"], PALETTE["attention"]])
"""White (zero) to purple (the largest weight)."""


@functools.cache
def _letters() -> frozenset[int]:
    """The characters that the picture's font can draw, as code points."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def drawable(words: Sequence[str]) -> bool:
    """Whether the font of the book's pictures has every character of the words (Hangul, for one, it lacks)."""
    return all(ord(letter) in _letters() for word in words for letter in word)


def _words(words: Sequence[str], name: str) -> list[str]:
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{name}: expected a list of words, got {words!r}")
    if not len(words):
        raise ValueError(f"{name}: expected at least one word, got none")
    return list(words)


def check_alignment(weights: np.ndarray, source: Sequence[str], target: Sequence[str]) -> np.ndarray:
    """The weights as a new float64 `(len(target), len(source))`; raises ValueError where they do not fit the words."""
    source, target = _words(source, "source"), _words(target, "target")
    weights = np.array(np.asarray(weights), dtype=np.float64)
    if weights.shape != (len(target), len(source)):
        shape = f"({len(target)}, {len(source)})"
        raise ValueError(f"weights: expected shape {shape}, (target words, source words), got {weights.shape}")
    if not (np.isfinite(weights).all() and weights.min() >= 0):
        raise ValueError("weights: expected finite numbers >= 0")
    return weights


@dataclass(frozen=True, eq=False)
class AlignmentExample:
    """One input, its output, and the weights between them.

    `source`: n words; `target`: m words; `weights`: `(m, n)`, >= 0, a row for each output word. `title`: its
    name in the list of examples. `gloss`, `target_gloss`: a transcription or translation of each source or
    target word, shown under it; needed where a word has letters that the picture's font lacks. Raises
    ValueError when they do not fit.
    """

    source: Sequence[str]
    target: Sequence[str]
    weights: np.ndarray
    title: str = ""
    gloss: Sequence[str] | None = None
    target_gloss: Sequence[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", check_alignment(self.weights, self.source, self.target))
        for name, gloss in (("source", self.gloss), ("target", self.target_gloss)):
            words = list(getattr(self, name))
            object.__setattr__(self, name, words)
            if gloss is not None and len(_words(gloss, f"gloss of the {name}")) != len(words):
                raise ValueError(f"gloss of the {name}: expected {len(words)}, one a word, got {len(gloss)}")
            if not drawable(words if gloss is None or drawable(words) else gloss):
                raise ValueError(
                    f"{name}: the picture's font lacks letters of {words!r}; give a gloss in Latin letters for each"
                )

    def labels(self) -> tuple[list[str], list[str]]:
        """Source and target words for a picture: the gloss where the font lacks a letter of them."""
        pairs = ((self.source, self.gloss), (self.target, self.target_gloss))
        return tuple(words if drawable(words) else list(gloss) for words, gloss in pairs)


def _visible(words: Sequence[str]) -> list[str]:
    """The words, an open box for one of blanks only: an output of characters has them."""
    return [word if word.strip() else "\N{OPEN BOX}" for word in words]


def _draw(ax: Axes, weights: np.ndarray, source: Sequence[str], target: Sequence[str], size: float) -> AxesImage:
    image = ax.imshow(weights, cmap=WEIGHTS, vmin=0, vmax=weights.max() or 1.0, aspect="auto")
    source, target = _visible(source), _visible(target)
    turn = max(map(len, source)) > 2
    ax.set_xticks(range(len(source)), source, rotation=90 if turn else 0, fontsize=size, parse_math=False)
    ax.set_yticks(range(len(target)), target, fontsize=size, parse_math=False)
    ax.tick_params(top=True, bottom=False, labeltop=True, labelbottom=False, length=2, pad=2)
    ax.set_xticks(np.arange(len(source) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(target) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="#e3e7ec", linewidth=0.6)
    ax.tick_params(which="minor", length=0)
    for spine in ax.spines.values():
        spine.set(visible=True, linewidth=0.8)
    return image


def _size(source: Sequence[str], target: Sequence[str]) -> tuple[float, float]:
    """Width and height in inches of a figure with these words: cells of one size, as wide as the page at most."""
    beside, above = 0.11 * max(map(len, target)), 0.09 * max(map(len, source))
    cell = min(0.34, (PAGE_WIDTH - 1.2 - beside) / len(source))
    return max(3.4, cell * len(source) + beside + 1.2), max(0.2, min(cell, 0.26)) * len(target) + above + 0.55


def alignment(
    weights: np.ndarray,
    source: Sequence[str],
    target: Sequence[str],
    *,
    title: str | None = None,
) -> Figure:
    """Draw which source words each target word looked at: one row a target word.

    `weights`: `(len(target), len(source))`, >= 0. `source`, `target`: words in letters that the picture's font
    has; romanise Hangul first. `title`: a line above. Raises ValueError where they do not fit. Returns the
    pyplot figure. Book: chapter 1.
    """
    weights = check_alignment(weights, source, target)
    for name, words in (("source", source), ("target", target)):
        if not drawable(words):
            raise ValueError(f"{name}: the picture's font lacks letters of {list(words)!r}; romanise them first")
    width, height = _size(source, target)
    figure, ax = plt.subplots(figsize=(width, height + (0 if title is None else 0.3)), layout="constrained")
    image = _draw(ax, weights, source, target, 9)
    figure.colorbar(image, ax=ax, fraction=0.046, pad=0.02, label="weight")
    if title is not None:
        figure.suptitle(title)
    return figure


class AlignmentMap(DualFigure):
    """Several alignments to choose from; the reader points at an output word and sees which input words it saw.

    `examples`: one or more `AlignmentExample`. `caption`: a sentence under the figure, its message. Raises
    ValueError without examples, or when something else comes. Book: chapter 1, and chapter 3 for the
    Transformer's cross-attention.
    """

    def __init__(self, examples: Sequence[AlignmentExample], *, caption: str) -> None:
        self.examples = list(examples)
        self.caption = caption
        if not self.examples:
            raise ValueError("examples: expected at least one AlignmentExample, got none")
        for example in self.examples:
            if not isinstance(example, AlignmentExample):
                raise ValueError(f"examples: expected AlignmentExample, got {type(example).__name__}")
        self.titles = [example.title or f"Example {i + 1}" for i, example in enumerate(self.examples)]

    def text(self) -> str:
        sizes = ", ".join(f"{len(e.target)} x {len(e.source)}" for e in self.examples)
        return f"AlignmentMap({len(self.examples)} {'example' if len(self.examples) == 1 else 'examples'}: {sizes})"

    def html(self) -> str:
        data = {
            "unit": UNIT,
            "examples": [
                {
                    "title": title,
                    "source": example.source,
                    "target": example.target,
                    "weights": np.round(example.weights * UNIT).astype(int).tolist(),
                    "gloss": None if example.gloss is None else list(example.gloss),
                    "targetGloss": None if example.target_gloss is None else list(example.target_gloss),
                }
                for title, example in zip(self.titles, self.examples)
            ],
        }
        first = self.examples[0]
        source, target = first.labels()
        best = first.weights.argmax(axis=1)
        pairs = ", ".join(f"{word} at {source[i]}" for word, i in zip(_visible(target), best))
        return page_figure(
            "alignment",
            data,
            scripts=["weights.js", "alignment.js"],
            style="attention.css",
            picture=data_uri(few_colors(self.picture(0, None)), "image/png"),
            alternative=f"A grid of weights, {len(target)} output words down and {len(source)} input words across. "
            f"Each output word looks most at: {pairs}.",
            caption=self.caption,
        )

    def widget(self) -> Widget:
        import ipywidgets  # here, so that plain figures do not wait for it

        label = {"description_width": "90px"}
        wide = ipywidgets.Layout(width="340px")
        titles = [(title, i) for i, title in enumerate(self.titles)]
        example = ipywidgets.Dropdown(options=titles, value=0, description="Example", layout=wide, style=label)
        target = ipywidgets.IntSlider(
            value=1,
            min=1,
            max=len(self.examples[0].target),
            description="Output word",
            layout=wide,
            style=label,
        )
        image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(width="100%", max_width="740px"))

        def draw(_change: object = None) -> None:
            target.max = len(self.examples[example.value].target)  # lowers the value where it is beyond
            image.value = self.picture(example.value, target.value - 1)

        for control in (example, target):
            control.observe(draw, names="value")
        draw()
        return ipywidgets.VBox(
            [
                ipywidgets.HBox([example, target]),
                image,
                ipywidgets.HTML(value=f"<p style='line-height:1.4'>{markup.escape(self.caption)}</p>"),
            ]
        )

    def picture(self, example: int, target: int | None = None, *, dpi: int = 110) -> bytes:
        """Example number `example` as a grid, the row of word `target` outlined: a PNG's bytes."""
        chosen = self.examples[example]
        source, words = chosen.labels()
        figure = Figure(figsize=_size(source, words), dpi=dpi, facecolor=PALETTE["paper"], layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        image = _draw(ax, chosen.weights, source, words, 9)
        figure.colorbar(image, ax=ax, fraction=0.046, pad=0.02, label="weight")
        if target is not None:
            row = Rectangle((-0.5, target - 0.5), len(source), 1, fill=False, color=PALETTE["highlight"], lw=2.5)
            row.set_clip_on(False)
            ax.add_patch(row)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
        return content.getvalue()
