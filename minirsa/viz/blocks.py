"""A transformer for clips as boxes, bottom to top: read off a run of the model, not drawn by hand.

    model, clip -- run once, watching which parts are called with which shapes --> Outline --> boxes

    Outline     stacks of boxes in the order in which they ran; equal neighbouring layers are one stack "12 x"
    Box         what a part is, what it gets, and for an attention which groups of tokens attend among themselves

Only the names of the kinds of boxes are written here (`KINDS`). A part is found by the name of its class, and nothing
of torch is imported: any module with forward hooks will do. What has no module of its own (residual sums, positions,
class tokens, means over tokens) has no box; it is seen where a shape changes between two boxes. Book: chapter 10, "Four
models".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from minirsa.viz.style import PAGE_WIDTH, PALETTE

KINDS = {
    "Conv3d": "tubelets",
    "LayerNorm": "norm",
    "MultiHeadAttention": "attention",
    "FactorisedDotProductAttention": "attention",
    "FeedForward": "MLP",
    "Linear": "head",
}
"""{class of a module: kind of its box}; what a shown module holds inside is not shown again."""

AXES = {"all": "over the clip", "space": "in space", "time": "in time"}


@dataclass(frozen=True)
class Look:
    """`groups` sets of `tokens` tokens, each with `heads` maps of weights; axis: "all", "space" or "time"."""

    axis: str
    heads: int
    groups: int
    tokens: int

    @property
    def weights(self) -> int:
        """How many numbers the maps hold."""
        return self.heads * self.groups * self.tokens**2


@dataclass(frozen=True)
class Box:
    """One part that ran: its kind, the shape it got (without the batch), its sizes, and an attention's looks."""

    kind: str
    shape: tuple[int, ...]
    note: tuple[int, ...] = ()
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True)
class Stack:
    """Boxes from the bottom up, the whole of them run `times` times, one after the other."""

    times: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Outline:
    """What ran on a clip (C, T, H, W), from the bottom up, and the shape that came out."""

    clip: tuple[int, ...]
    stacks: tuple[Stack, ...]
    output: tuple[int, ...]

    @property
    def looks(self) -> list[Look]:
        """Every look of every layer, bottom to top."""
        return [look for s in self.stacks for _ in range(s.times) for box in s.boxes for look in box.looks]


def outline(model: Any, clip: Any) -> Outline:
    """Run `model(clip, return_weights=True)` on one clip (1, C, T, H, W) and note what ran.

    The model must return its logits first, and hold its attentions, norms and MLPs as modules named in `KINDS`; tensors
    without values (torch's meta device) are enough. Raises ValueError for a batch of several clips, and for a model
    with parameters in a module that ran but has no kind of box: nothing is left out unseen.
    """
    if len(clip.shape) != 5 or clip.shape[0] != 1:
        raise ValueError(f"expected one clip (1, C, T, H, W), got {tuple(clip.shape)}")
    called: list[tuple[str, Any, tuple[int, ...], Any]] = []
    strangers: list[str] = []
    shown = {path: module for path, module in model.named_modules() if type(module).__name__ in KINDS}
    shown = {path: module for path, module in shown.items() if not _inside(path, shown)}

    def watch(path: str, module: Any):
        def note(_: Any, inputs: tuple, output: Any) -> None:
            if path in shown:
                called.append((path, module, tuple(inputs[0].shape), output))
            elif any(True for _ in module.parameters(recurse=False)) and path and not _inside(path, shown):
                strangers.append(f"{path} ({type(module).__name__})")

        return note

    handles = [module.register_forward_hook(watch(path, module)) for path, module in model.named_modules()]
    try:
        logits, _ = model(clip, return_weights=True)
    finally:
        for handle in handles:
            handle.remove()
    if strangers:
        raise ValueError(f"expected every part with parameters among {sorted(KINDS)}, got {sorted(set(strangers))}")
    grid: tuple[int, int] = (1, 1)  # frames of tokens, tokens of a frame
    layers: list[tuple[str, list[Box]]] = []
    for path, module, shape, output in called:
        kind = KINDS[type(module).__name__]
        if kind == "tubelets":
            frames, rows, columns = output.shape[2:]
            grid = frames, rows * columns
        box = Box(kind, _without_batch(shape), _note(kind, module), _looks(kind, output, grid))
        layer = _layer(path)
        if layers and layer and layers[-1][0] == layer:
            layers[-1][1].append(box)
        else:
            layers.append((layer, [box]))
    stacks: list[tuple[str, Stack]] = []
    for layer, boxes in layers:
        family = layer.rpartition(".")[0]
        if stacks and family and stacks[-1][0] == family and stacks[-1][1].boxes == tuple(boxes):
            stacks[-1] = (family, Stack(stacks[-1][1].times + 1, tuple(boxes)))
        else:
            stacks.append((family, Stack(1, tuple(boxes))))
    return Outline(tuple(clip.shape[1:]), tuple(stack for _, stack in stacks), _without_batch(tuple(logits.shape)))


def _inside(path: str, others: Mapping[str, Any]) -> bool:
    """Whether a module lies within one of the others."""
    parts = path.split(".")
    return any(".".join(parts[:n]) in others for n in range(1, len(parts)))


def _layer(path: str) -> str:
    """The layer of a list that a path goes through, "layers.3" of "layers.3.attention"; "" if none."""
    parts = path.split(".")
    numbers = [n for n, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else ""


def _without_batch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its leading one: the batch, or a single group."""
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


def _note(kind: str, module: Any) -> tuple[int, ...]:
    if kind == "tubelets":
        return (*module.weight.shape[2:], module.weight.shape[0])
    if kind == "MLP":
        return module.expand.weight.shape[1], module.expand.weight.shape[0], module.contract.weight.shape[0]
    if kind == "head":
        return module.weight.shape[1], module.weight.shape[0]
    return ()


def _looks(kind: str, output: Any, grid: tuple[int, int]) -> tuple[Look, ...]:
    """From weights (groups, heads, n, n), or {axis: (B, groups, heads, n, n)}, which groups looked among themselves."""
    if kind != "attention":
        return ()
    weights = output[1]
    if isinstance(weights, Mapping):
        return tuple(Look(name, w.shape[2], w.shape[1], w.shape[3]) for name, w in weights.items())
    groups, heads, tokens, _ = weights.shape
    frames, places = grid
    if groups == 1:
        axis = "all" if tokens >= frames * places else "time"
    else:
        axis = "space" if groups == frames and tokens >= places else "time"
    return (Look(axis, heads, groups, tokens),)


# Drawing: lengths in inches, so that letters and boxes fit each other ------------------------------------------------

_WIDTH, _GAP, _ARROW, _PAD = 3.04, 0.06, 0.28, 0.08
_FOOT, _TOP = 0.52, 0.34  # name and clip below, logits above
_HEIGHTS = {"tubelets": 0.27, "norm": 0.2, "attention": 0.43, "MLP": 0.27, "head": 0.27}
_COLOURS = {
    "tubelets": "context",
    "norm": "convolution",
    "attention": "attention",
    "MLP": "basic",
    "head": "relational",
}


def block_diagrams(outlines: Mapping[str, Outline], *, columns: int = 2) -> Figure:
    """Draw outlines side by side, each bottom to top over its name, `columns` in a row.

    Between two boxes stands the shape of what passes, without the batch. Raises ValueError for no outline and for
    columns below 1. Returns the pyplot figure.
    """
    if not outlines or columns < 1:
        raise ValueError(f"expected outlines and columns from 1, got {len(outlines)} and {columns}")
    names = list(outlines)
    rows = [names[i : i + columns] for i in range(0, len(names), columns)]
    heights = [max(_height(outlines[name]) for name in row) for row in rows]
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(PAGE_WIDTH * columns / 2, sum(heights)),
        gridspec_kw={"height_ratios": heights, "hspace": 0.0, "wspace": 0.0},
        squeeze=False,
    )
    figure.subplots_adjust(left=0.0, right=1.0, bottom=0.0, top=1.0)
    for ax in axes.flat:
        ax.set_axis_off()
    for row, height, line in zip(rows, heights, axes):
        for name, ax in zip(row, line):
            ax.set(xlim=(-PAGE_WIDTH / 4, PAGE_WIDTH / 4), ylim=(0, height))
            _draw(ax, name, outlines[name])
    return figure


def _stack_height(stack: Stack) -> float:
    inner = sum(_HEIGHTS[box.kind] for box in stack.boxes) + _GAP * (len(stack.boxes) - 1)
    return inner + (2 * _PAD + 0.2 if _framed(stack) else 0.0)


def _framed(stack: Stack) -> bool:
    return len(stack.boxes) > 1 or stack.times > 1


def _height(drawn: Outline) -> float:
    return _FOOT + sum(_stack_height(stack) + _ARROW for stack in drawn.stacks) + _ARROW + _TOP


def _draw(ax: Axes, name: str, drawn: Outline) -> None:
    ax.text(0, 0.1, name, ha="center", va="bottom", fontsize=10.5, fontweight="bold")
    ax.text(0, _FOOT - 0.02, "clip " + shape_text(drawn.clip), ha="center", va="top", fontsize=9)
    y = _FOOT
    for number, stack in enumerate(drawn.stacks):
        label = shape_text(stack.boxes[0].shape) if number else ""
        _arrow(ax, y, y + _ARROW, label)
        y += _ARROW
        top = y + _stack_height(stack)
        if _framed(stack):
            frame = FancyBboxPatch((-_WIDTH / 2 - _PAD, y), _WIDTH + 2 * _PAD, top - y, zorder=0,
                                   boxstyle="round,pad=0,rounding_size=0.08", facecolor="#f4f6f8",
                                   edgecolor=PALETTE["convolution"], linewidth=0.9)  # fmt: skip
            ax.add_patch(frame)
            ax.text(-_WIDTH / 2, top - 0.06, f"{stack.times} ×", ha="left", va="top", fontsize=10, fontweight="bold")
            y += _PAD
        for box in stack.boxes:
            _box(ax, y, box)
            y += _HEIGHTS[box.kind] + _GAP
        y = top
    _arrow(ax, y, y + _ARROW, "")
    y += _ARROW
    ax.text(0, y + 0.01, f"{shape_text(drawn.output)} logits", ha="center", va="bottom", fontsize=9)


def _box(ax: Axes, y: float, box: Box) -> None:
    parts: Sequence[str] = [_text(box)]
    if box.looks:
        parts = [_look_text(look) for look in box.looks]
    width = (_WIDTH - _GAP * (len(parts) - 1)) / len(parts)
    for number, text in enumerate(parts):
        left = -_WIDTH / 2 + number * (width + _GAP)
        ax.add_patch(FancyBboxPatch((left, y), width, _HEIGHTS[box.kind], zorder=1, linewidth=1.5,
                                    boxstyle="round,pad=0,rounding_size=0.05", facecolor=PALETTE["paper"],
                                    edgecolor=PALETTE[_COLOURS[box.kind]]))  # fmt: skip
        middle = left + width / 2, y + _HEIGHTS[box.kind] / 2 - 0.01
        ax.text(*middle, text, ha="center", va="center", fontsize=9, linespacing=1.25, zorder=2)


def _text(box: Box) -> str:
    if box.kind == "tubelets":
        return f"tubelets {shape_text(box.note[:3])}, to {box.note[3]} channels"
    if box.kind == "MLP":
        return "MLP " + " → ".join(map(str, box.note))
    if box.kind == "head":
        return "linear " + " → ".join(map(str, box.note))
    return box.kind


def _look_text(look: Look) -> str:
    return f"{look.heads} heads {AXES[look.axis]}\n{look.groups} × ({look.tokens} × {look.tokens})"


def _arrow(ax: Axes, start: float, end: float, label: str) -> None:
    style = {"arrowstyle": "-|>", "color": PALETTE["ink"], "shrinkA": 0, "shrinkB": 0, "linewidth": 1.2}
    ax.annotate("", xy=(0, end), xytext=(0, start + 0.02), arrowprops={**style, "mutation_scale": 9})
    if label:
        ax.text(0.1, (start + end) / 2, label, ha="left", va="center", fontsize=9)


def shape_text(shape: Sequence[int]) -> str:
    """(16, 197, 768) -> "16 × 197 × 768"."""
    return " × ".join(map(str, shape))
