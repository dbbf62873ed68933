"""Which attention translates what? Every translator of Part I on the date task, in English and in Korean.

    python -m benchmarks.translation [--steps 400] [--seeds 0 1 2] [--only dot general]
                                     [--output benchmarks/results/translation.json]

One recipe for all recurrent nets (`Recipe`'s warm-up and cosine, Adam); the Transformer has its own schedule
(Vaswani et al. 2017, eq. 3). Every net is trained on lines in both languages of one or two dates, made from its seed,
and tested, language by language, on unseen lines of one, two and three dates: how many answers are right to the last
character, by number of dates and by number of source tokens; and how often the source token with the most weight is
one of those that spell the part of the date being written (`DateSet.alignment`). A finished run is kept: the command
resumes.
Luong et al. 2015, Tables 1 and 4, Figure 6. Book: chapters 1 and 3.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.provenance import provenance
from minirsa.data.translation import SOURCE, TARGET, DateSet
from minirsa.models.seq2seq import Seq2Seq
from minirsa.models.transformer import Transformer
from minirsa.training.loop import Recipe
from minirsa.training.translation import fit_translation, noam_rate, right_answers

LANGUAGES = ("english", "korean")
BATCH, PEAK_RATE = 32, 5e-3
TEST_SEED, TEST_LINES = 1_000, 100
BUCKET = 4  # source tokens
WIDTH, LAYERS = 64, 2

# name: (options of Seq2Seq, how many times the steps, source reversed)
RECURRENT = {
    "none": ({"attention": None}, 1, False),
    "none, reversed source": ({"attention": None}, 1, True),
    "none, 4 x the steps": ({"attention": None}, 4, False),
    "dot": ({"attention": "dot"}, 1, False),
    "general": ({"attention": "general"}, 1, False),
    "concat": ({"attention": "concat"}, 1, False),
    "local-m, D = 3": ({"attention": "local-m", "window": 3}, 1, False),
    "local-p, D = 3": ({"attention": "local-p", "window": 3}, 1, False),
    "local-m, D = 10": ({"attention": "local-m", "window": 10}, 1, False),
    "local-p, D = 10": ({"attention": "local-p", "window": 10}, 1, False),
    "dot, input feeding": ({"attention": "dot", "input_feeding": True}, 1, False),
}
TRANSFORMER_TIMES = 2  # it learns from more steps, each cheaper
VARIANTS = (*RECURRENT, "transformer")


def build(variant: str) -> nn.Module:
    """An untrained net; the caller seeds."""
    if variant == "transformer":
        return Transformer(len(SOURCE), len(TARGET), width=64, heads=4, hidden=128, depth=2, dropout=0.0)
    options = {"input_feeding": False} | RECURRENT[variant][0]
    return Seq2Seq(len(SOURCE), len(TARGET), width=WIDTH, layers=LAYERS, **options)


class Reversed(nn.Module):
    """A translator that reads every source from its last word to its first (Sutskever et al. 2014, section 3.3)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, source_lengths: Tensor, target: Tensor) -> Tensor:
        return self.model(reverse(source, source_lengths), source_lengths, target)

    def start(self, source: Tensor, source_lengths: Tensor):
        return self.model.start(reverse(source, source_lengths), source_lengths)

    def step(self, tokens: Tensor, state):
        return self.model.step(tokens, state)


def reverse(source: Tensor, source_lengths: Tensor) -> Tensor:
    """(B, n) with the words of every row turned round and its padding left where it is."""
    place = torch.arange(source.shape[1])
    last = source_lengths[:, None] - 1
    return source.gather(1, torch.where(place <= last, last - place, place))


def test_set(language: str, dates: int) -> DateSet:
    """The unseen lines of so many dates that every net is tested on."""
    return DateSet(TEST_LINES, seed=TEST_SEED + dates, language=language, dates=(dates, dates))


def alignment_hits(weights: Tensor, gold: Tensor) -> tuple[int, int]:
    """weights (m, n), gold bool (m, n) -> target tokens whose heaviest source token is gold, tokens that have gold."""
    spelled = gold.any(1)
    found = gold[torch.arange(len(gold)), weights.argmax(1)]
    return int(found[spelled].sum()), int(spelled.sum())


@torch.no_grad()
def judge(model: nn.Module, language: str) -> dict[str, object]:
    """Accuracy by number of dates and by source length, and the alignments' hit rate (None without attention)."""
    right: dict[str, float] = {}
    by_length: dict[str, list[int]] = {}
    hits = spelled = 0
    for dates in (1, 2, 3):
        lines = test_set(language, dates)
        batch = lines.batch(range(len(lines)))
        correct = right_answers(model, batch)
        right[str(dates)] = round(correct.float().mean().item(), 4)
        if dates == 3:
            break
        for length, good in zip(batch.source_lengths.tolist(), correct.tolist()):
            low = length // BUCKET * BUCKET
            counts = by_length.setdefault(f"{low}-{low + BUCKET - 1}", [0, 0])
            counts[0] += good
            counts[1] += 1
        if isinstance(model, Seq2Seq) and model.attention is not None:
            _, weights = model(batch.source, batch.source_lengths, batch.target[:, :-1], return_weights=True)
            for row in range(len(lines)):
                gold = lines.alignment(row)
                found = alignment_hits(weights[row, : gold.shape[0], : gold.shape[1]], gold)
                hits, spelled = hits + found[0], spelled + found[1]
    return {
        "right": right,
        "by length": dict(sorted(by_length.items(), key=lambda item: int(item[0].split("-")[0]))),
        "alignment": round(hits / spelled, 4) if spelled else None,
    }


def run(variant: str, seed: int, steps: int) -> dict[str, object]:
    """Train one net and test it in both languages."""
    torch.manual_seed(seed)
    model = build(variant)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if variant == "transformer":
        steps *= TRANSFORMER_TIMES
        rate, options = noam_rate(64, max(1, steps // 4), 0.5), {"label_smoothing": 0.1}
    else:
        _, times, backwards = RECURRENT[variant]
        steps *= times
        model = Reversed(model) if backwards else model
        recipe = Recipe(steps=steps, batch_size=BATCH, lr=PEAK_RATE, seed=seed)
        rate, options = lambda step: recipe.rate(step - 1), {}
    lines = DateSet(steps * BATCH, seed=seed, language="both", dates=(1, 2))
    losses = fit_translation(model, lines.batches(BATCH), rate=rate, steps=steps, **options)
    return {
        "variant": variant,
        "seed": seed,
        "steps": steps,
        "parameters": parameters,
        **{language: judge(model, language) for language in LANGUAGES},
        "last loss": round(statistics.mean(losses[-25:]), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # nets this small are faster so
    runs: list[dict[str, object]] = []
    if options.output and options.output.exists():
        stored = json.loads(options.output.read_text())
        if stored["steps"] != options.steps:
            parser.error(f"{options.output} holds runs of {stored['steps']} steps: remove it or use --steps")
        runs = stored["runs"]
    done = {(row["variant"], row["seed"]) for row in runs}
    for seed, variant in itertools.product(options.seeds, options.only):
        if (variant, seed) not in done:
            start = time.perf_counter()
            runs.append(run(variant, seed, options.steps))
            print(runs[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
            save(options.output, options.steps, runs)
    save(options.output, options.steps, runs)


def save(output: Path | None, steps: int, runs: list[dict[str, object]]) -> None:
    """Write the runs, in one order whatever order they were made in, with their provenance."""
    if output is None:
        return
    place = {variant: number for number, variant in enumerate(VARIANTS)}
    runs.sort(key=lambda row: (place[row["variant"]], row["seed"]))
    record = {"provenance": provenance(seed=None), "steps": steps, "runs": runs}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
