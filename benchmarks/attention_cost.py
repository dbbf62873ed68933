"""What do self-attention, recurrence and convolution cost? Table 1 of Vaswani et al. 2017, measured.

    python -m benchmarks.attention_cost [--rounds 7] [--output benchmarks/results/attention_cost.json]

One layer of each kind turns a sequence (1, n, d) into one of the same shape:

    Self-Attention               softmax(x x^T / sqrt(d)) x, weights written out     n^2 d   (two products)
    Recurrent                    h_i = tanh(U x_i + W h_{i-1}), torch.nn.RNN         n d^2   (two products)
    Convolutional                over the last k positions, torch.nn.Conv1d          k n d^2
    Self-Attention (restricted)  over the r positions around each                    r n d   (two products)
    Self-Attention (fused)       the first, by torch's fused kernel: not in the table

As in the table the mixing of positions alone counts: attention has no projections here. Operations and chains of
waiting products are counted by `minirsa.complexity`, paths found by its gradient reach. Times: processor time of one
thread (what else the machine does cannot lengthen it, but for the caches), batch 1, float32, forward without
gradients; every round runs all layers at all sizes in turn, and medians over the rounds are kept. An exponent is the
slope of log time over log size (least squares), over all sizes and over the largest three; the median of the rounds'
slopes with the least and the greatest. Memory: what autograd keeps for the backward pass (exact), and the growth of
the peak resident size during forward and backward in a process of its own (Linux). Book: chapter 2.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.provenance import ROOT, provenance
from minirsa.complexity import measure, path_length, sequential_products
from minirsa.layers.attention import restricted_attention, scaled_dot_product_attention

KERNEL, NEIGHBOURHOOD = 3, 33  # k and r where they do not vary
OVER_N = {"d": 128, "n": [128, 256, 512, 1024, 2048, 4096]}
OVER_D = {"n": 512, "d": [32, 64, 128, 256, 512, 1024, 2048]}
GRID = {"n": [64, 128, 256, 512, 1024, 2048], "d": [64, 128, 256, 512, 1024, 2048]}
MEMORY = {"d": 64, "n": [1024, 2048, 4096]}
PATHS = {"n": [9, 27, 81, 243], "d": 4, "r": 9}
TABLE = ("Self-Attention", "Recurrent", "Convolutional", "Self-Attention (restricted)")
FUSED = "Self-Attention (fused)"


class SelfAttention(nn.Module):
    """softmax(x x^T / sqrt(d)) x: (1, n, d) -> (1, n, d), with the weights written out or by the fused kernel."""

    def __init__(self, fused: bool):
        super().__init__()
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            heads = x[:, None]  # (1, 1, n, d): the fused kernel wants an axis of heads
            return scaled_dot_product_attention(heads, heads, heads)[:, 0]
        return scaled_dot_product_attention(x, x, x, return_weights=True)[0]


class RestrictedSelfAttention(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return restricted_attention(x, x, x, self.size)


class Recurrent(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.cells = nn.RNN(width, width, batch_first=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x)[0]


class Convolutional(nn.Module):
    """Every position from the k that end with it."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.past = kernel - 1
        self.convolution = nn.Conv1d(width, width, kernel, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(F.pad(x.mT, (self.past, 0))).mT


def build(name: str, d: int, k: int = KERNEL, r: int = NEIGHBOURHOOD) -> nn.Module:
    """The layer of a name of `TABLE`, or `FUSED`, with weights of seed 0."""
    torch.manual_seed(0)
    if name == "Recurrent":
        return Recurrent(d)
    if name == "Convolutional":
        return Convolutional(d, k)
    if name == "Self-Attention (restricted)":
        return RestrictedSelfAttention(r)
    return SelfAttention(fused=name == FUSED)


def sequence(n: int, d: int) -> Tensor:
    return torch.randn(1, n, d, generator=torch.Generator().manual_seed(1))


def operations(name: str, **sizes: int) -> int:
    """Multiply-adds of one layer at n, d, k, r."""
    sizes = {"n": 256, "d": 64, "k": KERNEL, "r": NEIGHBOURHOOD} | sizes
    return measure(build(name, sizes["d"], sizes["k"], sizes["r"]), sequence(sizes["n"], sizes["d"])).macs


def counted() -> dict[str, object]:
    """Operations of every layer, and by which power of 2 or 3 they grow when one size is doubled or tripled."""
    base = {"n": 256, "d": 64, "k": KERNEL, "r": NEIGHBOURHOOD}
    rows: dict[str, object] = {}
    for name in TABLE:
        once = operations(name, **base)
        exponents = {}
        for size, value in base.items():
            more = operations(name, **base | {size: 3 * value})  # 3: kernels and neighbourhoods stay odd
            exponents[size] = next((power for power in range(5) if 3**power * once == more), None)
        rows[name] = {"macs": once, "exponents": exponents}
    return {"sizes": base, "layers": rows}


def waiting(lengths: Sequence[int] = (16, 32, 64)) -> dict[str, dict[str, int]]:
    """Products that must wait for one another, by length."""
    return {name: {str(n): sequential_products(build(name, 8), sequence(n, 8)) for n in lengths} for name in TABLE}


def path_steps(d: int = PATHS["d"], r: int = PATHS["r"], k: int = KERNEL) -> dict[str, tuple[Callable, bool]]:
    """One step of every layer for `path_length`, and whether its state starts at zero: name -> (step, from zero).

    The recurrence makes all states at once from their left neighbours' last ones: n such steps are the RNN.
    """
    draw = torch.Generator().manual_seed(2)
    W, U = (torch.randn(d, d, generator=draw, dtype=torch.float64) / d**0.5 for _ in range(2))
    kernel = torch.randn(d, d, k, generator=draw, dtype=torch.float64) / (k * d) ** 0.5

    def convolve(state: Tensor, dilation: int) -> Tensor:
        past = F.pad(state.T, ((k - 1) * dilation, 0))
        return F.conv1d(past[None], kernel, dilation=dilation)[0].T

    def recurrent(state: Tensor, x: Tensor, index: int) -> Tensor:
        before = torch.cat([torch.zeros_like(x[:1]), state[:-1]])
        return torch.tanh(x @ U.T + before @ W.T)

    return {
        "Self-Attention": (lambda s, x, index: scaled_dot_product_attention(s, s, s), False),
        "Recurrent": (recurrent, True),
        "Convolutional": (lambda s, x, index: convolve(s, 1), False),
        "Convolutional (dilated)": (lambda s, x, index: convolve(s, k**index), False),
        "Self-Attention (restricted)": (lambda s, x, index: restricted_attention(s, s, s, r), False),
    }


def paths(lengths: Sequence[int] = PATHS["n"]) -> dict[str, dict[str, int]]:
    """Steps until the last position feels the first, by length."""
    found: dict[str, dict[str, int]] = {}
    for name, (step, from_zero) in path_steps().items():
        found[name] = {}
        for n in lengths:
            x = torch.randn(n, PATHS["d"], generator=torch.Generator().manual_seed(n), dtype=torch.float64)
            found[name][str(n)] = path_length(step, x, torch.zeros_like(x) if from_zero else None)
    return found


def seconds(layer: nn.Module, x: Tensor, at_least: float = 0.002) -> float:
    """Processor time of one pass on this thread: the mean over as many as fill `at_least` seconds, after one more."""
    layer(x)  # the case before this one has filled the caches with its own data
    calls, start = 0, time.thread_time()
    while True:
        layer(x)
        calls += 1
        passed = time.thread_time() - start
        if passed > at_least:
            return passed / calls


def clock(cases: dict[tuple, tuple[nn.Module, Tensor]], rounds: int) -> dict[tuple, list[float]]:
    """Milliseconds of every case in every round; the cases run in turn within a round."""
    taken: dict[tuple, list[float]] = {case: [] for case in cases}
    with torch.no_grad():
        for _ in range(rounds):
            for case, (layer, x) in cases.items():
                taken[case].append(1e3 * seconds(layer, x))
    return taken


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Exponent p of the best fit value = constant size^p: least squares in the logarithms."""
    return statistics.linear_regression([math.log(s) for s in sizes], [math.log(v) for v in values]).slope


def exponents(sizes: Sequence[int], rounds: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """rounds: times by size, one list a round -> [median, least, greatest] slope over all and the largest sizes."""
    fits = {}
    for which, part in (("all", slice(None)), ("largest three", slice(-3, None))):
        slopes = [slope(sizes[part], times[part]) for times in rounds]
        fits[which] = [round(value, 2) for value in (statistics.median(slopes), min(slopes), max(slopes))]
    return fits


def sweep(sizes: dict[str, object], axis: str, rounds: int) -> dict[str, object]:
    """Times of all layers over n or over d."""
    points = [(value, sizes["d"]) if axis == "n" else (sizes["n"], value) for value in sizes[axis]]
    cases = {(name, n, d): (build(name, d), sequence(n, d)) for n, d in points for name in (*TABLE, FUSED)}
    taken = clock(cases, rounds)
    rows = {}
    for name in (*TABLE, FUSED):
        columns = [taken[name, n, d] for n, d in points]
        row: dict[str, object] = {"ms": [round(statistics.median(column), 4) for column in columns]}
        row["exponents"] = exponents(sizes[axis], list(zip(*columns)))
        macs = operations("Self-Attention" if name == FUSED else name, n=points[-1][0], d=points[-1][1])
        row["G multiply-adds a second at the largest size"] = round(macs / row["ms"][-1] / 1e6, 2)
        rows[name] = row
        print(f"over {axis}: {name:28s}", row["exponents"], row["ms"], flush=True)
    return sizes | {"layers": rows}


def duel(rounds: int) -> dict[str, object]:
    """Self-attention and recurrence over n and d: times, and self-attention's share of the recurrence's."""
    cases = {(name, n, d): (build(name, d), sequence(n, d)) for n in GRID["n"] for d in GRID["d"] for name in TABLE[:2]}
    taken = clock(cases, rounds)
    rows = []
    for n in GRID["n"]:
        for d in GRID["d"]:
            attention, recurrent = (taken[name, n, d] for name in TABLE[:2])
            ratio = statistics.median(a / b for a, b in zip(attention, recurrent))
            times = [round(statistics.median(values), 4) for values in (attention, recurrent)]
            rows.append({"n": n, "d": d, "self-attention ms": times[0], "recurrent ms": times[1]})
            rows[-1]["ratio"] = round(ratio, 3)
        print(f"duel n = {n}:", {row["d"]: row["ratio"] for row in rows if row["n"] == n}, flush=True)
    return GRID | {"rows": rows}


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass: each storage once, the layer's parameters not."""
    known = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(x.requires_grad_())
    assert output.requires_grad
    return sum(kept.values())


def resident(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def peak_growth(name: str, n: int, d: int, queue) -> None:
    """Put the growth of the peak resident size during forward and backward on `queue`; run in a fresh process."""
    torch.set_num_threads(1)
    layer = build(name, d)
    layer(sequence(16, d).requires_grad_()).sum().backward()  # libraries load
    x = sequence(n, d).requires_grad_()
    gc.collect()
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # the peak starts again from what is resident now
    before = resident("VmRSS")
    layer(x).sum().backward()
    queue.put(resident("VmHWM") - before)


def memory() -> dict[str, object]:
    """MB kept for the backward pass, and MB by which the resident peak grows, of every layer over n."""
    context = multiprocessing.get_context("spawn")
    rows: dict[str, object] = {}
    for name in (*TABLE, FUSED):
        saved = [saved_bytes(build(name, MEMORY["d"]), sequence(n, MEMORY["d"])) for n in MEMORY["n"]]
        row: dict[str, object] = {"saved MB": [round(size / 1e6, 3) for size in saved]}
        row["saved exponent, largest three"] = round(slope(MEMORY["n"][-3:], saved[-3:]), 3)
        if Path("/proc/self/clear_refs").exists():
            peaks = []
            for n in MEMORY["n"]:
                queue = context.Queue()
                process = context.Process(target=peak_growth, args=(name, n, MEMORY["d"], queue))
                process.start()
                peaks.append(queue.get(timeout=300))
                process.join()
            row["peak MB"] = [round(size / 1e6, 1) for size in peaks]
        rows[name] = row
        print(f"memory: {name:28s}", row, flush=True)
    return MEMORY | {"layers": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "attention_cost.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = {
        "provenance": provenance(seed=0),
        "kernel": KERNEL,
        "neighbourhood": NEIGHBOURHOOD,
        "operations": counted(),
        "sequential": waiting(),
        "paths": PATHS | {"layers": paths()},
        "rounds": options.rounds,
        "over n": sweep(OVER_N, "n", options.rounds),
        "over d": sweep(OVER_D, "d", options.rounds),
        "duel": duel(options.rounds),
        "memory": memory(),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
