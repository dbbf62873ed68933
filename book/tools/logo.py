"""Draw the book's logo and its favicon: `python book/tools/logo.py`.

The mark is what the book is about: a query in the middle, the neighbours around it, and two kernels that weigh
them, one blue (how the neighbourhood looks), one warm (how it moves, here to the upper right). A neighbour's
disc is large where its weight is.
"""

from __future__ import annotations

import math
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "assets"
WARM, BLUE, YELLOW = "#e2571c", "#2f7fc9", "#f2b705"  # between the light and the dark palette


def mark(size: float) -> str:
    """The 5 x 5 neighbourhood as SVG circles inside a square of `size` units."""
    step = size / 5
    shapes = []
    for row in range(5):
        for column in range(5):
            x, y = column - 2, 2 - row
            centre = f'cx="{(column + 0.5) * step:.2f}" cy="{(row + 0.5) * step:.2f}"'
            if x == y == 0:
                shapes.append(f'<circle {centre} r="{0.44 * step:.2f}" fill="{YELLOW}"/>')
                continue
            along, across = (x + y) / math.sqrt(2), (x - y) / math.sqrt(2)
            motion = math.exp(-((across / 0.8) ** 2)) * (0.55 + 0.45 * along / 2.83)
            appearance = 0.55 * math.exp(-(x * x + y * y) / 5)
            colour, weight = (WARM, motion) if motion > appearance else (BLUE, appearance)
            shapes.append(f'<circle {centre} r="{(0.12 + 0.32 * weight) * step:.2f}" fill="{colour}"/>')
    return "\n  ".join(shapes)


def favicon() -> str:
    """The mark alone."""
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">\n  {mark(64)}\n</svg>\n'


def logo() -> str:
    """The mark with the package's name; letters as paths of round strokes, so no font is needed."""
    # Each letter: advance width and strokes, in a box whose x-height is 20 and ascender 32 units, y upwards.
    arc = "A7.5 10 0 0 0"
    letters = {
        "m": (34, ["M0 0V20", f"M0 10{arc} 15 10V0", f"M15 10{arc} 30 10V0"]),
        "i": (8, ["M0 0V20", "M0 29V29.1"]),
        "n": (19, ["M0 0V20", f"M0 10{arc} 15 10V0"]),
        "r": (17, ["M0 0V20", "M0 8A12 12 0 0 0 13 20"]),
        "s": (20, ["M15 16C12 21 1 21 1 15C1 9 15 11 15 5C15 -1 3 -1 0 4"]),
        "a": (24, ["M20 20V0", "M20 10A10 10 0 1 1 20 9.99"]),
    }
    x, strokes = 0.0, []
    for index, letter in enumerate("minirsa"):
        width, paths = letters[letter]
        colour = "currentInk" if index < 4 else WARM
        for path in paths:
            strokes.append(f'<path d="{path}" transform="translate({x:.1f} 0)" stroke="{colour}"/>')
        x += width + 5
    word = "\n    ".join(strokes)
    # A grey that both a white and a near-black page carry; the warm half is the same on both.
    word = word.replace("currentInk", "#7a8594")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 250 64" role="img" aria-label="minirsa">\n'
        f"  {mark(64)}\n"
        '  <g transform="translate(82 44) scale(1.02 -1.02)" fill="none" stroke-width="4.4" '
        'stroke-linecap="round" stroke-linejoin="round">\n'
        f"    {word}\n  </g>\n</svg>\n"
    )


def main() -> None:
    """Write the files."""
    ASSETS.mkdir(exist_ok=True)
    (ASSETS / "favicon.svg").write_text(favicon(), encoding="utf-8")
    (ASSETS / "logo.svg").write_text(logo(), encoding="utf-8")


if __name__ == "__main__":
    main()
