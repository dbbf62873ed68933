"""Where the layer norm stands: gradients at initialisation, and training with and without warm-up.

    python -m benchmarks.layer_norm [theorem] [network] [training] [--output benchmarks/results/layer_norm.json]

    theorem   The norm of the gradient of W2 in the last layer against depth L and width d, under the assumptions of
              Theorem 1: one head, W_Q = W_K = 0, Gaussian weights of variance 1/d, no biases, Gaussian inputs.
    network   Figure 3: gradients of W1 and W2 by layer in the 6-6 Transformer, and of the last W2 in 6-6 to 14-14,
              in the paper's sizes, on the date task; also for the 6-6 post-LN net after its warm-up.
    training  Pre-LN and post-LN, with and without warm-up, at several learning rates and seeds.

A gradient's norm is that of the mean over a batch, as in the paper's section 3.4. A finished run is kept: the command
resumes. About twenty minutes on one core. Xiong et al. 2020, section 3, figures 2 and 3. Book: chapter 4.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.provenance import provenance
from minirsa.data.translation import SOURCE, TARGET, DateSet
from minirsa.layers.transformer import Encoder
from minirsa.models.transformer import Transformer
from minirsa.training.translation import exact_match, fit_translation, translation_loss

NORMS = ("post", "pre")
PARTS = ("theorem", "network", "training")

DEPTHS, WIDTH = (2, 4, 8, 16, 32, 64), 128
WIDTHS, DEPTH = (32, 64, 128, 256, 512, 1024), 6
POSITIONS, VOCABULARY, THEOREM_SEEDS = 20, 100, 10

PAPER = {"width": 512, "heads": 4, "hidden": 1024, "dropout": 0.1}  # Xiong et al. 2020, appendix A.1
SIZES, NETWORK_SEEDS, NETWORK_LINES, WARM_UP_LINES = (6, 8, 10, 12, 14), 3, 48, 16

SMALL = {"width": 64, "heads": 4, "hidden": 128, "depth": 6, "dropout": 0.0}
RATES, TRAINING_SEEDS, STEPS, WARM_UP, LINES = (1e-3, 2e-3, 4e-3), 3, 240, 100, 32
TEST_SEED, TEST_LINES = 1_000, 200


def simplified(depth: int, width: int, norm: str, generator: torch.Generator) -> Encoder:
    """The Transformer of Theorem 1: attention that averages all positions, FFN of width d, Gaussian weights."""
    model = Encoder(depth, width, 1, width, norm=norm, dropout=0.0)
    for layer in model.layers:
        attention, feed_forward = layer.attention, layer.feed_forward
        nn.init.zeros_(attention.query.weight)
        nn.init.zeros_(attention.key.weight)
        nn.init.eye_(attention.output.weight)
        for linear in (attention.value, feed_forward.expand, feed_forward.contract):
            nn.init.normal_(linear.weight, std=width**-0.5, generator=generator)
    return model


def simplified_gradients(norm: str, depth: int, width: int, embedding: str, seed: int) -> list[float]:
    """||dL/dW2|| of each layer, first to last, for the mean cross-entropy of `POSITIONS` random tokens.

    embedding: "1/d" for output embeddings of variance 1/d, where ||dL/dx|| is about 1, as the proof assumes; "1" for
    variance 1, where each *component* of dL/dx is about 1.
    """
    generator = torch.Generator().manual_seed(seed)
    model = simplified(depth, width, norm, generator)
    output = torch.randn(VOCABULARY, width, generator=generator) * {"1/d": width**-0.5, "1": 1.0}[embedding]
    x = torch.randn(1, POSITIONS, width, generator=generator)
    tokens = torch.randint(VOCABULARY, (POSITIONS,), generator=generator)
    F.cross_entropy(model(x)[0] @ output.T, tokens).backward()
    return [layer.feed_forward.contract.weight.grad.norm().item() for layer in model.layers]


def translator(norm: str, seed: int, **sizes) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(len(SOURCE), len(TARGET), norm=norm, **sizes)


def feed_forward_gradients(model: Transformer) -> dict[str, list[float]]:
    """Norms of the gradients of W1 and W2, layer by layer, in encoder and decoder."""
    return {
        f"{name} {weight}": [
            round(getattr(layer.feed_forward, linear).weight.grad.norm().item(), 5) for layer in part.layers
        ]
        for name, part in (("encoder", model.encoder), ("decoder", model.decoder))
        for weight, linear in (("W1", "expand"), ("W2", "contract"))
    }


def gradients_on_dates(model: Transformer, lines: int, seed: int) -> dict[str, object]:
    """`feed_forward_gradients` of the mean loss over `lines` lines of the date task, label smoothing 0.1.

    And "stream", the mean squared length of what enters the decoder's last norm, in units of the width.
    """
    stream: dict[str, float] = {}

    def note(module: nn.LayerNorm, given: tuple[Tensor], result: Tensor) -> None:
        stream["stream"] = round(given[0].square().mean().item(), 4)

    batch = DateSet(lines, seed=TEST_SEED + seed, dates=(1, 1)).batch(range(lines))
    model.train()
    model.zero_grad()
    last = model.decoder.norm or model.decoder.layers[-1].feed_forward_norm
    hook = last.register_forward_hook(note)
    logits = model(batch.source, batch.source_lengths, batch.target[:, :-1])
    translation_loss(logits, batch.target, label_smoothing=0.1).backward()
    hook.remove()
    return {**stream, **feed_forward_gradients(model)}


def schedule(top: float, warm_up: int, hold: int) -> Callable[[int], float]:
    """lr(t) for t = 1, 2, ...: t / warm_up * top up to warm_up, level up to `hold`, then top * sqrt(hold / t).

    Xiong et al. 2020, equation 1, followed by the inverse square root. warm_up = 1 is no warm-up.
    """
    return lambda step: top * min(step / warm_up, 1.0, (hold / step) ** 0.5)


def train(norm: str, warm_up: int, rate: float, seed: int) -> dict[str, object]:
    """One small translator; its losses (means of 10 steps) and how many whole answers it gets right."""
    model = translator(norm, seed, **SMALL)
    batches = DateSet(STEPS * LINES, seed=seed, dates=(1, 1)).batches(LINES)
    losses = fit_translation(model, batches, rate=schedule(rate, warm_up, WARM_UP), steps=STEPS, clip_norm=math.inf)
    model.eval()
    test = DateSet(TEST_LINES, seed=TEST_SEED, dates=(1, 1)).batch(range(TEST_LINES))
    return {
        "losses": [round(statistics.mean(losses[i : i + 10]), 4) for i in range(0, STEPS, 10)],
        "exact": round(exact_match(model, test), 4),
    }


def theorem_runs():
    """(key, function) of every run of the part; the key tells runs apart in the stored results."""
    for norm in NORMS:
        for embedding in ("1/d", "1"):
            sizes = [(depth, WIDTH) for depth in DEPTHS] + [(DEPTH, width) for width in WIDTHS]
            for depth, width in dict.fromkeys(sizes):
                key = {"norm": norm, "embedding": embedding, "depth": depth, "width": width}
                yield (
                    key,
                    lambda key=key: {
                        "last W2": [
                            round(simplified_gradients(seed=seed, **key)[-1], 5) for seed in range(THEOREM_SEEDS)
                        ]
                    },
                )


def network_runs():
    for seed in range(NETWORK_SEEDS):
        for size in SIZES:
            for norm in NORMS:
                key = {"norm": norm, "size": size, "when": "initialisation", "seed": seed}
                yield (
                    key,
                    lambda norm=norm, size=size, seed=seed: gradients_on_dates(
                        translator(norm, seed, depth=size, **PAPER), NETWORK_LINES, seed
                    ),
                )
    yield {"norm": "post", "size": 6, "when": "after warm-up", "seed": 0}, after_warm_up


def after_warm_up() -> dict[str, object]:
    """The 6-6 post-LN net in the paper's sizes after `WARM_UP` steps of Adam that end at 5e-4, the paper's rate."""
    model = translator("post", 0, depth=6, **PAPER)
    batches = DateSet(WARM_UP * WARM_UP_LINES, seed=0, dates=(1, 1)).batches(WARM_UP_LINES)
    rate = schedule(5e-4, WARM_UP, WARM_UP)
    losses = fit_translation(model, batches, rate=rate, steps=WARM_UP, label_smoothing=0.1, clip_norm=math.inf)
    return {"last loss": round(statistics.mean(losses[-10:]), 4), **gradients_on_dates(model, NETWORK_LINES, 0)}


def training_runs():
    for seed in range(TRAINING_SEEDS):
        for rate in RATES:
            for norm in NORMS:
                for warm_up in (1, WARM_UP):
                    key = {"norm": norm, "warm-up": warm_up, "rate": rate, "seed": seed}
                    yield key, lambda norm=norm, warm_up=warm_up, rate=rate, seed=seed: train(norm, warm_up, rate, seed)


RUNS = {"theorem": theorem_runs, "network": network_runs, "training": training_runs}


def settings() -> dict[str, object]:
    """What the stored numbers were made with; results of other settings are not resumed."""
    return {
        "theorem": {"positions": POSITIONS, "vocabulary": VOCABULARY, "seeds": THEOREM_SEEDS},
        "network": {**PAPER, "lines": NETWORK_LINES, "warm-up": WARM_UP, "warm-up lines": WARM_UP_LINES},
        "training": {**SMALL, "steps": STEPS, "warm-up": WARM_UP, "lines": LINES, "test lines": TEST_LINES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all unless given")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/layer_norm.json"))
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"expected some of {PARTS}, got {sorted(unknown)}")
    torch.set_num_threads(1)
    stored = json.loads(options.output.read_text()) if options.output.exists() else {}
    for part in options.parts or PARTS:
        wanted = settings()[part]
        record = stored.setdefault(part, {"settings": wanted, "runs": []})
        if record["settings"] != json.loads(json.dumps(wanted)):
            parser.error(f"{options.output} holds {part} runs of other settings: remove them or use --output")
        for key, function in RUNS[part]():
            if any(all(row[name] == value for name, value in key.items()) for row in record["runs"]):
                continue
            begun = time.perf_counter()
            record["runs"].append({**key, **function()})
            record["provenance"] = provenance()
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(stored, indent=1) + "\n")
            print(part, key, f"{time.perf_counter() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    main()
