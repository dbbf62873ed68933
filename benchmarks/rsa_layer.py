"""How fast is minirsa's RSA layer beside the arrangement of the RSA release, and how much memory does it take?

    python -m benchmarks.rsa_layer [--frames 8] [--batch 1] [--rounds 7] [--output benchmarks/results/rsa_layer.json]

Both compute the same numbers from the same weights (asserted) at the four stages of RSANet-R50. The release's
arrangement, written here from its description: three 3-D convolutions, results copied so that positions are rows,
then per-position products in the paper's order, kernel . ([H2^T X] . [I + X^T G]). The two are timed in turn within
one run, and the fastest round of each counts, since other work on the machine can only slow a round down.
A third contender, "lean", is the package's layer with `frames_at_once=1`, which trades time for memory.
Memory is the growth of the process's peak resident size while the call runs (Linux), each in a process of its own.
On a GPU the CUDA allocator's peak and synchronised clocks are used. Book: chapters 13 and 14.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.provenance import provenance
from minirsa.layers import RelationalSelfAttention

STAGES = {"res2": (64, 56), "res3": (128, 28), "res4": (256, 14), "res5": (512, 7)}  # channels, height = width


def unit(x: Tensor, dim: int) -> Tensor:
    return x / (x.pow(2).sum(dim, keepdim=True) + 1e-6).sqrt()


def release_arrangement(layer: RelationalSelfAttention, x: Tensor) -> Tensor:
    """The layer's output as the release arranges it: (B, C, T, H, W) -> (B, C, T, H, W)."""
    L, c, D = layer.queries, layer.width, layer.latent
    B, C, T, H, W = x.shape
    padding = [s // 2 for s in layer.kernel_size]
    query, key, value = layer.projection(x).split([C, c, c], 1)
    query = unit(query.reshape(B, L, c, T, H, W), 2).permute(0, 3, 4, 5, 1, 2).reshape(-1, L, c)
    key, value = unit(key, 1), unit(value, 1).reshape(B * c, 1, T, H, W)
    maps = F.conv3d(key, layer.H1.reshape(c * D, 1, *layer.kernel_size), padding=padding, groups=c)
    maps = maps.reshape(B, c, D, T, H, W).permute(0, 3, 4, 5, 1, 2).reshape(-1, c, D) + layer.P1
    latent = torch.einsum("nlc,ncd->nld", query, maps)
    context = F.conv3d(value, layer.H2, padding=padding)
    context = context.reshape(B, c, D, T, H, W).permute(0, 3, 4, 5, 1, 2).reshape(-1, c, D)
    relation = F.conv3d(value, layer.G, padding=padding)
    relation = relation.reshape(B, c, c, T, H, W).permute(0, 3, 4, 5, 1, 2).reshape(-1, c, c) + layer.I
    transform = torch.einsum("nce,ncd->ned", relation, context)
    out = torch.einsum("nld,ned->nel", latent, transform)  # value-major
    return out.reshape(B, T, H, W, C).permute(0, 4, 1, 2, 3)


def make(stage: str, frames: int, batch: int, device: str) -> tuple[RelationalSelfAttention, Tensor]:
    """The layer of a stage with weights of seed 0, and a random input (B, C, T, H, W) that wants a gradient."""
    torch.manual_seed(0)
    channels, size = STAGES[stage]
    layer = RelationalSelfAttention(channels).to(device)
    return layer, torch.randn(batch, channels, frames, size, size, device=device, requires_grad=True)


def call(name: str, layer: RelationalSelfAttention, x: Tensor, backward: bool) -> None:
    """One forward pass, or forward and backward, of a contender: "release", "minirsa" or "lean"."""
    layer.frames_at_once = 1 if name == "lean" else None
    forward = (lambda video: release_arrangement(layer, video)) if name == "release" else layer
    if backward:
        forward(x).square().sum().backward()
        x.grad = None
        layer.zero_grad()
    else:
        with torch.no_grad():
            forward(x)
    if x.is_cuda:
        torch.cuda.synchronize()


def resident(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def peak_memory(name: str, stage: str, frames: int, batch: int, device: str, backward: bool, queue) -> None:
    """Put the peak growth in bytes of one call on `queue`; run in a fresh process."""
    layer, x = make(stage, frames, batch, device)
    small = x.detach()[:, :, :1].clone().requires_grad_()
    call(name, layer, small, backward)  # libraries load, thread pools start
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call(name, layer, x, backward)
        queue.put(torch.cuda.max_memory_allocated() - before)
        return
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # the peak starts again from what is resident now
    before = resident("VmRSS")
    call(name, layer, x, backward)
    queue.put(resident("VmHWM") - before)


def measure_memory(*arguments) -> int | None:
    if arguments[4] == "cpu" and not Path("/proc/self/clear_refs").exists():
        return None
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=peak_memory, args=(*arguments, queue))
    process.start()
    peak = queue.get(timeout=300)
    process.join()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for stage in STAGES:
        layer, x = make(stage, options.frames, options.batch, options.device)
        torch.testing.assert_close(layer(x), release_arrangement(layer, x), rtol=1e-3, atol=1e-5)
        row: dict[str, object] = {"stage": stage, "channels": STAGES[stage][0], "size": STAGES[stage][1]}
        for what, backward in (("forward", False), ("forward+backward", True)):
            best = dict.fromkeys(("release", "minirsa", "lean"), float("inf"))
            for _ in range(options.rounds):
                for name in best:
                    start = time.perf_counter()
                    call(name, layer, x, backward)
                    best[name] = min(best[name], time.perf_counter() - start)
            memory = {
                name: measure_memory(name, stage, options.frames, options.batch, options.device, backward)
                for name in best
            }
            row[what] = {f"{name} ms": round(1e3 * seconds, 1) for name, seconds in best.items()}
            row[what] |= {f"{name} speed-up": round(best["release"] / best[name], 2) for name in ("minirsa", "lean")}
            if None not in memory.values():
                row[what] |= {f"{name} MB": round(size / 1e6, 1) for name, size in memory.items()}
                for name in ("minirsa", "lean"):
                    row[what][f"{name} memory ratio"] = round(memory[name] / memory["release"], 2)
            print(stage, what, row[what], flush=True)
        rows.append(row)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({"provenance": provenance(seed=0), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
