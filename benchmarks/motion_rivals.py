"""The run itself: RSANet and its rivals trained on the motion set by one recipe, with one budget, and tested alike.

    python -m benchmarks.motion_rivals --recipe motion-full                      on a GPU: RSANet-R50, 224 x 224
    python -m benchmarks.motion_rivals --recipe motion-colab                     on a CPU: a small RSANet, 48 x 48
        [--only rsa conv3d] [--seeds 0] [--set key=value] [--minutes 50] [--threads 1]
        [--runs benchmarks/runs] [--output benchmarks/results/motion_rivals_colab.json]

    rsa     relational self-attention in some bottlenecks: the recipe's own net
    conv3d  a 3x3x3 convolution in those bottlenecks
    conv2d  nothing there sees time: frames are looked at one by one, and the scores averaged

`minirsa.training.train` does the training, each net in a process of its own, so that its peak memory is its own. All
nets see the same clips in the same order for the same number of steps; the seed draws weights and clips. After
`--minutes` the training under way saves itself and the command ends with code 0, as after Ctrl-C with code 130; the
same command goes on, and a run that is finished is not repeated. Each net is tested as its last epoch leaves it, on
clips drawn from a seed that neither training nor validation uses: forwards, backwards (the label becomes its
partner's), with frames in random order, and with appearances never trained on. Book: chapter 16, The run itself.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks.provenance import ROOT, provenance
from minirsa import complexity
from minirsa.data.datasets import MotionDataset
from minirsa.data.motion import APPEARANCES, MotionConfig
from minirsa.training import checkpoints
from minirsa.training.engine import build_model, restore_model, train
from minirsa.training.recipes import TrainingRecipe, load_recipe
from minirsa.training.runlog import SESSIONS, read_log
from minirsa.training.video import order_test

NETS = ("rsa", "conv3d", "conv2d")
RIVALS: dict[str, dict[str, dict[str, object]]] = {
    "rsanet_small": {name: {"model_options": {"transform": name}} for name in NETS},
    "rsanet_r50": {"rsa": {}, "conv3d": {"model": "conv3d_resnet50"}, "conv2d": {"model": "tsn_resnet50"}},
}
"""{a recipe's model: {rival: what its recipe changes}}."""

TEST_SEED, TEST_CLIPS = 1_000, 1_200
OUT_OF_TIME = 3
"""Exit code of a training process that stopped because `--minutes` were over."""


def rival(recipe: TrainingRecipe, name: str, seed: int) -> TrainingRecipe:
    """The recipe of one net of the comparison. Raises ValueError for a recipe whose model has no rivals."""
    if recipe.model not in RIVALS or recipe.data != "motion":
        raise ValueError(f"expected a recipe of the motion set for one of {sorted(RIVALS)}, got {recipe.model}")
    changes = RIVALS[recipe.model][name]
    options = {**recipe.model_options, **changes.get("model_options", {})}
    return recipe.replace(**{**changes, "model_options": options, "seed": seed})


def finished(folder: Path, recipe: TrainingRecipe) -> bool:
    """Whether the run in a folder has done its epochs. Raises ValueError if it is another recipe's."""
    found = checkpoints.newest(folder)
    if found is None:
        return False
    state = checkpoints.load(found)
    checkpoints.check_recipe(state, recipe, found)
    return state["epoch"] >= recipe.epochs


def train_net(recipe: TrainingRecipe, folder: Path, seconds: float, threads: int, device: str | None) -> None:
    """Train until the end, a signal or the end of the time, and leave the process with 0, 128 + signal or 3."""
    torch.set_num_threads(threads)
    deadline = time.monotonic() + seconds

    def stop_in_time(row: Mapping[str, object]) -> None:
        if row["kind"] == "epoch":
            shown = {"epoch": row["epoch"], "loss": row["loss"], "validation": row["validation"]}
            print(folder.name, {**shown, "clips/s": round(row["timing"]["clips_per_s"], 1)}, flush=True)
        if time.monotonic() > deadline:
            signal.raise_signal(signal.SIGTERM)  # train finishes the step, saves, and returns

    result = train(recipe, folder, device=device, on_event=stop_in_time)
    out_of_time = result.interrupted == signal.SIGTERM and time.monotonic() > deadline
    sys.exit(OUT_OF_TIME if out_of_time else result.exit_code)


def in_own_process(*arguments: object) -> int:
    """`train_net` in a fresh process, to which this one hands signals on; its exit code, 0 if it is done."""
    process = multiprocessing.get_context("spawn").Process(target=train_net, args=arguments)
    noted = []

    def hand_on(number: int, frame: object) -> None:
        noted.append(number)
        if process.pid is not None:
            process.terminate()

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        process.start()
        process.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + noted[0] if noted else process.exitcode


@torch.no_grad()
def score_net(folder: Path, device: str | None, clips: int) -> dict[str, object]:
    """The fields of `OrderTest` on unseen clips, and top-1 on the same scenes in appearances never trained on."""
    model, recipe, _ = restore_model(folder / checkpoints.LAST)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(where)
    config = MotionConfig(height=recipe.size, width=recipe.size, frames=recipe.frames, **recipe.data_options)

    def parts(config: MotionConfig) -> list[tuple[int, dict[str, float]]]:
        data = MotionDataset(clips, config, seed=TEST_SEED)
        found = []
        for number, part in enumerate(torch.arange(clips).split(48)):
            batch = data.batch(part, where)
            found.append((len(part), asdict(order_test(model, batch.videos, batch.labels, seed=number))))
        return found

    def mean(rows: Sequence[tuple[int, dict[str, float]]], name: str) -> float:
        return round(sum(size * row[name] for size, row in rows) / clips, 4)

    same = parts(config)
    scores: dict[str, object] = {name: mean(same, name) for name in same[0][1]}
    scores["shifted"] = {
        name: mean(parts(replace(config, appearance=name)), "top1") for name in APPEARANCES if name != "same"
    }
    return scores


def report(name: str, seed: int, recipe: TrainingRecipe, folder: Path) -> dict[str, object]:
    """What a finished run's log says, thinned out and rounded, and what its net costs."""
    rows = read_log(folder)
    epochs = [row for row in rows if row["kind"] == "epoch"]
    steps = [row for row in rows if row["kind"] == "train"]
    sessions = read_log(folder / SESSIONS)
    speeds = [row["timing"]["clips_per_s"] for row in epochs]
    memory = [row["timing"]["peak_memory_mib"] for row in rows if "timing" in row]
    empty = torch.empty(1, 3, recipe.frames, recipe.size, recipe.size)
    cost = complexity.measure(build_model(recipe), empty)
    return {
        "net": name,
        "seed": seed,
        "model": recipe.model,
        "model_options": recipe.to_dict()["model_options"],
        "params": cost.params,
        "multiply-adds": cost.macs,
        "epochs": [
            {
                "epoch": row["epoch"],
                "lr": row["lr"],
                "loss": round(row["loss"], 4),
                "top1": round(row["top1"], 4),
                "validation": {key: round(value, 4) for key, value in (row["validation"] or {}).items()},
            }
            for row in epochs
        ],
        "losses": [[row["epoch"] * rows[0]["steps_per_epoch"] + row["step"], round(row["loss"], 4)] for row in steps],
        "clips/s": {
            "median": round(statistics.median(speeds), 2),
            "lowest": round(min(speeds), 2),
            "highest": round(max(speeds), 2),
        },
        "data share": round(statistics.median(_data_share(row["timing"]) for row in epochs), 3),
        "peak memory MiB": round(max((value for value in memory if value is not None), default=0.0), 1),
        "device": sessions[-1]["device"],
        "threads": sessions[-1]["threads"],
        "starts": len(sessions),
    }


def _data_share(timing: Mapping[str, float]) -> float:
    return timing["data_s"] / max(timing["data_s"] + timing["compute_s"], 1e-9)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="motion-colab", help="a preset of the motion set or a .toml file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a field of the recipe")
    parser.add_argument("--only", nargs="+", metavar="NET", choices=NETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long; call again to go on")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--device", help='"cpu", "cuda", "cuda:1"; by default a GPU if there is one')
    parser.add_argument("--test-clips", type=int, default=TEST_CLIPS)
    parser.add_argument("--runs", type=Path, default=ROOT / "benchmarks" / "runs")
    parser.add_argument("--output", type=Path, help="default: by the recipe's name, motion_rivals_colab.json")
    options = parser.parse_args()
    size = Path(options.recipe).stem.removeprefix("motion-")
    options.output = options.output or ROOT / "benchmarks" / "results" / f"motion_rivals_{size}.json"
    torch.set_num_threads(options.threads)
    deadline = time.monotonic() + 60 * options.minutes
    try:
        recipe = load_recipe(options.recipe, options.set)
        recipes = {(name, seed): rival(recipe, name, seed) for seed in options.seeds for name in options.only or NETS}
        runs = _earlier_runs(options.output, recipe, options.test_clips)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    done = {(row["net"], row["seed"]) for row in runs}
    options.runs.mkdir(parents=True, exist_ok=True)
    (options.runs / ".gitignore").write_text("*\n")
    for (name, seed), own in recipes.items():
        if (name, seed) in done:
            continue
        folder = options.runs / f"{Path(options.recipe).stem}-{name}-{seed}"
        if not finished(folder, own):
            code = in_own_process(own, folder, deadline - time.monotonic(), options.threads, options.device)
            if code == OUT_OF_TIME:
                print(f"{folder.name} stands at its last checkpoint: call again to go on", flush=True)
                return 0
            if code:
                return code
        row = {**report(name, seed, own, folder), "test": score_net(folder, options.device, options.test_clips)}
        runs = sorted([*runs, row], key=lambda row: (row["seed"], NETS.index(row["net"])))
        _write(options, recipe, runs)
        print(folder.name, row["test"], flush=True)
    return 0


def _shared(recipe: TrainingRecipe) -> dict[str, object]:
    """What all runs of a result have in common."""
    return {key: value for key, value in recipe.to_dict().items() if key != "seed"}


def _earlier_runs(output: Path, recipe: TrainingRecipe, clips: int) -> list[dict[str, object]]:
    """Runs that a result file holds. Raises ValueError if they are another recipe's or another test's."""
    if not output.exists():
        return []
    stored = json.loads(output.read_text())
    if (stored["recipe"], stored["test"]["clips"]) != (_shared(recipe), clips):
        raise ValueError(f"{output} holds runs of another recipe or test: give another --output, or remove it")
    return stored["runs"]


def _write(options: argparse.Namespace, recipe: TrainingRecipe, runs: list[dict[str, object]]) -> None:
    origin = provenance(seed=None)
    origin["command"] = re.sub(r" --runs \S+", "", origin["command"])  # where the runs lie changes nothing
    record = {
        "provenance": origin,
        "preset": options.recipe,
        "recipe": _shared(recipe),
        "test": {"clips": options.test_clips, "seed": TEST_SEED},
        "runs": runs,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
