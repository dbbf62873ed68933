"""What do TimeSformer's schemes cost as clips grow longer and larger? Figure 3 of Bertasius et al. 2021.

    python -m benchmarks.space_time_cost [--rounds 5] [--minutes 60]
                                         [--output benchmarks/results/space_time_cost.json]

README of the result: "points" are the grids (frames, size, patches N of a frame, tokens T N); "model" has a row for
each scheme and point, the base model with 400 classes, counted; "block" a row for each of them, one of its blocks (768
channels, 12 heads), counted and, where short enough, timed: "forward", "forward+backward" and "attention alone" are
{"time", "lowest", "highest"} relative to a forward (or forward+backward) pass of divided attention at 8 x 224, or null,
"attention share" the part of the forward pass that attention's products take when they run alone;
"joint to divided" the ratios of the two at every point; "exponents" p of cost = constant x T^p (axis "frames") or
N^p (axis "patches") of a block, between all points and between the largest two; "crossings" the least number of frames,
and the least size, from which joint attention's products cost more than all linear layers, and than divided's model.

Counted: multiply-adds, split in attention's two products and everything else (linear layers and patch embedding), and
bytes that autograd keeps for the backward pass of one clip, of the package's model ("kept bytes", fused attention) and
of the same model with the attention weights written out, as the released code has them ("kept bytes, weights"). These
need no memory: they are taken from tensors without contents. "local_global" runs its local branch as full attention
with a mask, and is counted as it runs: a kernel that leaves out what the mask hides would cost less.

Measured: processor time of one thread, one clip, float32. A point's schemes run in turn, beside the reference, in every
round; median, lowest and highest round are kept. Passes of more multiply-adds than LIMITS are not timed. A linear layer
costs T N, attention's products up to (T N)^2: an exponent between sizes where both matter lies between 1 and 2. The
command resumes: it adds rounds to those in the output file, for at most --minutes. Book: chapter 9.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from benchmarks.attention_cost import slope
from benchmarks.provenance import provenance
from minirsa import complexity
from minirsa.models.timesformer import SCHEMES, Grid, SpaceTimeBlock, timesformer_base

PATCH, WIDTH, HEADS, DEPTH, CLASSES = 16, 768, 12, 12, 400
OVER_FRAMES = [(frames, 224) for frames in (8, 16, 32, 64, 96)]
OVER_SIZE = [(8, size) for size in (224, 336, 448, 560)]
POINTS = [*OVER_FRAMES, *OVER_SIZE[1:]]
REFERENCE = ("divided", 8, 224)
PASSES = ("forward", "forward+backward", "attention alone")
TIMED = {scheme: PASSES if scheme in ("joint", "divided") else PASSES[:1] for scheme in SCHEMES}
LIMITS = {"forward": 220e9, "forward+backward": 120e9, "attention alone": 220e9}
"""A pass is timed if the block's multiply-adds, of one forward pass, are not above: about 6 s, and 10 s, on a core."""


def grid_of(frames: int, size: int) -> Grid:
    """Frames, rows and columns of patches. Raises ValueError unless there is a frame and the patch divides the size."""
    if frames < 1 or size < PATCH or size % PATCH:
        raise ValueError(f"expected at least one frame, and a size that {PATCH} divides, got {frames} x {size}")
    return frames, size // PATCH, size // PATCH


def fits(scheme: str, frames: int, size: int) -> bool:
    """Whether the scheme can be applied: "local_global" needs an even number of frames, rows and columns."""
    if scheme not in SCHEMES:
        raise ValueError(f"expected a scheme among {list(SCHEMES)}, got {scheme!r}")
    return scheme != "local_global" or all(side % 2 == 0 for side in grid_of(frames, size))


def groups(branch: str, grid: Grid) -> tuple[int, int]:
    """How many groups of patches attend among themselves, and how many patches each holds."""
    frames, rows, columns = grid
    count = {
        "all": 1,
        "local": 1,  # with a mask
        "space": frames,
        "time": rows * columns,
        "width": frames * rows,
        "height": frames * columns,
        "global": 8,
    }[branch]
    return count, frames * rows * columns // count


def attention_macs(scheme: str, frames: int, size: int, width: int = WIDTH) -> int:
    """Multiply-adds of the products Q K^T and A V in one block: 2 n^2 D in every group of n."""
    total = 0
    for branch in SCHEMES[scheme]:
        count, patches = groups(branch, grid_of(frames, size))
        n = patches + (branch == SCHEMES[scheme][-1])  # the class token, in the last branch
        total += 2 * count * n**2 * width
    return total


def linear_macs(scheme: str, frames: int, size: int, width: int = WIDTH) -> int:
    """Multiply-adds of the linear layers of one block: 4 D^2 a token and branch, `last` D^2, the MLP 8 D^2."""
    grid = grid_of(frames, size)
    tokens = math.prod(grid)
    total = 8 * (tokens + (frames if scheme == "space" else 1)) * width**2
    total += 5 * tokens * width**2 * len(SCHEMES[scheme][:-1])
    count, patches = groups(SCHEMES[scheme][-1], grid)
    return total + 4 * count * (patches + 1) * width**2


def model_macs(scheme: str, frames: int, size: int) -> tuple[int, int]:
    """Multiply-adds of the base model: attention's products, and everything else."""
    embedding = math.prod(grid_of(frames, size)) * 3 * PATCH**2 * WIDTH + WIDTH * CLASSES
    return DEPTH * attention_macs(scheme, frames, size), DEPTH * linear_macs(scheme, frames, size) + embedding


def first(holds: Callable[[int], bool], values: Iterable[int]) -> int:
    """The first value that holds. Raises ValueError if none does."""
    for value in values:
        if holds(value):
            return value
    raise ValueError("expected a value that holds, got none")


def dearer_than_linear(frames: int, size: int) -> bool:
    """Whether joint attention's products cost more than everything else in its model."""
    attention, rest = model_macs("joint", frames, size)
    return attention > rest


def dearer_than_divided(frames: int, size: int) -> bool:
    """Whether the model with joint attention costs more than the one with divided."""
    return sum(model_macs("joint", frames, size)) > sum(model_macs("divided", frames, size))


def crossing(dearer: Callable[[int, int], bool]) -> dict[str, int]:
    """Least number of frames at 224, and least size of 8 frames, at which joint attention is `dearer`."""
    return {
        "frames": first(lambda frames: dearer(frames, 224), range(1, 97)),
        "size": first(lambda size: dearer(8, size), range(PATCH, 1025, PATCH)),
    }


def kept_bytes(forward: Callable[[], Tensor], own: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of what `forward` returns; each storage once, `own` left out.

    Works on real tensors and on those of a `FakeTensorMode`. Raises ValueError if the result needs no gradient.
    """
    left_out = {tensor.untyped_storage()._cdata for tensor in own}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in left_out:
            kept[storage._cdata] = storage  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    if not result.requires_grad:
        raise ValueError("expected a result that needs a gradient")
    return sum(storage.nbytes() for storage in kept.values())


def kept_without_contents(model: nn.Module, shapes: list[tuple[int, ...]], **options) -> int:
    """`kept_bytes` of `model(*inputs, **options)`, found with stand-ins that have a shape and no contents.

    As on a CPU, where torch's fused attention runs unless `return_weights` forbids it. The first output counts.
    """
    with FakeTensorMode():
        own = {name: torch.empty(p.shape, requires_grad=True) for name, p in model.named_parameters()}
        inputs = tuple(torch.empty(shape, requires_grad=True) for shape in shapes)

        def forward() -> Tensor:
            result = functional_call(model, own, inputs, options)
            return result if isinstance(result, Tensor) else result[0]

        return kept_bytes(forward, own.values())


class Block(nn.Module):
    """One block of a scheme over a clip's patches: (1, T, R, C, D), (1, 1, D) -> (1, T R C + 1, D).

    "space" reads every frame as a clip with its own class token, and gives (T, R C + 1, D).
    """

    def __init__(self, scheme: str, width: int = WIDTH, heads: int = HEADS):
        super().__init__()
        self.scheme = scheme
        self.block = SpaceTimeBlock(scheme, width, heads, 4 * width, dropout=0.0, stochastic_depth=0.0)

    def forward(self, patches: Tensor, token: Tensor, return_weights: bool = False) -> Tensor:
        if self.scheme == "space":
            token = token.repeat_interleave(patches.shape[1], 0)
            patches = patches.flatten(0, 1).unsqueeze(1)
        patches, token, _ = self.block(patches, token, return_weights)
        return torch.cat([token, patches.flatten(1, 3)], 1)


def count_model(scheme: str, frames: int, size: int) -> dict[str, object]:
    """The base model at a point: parameters, multiply-adds, kept bytes."""
    with torch.device("meta"):
        model = timesformer_base(CLASSES, frames, size, attention=scheme).eval()
    clip = (1, 3, frames, size, size)
    cost = complexity.measure(model, torch.empty(clip, device="meta"))
    attention, rest = model_macs(scheme, frames, size)
    if attention + rest != cost.macs:
        raise RuntimeError(f"{scheme} at {frames} x {size}: the formulas give {attention + rest}, not {cost.macs}")
    return {
        "params": cost.params,
        "macs": cost.macs,
        "attention macs": attention,
        "kept bytes": kept_without_contents(model, [clip]),
        "kept bytes, weights": kept_without_contents(model, [clip], return_weights=True),
    }


def count_block(scheme: str, frames: int, size: int) -> dict[str, object]:
    """One block at a point: multiply-adds and kept bytes."""
    with torch.device("meta"):
        block = Block(scheme).eval()
    shapes = [(1, *grid_of(frames, size), WIDTH), (1, 1, WIDTH)]
    return {
        "macs": complexity.measure(block, *(torch.empty(shape, device="meta") for shape in shapes)).macs,
        "attention macs": attention_macs(scheme, frames, size),
        "kept bytes": kept_without_contents(block, shapes),
        "kept bytes, weights": kept_without_contents(block, shapes, return_weights=True),
    }


def rows(count: Callable[[str, int, int], dict[str, object]]) -> Iterator[dict[str, object]]:
    """A row for each scheme and point it fits."""
    for scheme in SCHEMES:
        for frames, size in POINTS:
            if fits(scheme, frames, size):
                yield {"scheme": scheme, "frames": frames, "size": size, **count(scheme, frames, size)}


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def pass_seconds(scheme: str, frames: int, size: int, which: str, width: int = WIDTH, heads: int = HEADS) -> float:
    """Processor time of one pass of a block, weights and inputs of seed 0."""
    if which not in PASSES:
        raise ValueError(f"expected a pass among {PASSES}, got {which!r}")
    torch.manual_seed(0)
    grid = grid_of(frames, size)
    if which == "attention alone":
        triples = []
        for branch in SCHEMES[scheme]:
            count, patches = groups(branch, grid)
            n = patches + (branch == SCHEMES[scheme][-1])
            triples.append(torch.randn(3, count, n, heads, width // heads).transpose(2, 3).unbind())
        with torch.no_grad():
            return seconds(lambda: [F.scaled_dot_product_attention(*triple) for triple in triples])
    block = Block(scheme, width, heads)
    patches, token = torch.randn(1, *grid, width, requires_grad=True), torch.randn(1, 1, width, requires_grad=True)
    if which == "forward":
        with torch.no_grad():
            return seconds(lambda: block(patches, token))
    return seconds(lambda: block(patches, token).sum().backward())


def timed(scheme: str, frames: int, size: int) -> list[str]:
    """Which passes of a scheme are timed at a point."""
    if not fits(scheme, frames, size):
        return []
    macs = attention_macs(scheme, frames, size) + linear_macs(scheme, frames, size)
    return [which for which in TIMED[scheme] if macs <= LIMITS[which]]


def one_round(frames: int, size: int) -> dict[str, dict[str, float]]:
    """{scheme: {pass: time}} at a point, relative to the reference's in the same round."""
    reference = {which: pass_seconds(*REFERENCE, which) for which in PASSES[:2]}
    reference["attention alone"] = reference["forward"]
    result: dict[str, dict[str, float]] = {}
    for scheme in SCHEMES:
        for which in timed(scheme, frames, size):
            taken = pass_seconds(scheme, frames, size, which)
            result.setdefault(scheme, {})[which] = round(taken / reference[which], 4)
    return result


def summary(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "time": round(statistics.median(values), 3),
        "lowest": round(min(values), 3),
        "highest": round(max(values), 3),
    }


def times(rounds: list[dict], scheme: str, which: str) -> list[float]:
    """A pass's times in the rounds of a point: empty where it was not timed."""
    return [result[scheme][which] for result in rounds if which in result.get(scheme, {})]


def name(frames: int, size: int) -> str:
    return f"{frames} x {size}"


def with_times(row: dict[str, object], rounds: dict[str, list[dict]]) -> dict[str, object]:
    """A row of "block" with its times, None where there are none."""
    found = {w: times(rounds.get(name(row["frames"], row["size"]), []), row["scheme"], w) for w in PASSES}
    found["attention share"] = [a / b for a, b in zip(found["attention alone"], found["forward"])]
    return row | {which: summary(values) if values else None for which, values in found.items()}


def joint_to_divided(record: dict[str, object]) -> list[dict[str, object]]:
    """Joint's cost over divided's at every point; times are compared within a round."""
    table = []
    for frames, size in POINTS:
        row: dict[str, object] = {"frames": frames, "size": size}
        for part in ("model", "block"):
            joint, divided = (
                next(r for r in record[part] if (r["scheme"], r["frames"], r["size"]) == (scheme, frames, size))
                for scheme in ("joint", "divided")
            )
            for key in ("macs", "attention macs", "kept bytes", "kept bytes, weights"):
                row[f"{part}: {key}"] = round(joint[key] / divided[key], 3)
        for which in PASSES:
            rounds = record["rounds"].get(name(frames, size), [])
            pairs = zip(*(times(rounds, scheme, which) for scheme in ("joint", "divided")))
            ratios = [joint / divided for joint, divided in pairs]
            row[which] = summary(ratios) if ratios else None
        table.append(row)
    return table


def fit(sizes: list[int], values: list[float]) -> dict[str, float] | None:
    """Exponents over all sizes and over the largest two; None for fewer than two."""
    if len(sizes) < 2:
        return None
    return {"all": round(slope(sizes, values), 3), "largest two": round(slope(sizes[-2:], values[-2:]), 3)}


def exponents(record: dict[str, object]) -> dict[str, dict[str, object]]:
    """Exponents of a block's costs in T at 224 and in N at 8 frames, for every scheme.

    Times have the median, lowest and highest exponent of the rounds, and beside them that of the multiply-adds over the
    points that were timed.
    """
    found: dict[str, dict[str, object]] = {}
    for axis, points in (("frames", OVER_FRAMES), ("patches", OVER_SIZE)):
        found[axis] = {}
        for scheme in SCHEMES:
            table = {(r["frames"], r["size"]): r for r in record["block"] if r["scheme"] == scheme}
            here = [point for point in points if point in table]
            scale = {point: point[0] if axis == "frames" else (point[1] // PATCH) ** 2 for point in here}
            row: dict[str, object] = {"points": [scale[point] for point in here]}
            for key in ("macs", "attention macs", "kept bytes", "kept bytes, weights"):
                row[key] = fit(row["points"], [table[point][key] for point in here])
            for which in PASSES:
                columns = {p: times(record["rounds"].get(name(*p), []), scheme, which) for p in here}
                columns = {point: values for point, values in columns.items() if values}
                sizes = [scale[point] for point in columns]
                fits_ = [fit(sizes, list(values)) for values in zip(*columns.values())]
                if len(sizes) < 2:
                    row[which] = None
                    continue
                key = "attention macs" if which == "attention alone" else "macs"
                row[which] = {"points": sizes, key: fit(sizes, [table[point][key] for point in columns])}
                for part in ("all", "largest two"):
                    values = [one[part] for one in fits_]
                    row[which][part] = {
                        "exponent": round(statistics.median(values), 3),
                        "lowest": min(values),
                        "highest": max(values),
                    }
            found[axis][scheme] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of timing, in all; 0 only counts")
    parser.add_argument("--minutes", type=float, default=60, help="after which no further point is begun")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.rounds < 0 or options.minutes < 0:
        parser.error(f"expected rounds and minutes from 0, got {options.rounds} and {options.minutes}")
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * options.minutes
    stored: dict[str, object] = {}
    if options.output and options.output.exists():
        stored = json.loads(options.output.read_text())
    rounds: dict[str, list[dict]] = {name(*point): [] for point in POINTS} | stored.get("rounds", {})
    blocks = stored.get("block") or list(rows(count_block))
    record: dict[str, object] = {
        "width": WIDTH,
        "heads": HEADS,
        "patch": PATCH,
        "reference": name(*REFERENCE[1:]) + f", {REFERENCE[0]}",
        "points": [
            {"frames": t, "size": size, "patches": (size // PATCH) ** 2, "tokens": t * (size // PATCH) ** 2}
            for t, size in POINTS
        ],
        "crossings": {
            "attention above linear layers": crossing(dearer_than_linear),
            "joint above divided": crossing(dearer_than_divided),
        },
        "model": stored.get("model") or list(rows(count_model)),
    }

    def store() -> None:
        record["block"] = [with_times(row, rounds) for row in blocks]
        record["rounds"] = rounds
        record["joint to divided"] = joint_to_divided(record)
        record["exponents"] = exponents(record)
        record["provenance"] = provenance(seed=0)
        if options.output:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(record, indent=1) + "\n")

    store()
    pass_seconds(*REFERENCE, "forward")  # libraries load
    while time.monotonic() < end:
        point = min(POINTS, key=lambda point: len(rounds[name(*point)]))
        if len(rounds[name(*point)]) >= options.rounds:
            break
        rounds[name(*point)].append(one_round(*point))
        print(name(*point), rounds[name(*point)][-1], flush=True)
        store()


if __name__ == "__main__":
    main()
