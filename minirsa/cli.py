"""The command line: `minirsa train | evaluate | predict | data | bench`; also `python -m minirsa`.

    minirsa data prepare something-v2 ROOT      videos to frames, once
    minirsa train --recipe ssv2-8f --data-root ROOT --pretrained resnet50.pth --output runs/8f
    minirsa evaluate runs/8f runs/16f --data-root ROOT --clips 2

Errors are one line on stderr that says what to do. Exit codes: 0 done; 1 something could not be used (a file, a recipe,
a loss that is not finite); 2 a wrong call; 130 after Ctrl-C, 143 after SIGTERM: `train` has saved by then, and the same
command goes on. Book: chapter 16; chapters 7 and 13 (predict).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import minirsa


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code comes back."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 2
    # The causes a person can mend. VideoReadError is a ValueError; FileNotFoundError and its kin are OSErrors.
    try:
        code = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read our output has closed it, as `| head -1` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"minirsa: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


# What can be called --------------------------------------------------------------------------------------------------


def _count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number


def _natural(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    return 0 if text == "0" else _count(text)


def _size(text: str) -> int | tuple[int, int] | None:
    """ "256" (shorter side), "240x320" (height x width) or "none", for argparse."""
    if text.lower() == "none":
        return None
    sides = [_count(side) for side in text.lower().split("x")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"expected 256, 240x320 or none, got {text!r}")
    return sides[0] if len(sides) == 1 else tuple(sides)


def _command(commands, name: str, run, help_: str, description: str, example: str) -> argparse.ArgumentParser:
    """A subcommand whose help keeps the lines of its description and ends with examples."""
    parser = commands.add_parser(
        name,
        help=help_,
        description=textwrap.dedent(description).strip(),
        epilog=textwrap.dedent(example).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="minirsa", description="Video transforms from attention to RSA.")
    parser.add_argument("--version", action="version", version=f"minirsa {minirsa.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    data = commands.add_parser("data", help="prepare a data set, or draw the sample clips")
    _add_data(data.add_subparsers(title="commands", metavar="COMMAND", required=True))
    _add_bench(commands)
    return parser


def _add_recipe(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--recipe", required=required, metavar="NAME", help="a preset's name, or a TOML file with a recipe's fields"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a field of the recipe; may be given several times",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="the data set's folder (the motion set has none)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:1 (default: a GPU if there is one)")


def _add_train(commands) -> None:
    train = _command(
        commands,
        "train",
        _train,
        "train a net by a recipe",
        """
        Train by a recipe into a folder. The folder gets last.pt, good.pt and best.pt (checkpoints), log.jsonl (what
        happened), sessions.jsonl (when and where) and recipe.toml. The same command goes on where it was stopped:
        by Ctrl-C, which saves first, or by a power cut. Validation follows the recipe; best.pt is the best by it.

        presets:
          ssv1-8f, ssv1-16f, ssv2-8f, ssv2-16f   RSANet-R50 on Something-Something, as published
          diving48, gym99, gym288                the same recipe on Diving-48 and FineGym
          motion-ci                              a small net on the motion set: minutes on a CPU
          motion-colab                           the same, longer, on larger and harder clips
          motion-full                            RSANet-R50 from scratch on the motion set, for a GPU
        How long one takes on a machine: minirsa bench --recipe NAME
        """,
        """
        examples:
          minirsa train --recipe motion-ci
          minirsa train --recipe motion-full --set model=tsn_resnet50 --output runs/tsn
          minirsa train --recipe ssv2-8f --data-root DATA/ssv2 --pretrained resnet50-0676ba61.pth
          torchrun --nproc-per-node 8 -m minirsa train --recipe ssv2-8f --data-root DATA/ssv2 --pretrained FILE
          minirsa train --recipe ssv2-8f --set frames=16 --show > my.toml   (then edit it: --recipe my.toml)
        """,
    )
    _add_recipe(train, required=False)
    train.add_argument("--output", type=Path, metavar="DIR", help="the run's folder (default: runs/NAME)")
    _add_machine(train)
    train.add_argument("--pretrained", type=Path, metavar="FILE", help="torchvision's ResNet-50 weights (.pth)")
    train.add_argument(
        "--resume",
        choices=("auto", "never", "must"),
        default="auto",
        help="go on if the folder holds a checkpoint (auto), refuse that (never), or refuse a fresh start (must)",
    )
    train.add_argument("--tensorboard", action="store_true", help="write curves for TensorBoard, too")
    train.add_argument("--show", action="store_true", help="print the recipe as TOML and train nothing")


def _add_evaluate(commands) -> None:
    evaluate = _command(
        commands,
        "evaluate",
        _evaluate,
        "accuracy of trained nets, alone and together",
        """
        Test nets on the split that papers report on. A SOURCE is a run's folder (its best.pt), a checkpoint, or a
        file of scores that an earlier evaluation saved: those need no second pass. With several, each is reported,
        and then the ensemble: the mean of their probabilities. Scores are saved beside the checkpoint.

        Printed: top-1, top-5, the mean over classes, and for each pair of opposite motions ("moving something up" and
        "moving something down") how often one is taken for the other.
        """,
        """
        examples:
          minirsa evaluate runs/motion-ci
          minirsa evaluate runs/motion-ci --reverse
          minirsa evaluate runs/8f runs/16f --data-root DATA/ssv2 --clips 2
          torchrun --nproc-per-node 8 -m minirsa evaluate runs/8f --data-root DATA/ssv2
        """,
    )
    evaluate.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="run folders, checkpoints or scores")
    _add_machine(evaluate)
    evaluate.add_argument("--split", metavar="NAME", help="train, validation or test (default: what papers report on)")
    evaluate.add_argument(
        "--clips", type=int, choices=(1, 2), help="sets of frames of each clip (default: the recipe's)"
    )
    evaluate.add_argument("--crops", type=_count, metavar="K", help="squares of each frame (default: the recipe's)")
    evaluate.add_argument(
        "--reverse", action="store_true", help="play the clips backwards: the opposite class is right"
    )
    evaluate.add_argument("--batch-size", type=_count, metavar="N", help="clips at once (default: the recipe's)")
    evaluate.add_argument("--workers", type=_natural, metavar="N", help="processes that read (default: the recipe's)")
    evaluate.add_argument("--json", action="store_true", help="print the reports as JSON, one a line")


def _add_predict(commands) -> None:
    predict = _command(
        commands,
        "predict",
        _predict,
        "name the motion in a video file",
        """
        Print the most probable classes of a video file, one a line, best first. Without options a small RSA net that
        ships with the package names one of twelve motions (chapter 7 of the book lists them).
        """,
        """
        examples:
          minirsa predict data_samples/moving_something_down.mp4 --reverse
          minirsa predict clip.webm --checkpoint runs/ssv2-8f
        """,
    )
    predict.add_argument("clip", metavar="CLIP", type=Path, help="a video file (.mp4, .webm, ...)")
    predict.add_argument(
        "--checkpoint",
        type=Path,
        metavar="PATH",
        help="weights: a run's folder or checkpoint of minirsa train, a model file, or a checkpoint for --model",
    )
    predict.add_argument(
        "--model",
        metavar="NAME",
        help="rsanet_r50: --checkpoint is a training checkpoint of the published RSA release (.pth.tar); "
        "any other model comes out of its own model file",
    )
    predict.add_argument("--labels", type=Path, help="with --model: a text file with a class name a line")
    predict.add_argument("--frames", type=_count, help="with --model: frames that it reads (default: 8)")
    predict.add_argument("--top", type=_count, default=5, metavar="K", help="how many classes to print (default: 5)")
    predict.add_argument("--reverse", action="store_true", help="play the clip backwards")


def _add_data(commands) -> None:
    samples = commands.add_parser("samples", help="draw the book's sample clips", description="Draw the sample clips.")
    samples.add_argument("folder", metavar="DIR", type=Path, help="where to write them")
    samples.set_defaults(run=_samples)
    prepare = _command(
        commands,
        "prepare",
        _prepare,
        "extract the frames of a data set",
        """
        Decode every clip of a data set once, into a folder of JPEG frames, so that training need not do it in every
        epoch. A run that was stopped goes on with the same command. Clips that are missing or do not decode are listed
        in missing.txt and undecodable.txt, never left out in silence, and the clips of each split are counted against
        the published numbers. Nothing is downloaded: data sets come from their owners.

        data sets: something-v1, something-v2, diving48, gym99, gym288, and clips: a folder of videos with labels.csv
        (clip,label,split). The layout that each comes in is described in minirsa.data.readers.

        Exit code 1 if a clip is missing or does not decode.
        """,
        """
        example:
          minirsa data prepare something-v2 DATA/ssv2 --output DATA/ssv2-frames --workers 16
        """,
    )
    prepare.add_argument("data", metavar="NAME", help="the data set's name")
    prepare.add_argument("root", metavar="ROOT", type=Path, help="the folder that it lies in")
    prepare.add_argument("--output", type=Path, metavar="DIR", help="where the frames go (default: ROOT)")
    prepare.add_argument("--split", action="append", metavar="NAME", help="only this split; may be given several times")
    prepare.add_argument("--workers", type=_natural, metavar="N", help="processes (default: one a core)")
    prepare.add_argument(
        "--resize",
        type=_size,
        default=256,
        metavar="SIZE",
        help="shorter side of the frames, or HEIGHTxWIDTH, or none (default: 256)",
    )
    prepare.add_argument("--quality", type=_count, default=90, metavar="Q", help="of the JPEG files (default: 90)")


def _add_bench(commands) -> None:
    bench = _command(
        commands,
        "bench",
        _bench,
        "how fast is a recipe on this machine?",
        """
        Time a recipe's training step, its net's forward pass and its data on this machine, and say what the whole run
        would take. One process is timed; the data set is measured too if it needs no --data-root or is given one.
        """,
        """
        examples:
          minirsa bench --recipe motion-ci
          minirsa bench --recipe ssv2-8f --data-root DATA/ssv2-frames --set precision=bf16 --set batch_size=32
        """,
    )
    _add_recipe(bench, required=True)
    _add_machine(bench)
    bench.add_argument("--steps", type=_count, default=10, metavar="N", help="steps that are timed (default: 10)")
    bench.add_argument("--warmup", type=_natural, default=3, metavar="N", help="steps before them (default: 3)")


# Training ------------------------------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> int:
    from minirsa.training.recipes import load_recipe

    name = options.recipe
    if name is None:  # a run that exists knows its recipe
        written = None if options.output is None else options.output / "recipe.toml"
        if written is None or not written.is_file():
            raise ValueError("train needs --recipe NAME, or --output DIR of a run to go on with; --help lists presets")
        name = str(written)
    recipe = load_recipe(name, options.overrides)
    if options.show:
        print(recipe.to_toml(), end="")
        return 0
    from minirsa.training.engine import train

    output = options.output or Path("runs") / Path(name).stem
    loud = os.environ.get("RANK", "0") == "0"
    if loud:
        print(f"{recipe.model} on {recipe.data} into {output}", flush=True)
    result = train(
        recipe,
        output,
        data_root=options.data_root,
        pretrained=options.pretrained,
        resume=options.resume,
        device=options.device,
        tensorboard=options.tensorboard,
        on_event=(lambda row: _say(row, recipe.epochs)) if loud else None,
    )
    if loud and result.finished and result.best is not None:
        print(f"done: best {_validation(result.best)} after epoch {result.best['epoch'] + 1}")
        print(f"test it: minirsa evaluate {output}")
    return result.exit_code


def _say(row: Mapping[str, object], epochs: int) -> None:
    """One line for a row of the log that a person wants to see."""
    kind = row["kind"]
    if kind == "epoch":
        timing = row["timing"]
        shares = timing["data_s"] / max(timing["data_s"] + timing["compute_s"], 1e-9)
        memory = "" if timing["peak_memory_mib"] is None else f"  {timing['peak_memory_mib']:.0f} MiB"
        print(
            f"epoch {row['epoch'] + 1}/{epochs}  lr {row['lr']:.5f}  loss {row['loss']:.4f}  "
            f"top-1 {100 * row['top1']:.1f} %  {timing['clips_per_s']:.1f} clips/s  data {100 * shares:.0f} %{memory}",
            flush=True,
        )
        if row["validation"] is not None:
            print(f"  validation: {_validation(row['validation'])}", flush=True)
    elif kind == "resumed":
        print(f"going on from {row['path']}: epoch {row['epoch'] + 1}, step {row['step']}", flush=True)
    elif kind == "interrupted":
        place = f"epoch {row['epoch'] + 1}, step {row['step']}"
        print(f"stopped and saved at {place}; the same command goes on from there", flush=True)


def _validation(scores: Mapping[str, float]) -> str:
    return (
        f"loss {scores['loss']:.4f}  top-1 {100 * scores['top1']:.1f} %  top-5 {100 * scores['top5']:.1f} %  "
        f"mean over classes {100 * scores['class_accuracy']:.1f} %  ({scores['clips']} clips x 1 view)"
    )


def _evaluate(options: argparse.Namespace) -> int:
    from minirsa.training import evaluation
    from minirsa.training.distributed import processes

    with processes(options.device) as group:
        found = [_scores(source, options, group.main) for source in options.sources]
    if not group.main:
        return 0
    if len(found) > 1:
        found.append(evaluation.ensemble(found))
    for scores in found:
        report = evaluation.report(scores)
        print(json.dumps(report.to_dict()) if options.json else report, flush=True)
    return 0


def _scores(source: Path, options: argparse.Namespace, main: bool):
    """Scores of one source, from its file or from a pass of its net, which the main process then saves."""
    from minirsa.training import evaluation
    from minirsa.training.engine import restore_model
    from minirsa.training.runlog import ProgressLine

    if source.suffix == ".safetensors":
        return evaluation.Scores.load(source)
    model, recipe, classes = restore_model(source)
    clips = evaluation.open_clips(
        recipe,
        options.data_root,
        split=options.split,
        clips=options.clips,
        crops=options.crops,
        backwards=options.reverse,
    )
    if tuple(clips.classes) != classes:
        raise ValueError(f"{source} was trained on other classes than those of {options.data_root or recipe.data}")
    line = ProgressLine()
    try:
        scores = evaluation.evaluate(
            model,
            recipe,
            clips,
            device=options.device,
            batch_size=options.batch_size,
            workers=options.workers,
            on_progress=(lambda done, total: line.update(f"{source}: {done} of {total} clips")) if main else None,
        )
    finally:
        line.close()
    if not main:
        return scores
    folder = source if source.is_dir() else source.parent
    target = folder / evaluation.scores_name(scores)
    scores.save(target)
    print(f"scores: {target}", file=sys.stderr)
    return scores


def _bench(options: argparse.Namespace) -> int:
    from minirsa.training.bench import measure
    from minirsa.training.recipes import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    speed = measure(
        recipe, data_root=options.data_root, device=options.device, steps=options.steps, warmup=options.warmup
    )
    size = f"{recipe.frames} x {recipe.size} x {recipe.size}"
    print(f"{recipe.model}: {speed.params:,} parameters, {speed.macs / 1e9:.3f} G multiply-adds a clip of {size}")
    print(f"inference  {speed.inference:10.2f} clips/s")
    memory = "" if speed.memory_mib is None else f", most memory {speed.memory_mib:.0f} MiB"
    step = f"{1000 * speed.step_s:.0f} ms a step of {recipe.batch_size} clips in {recipe.precision}"
    print(f"training   {speed.training:10.2f} clips/s   {step}{memory}")
    if speed.data is None:
        print("data       not measured: give --data-root DIR")
    else:
        print(f"data       {speed.data:10.2f} clips/s   {speed.data / speed.training:.1f} times what training takes")
    if speed.hours is not None:
        duration = datetime.timedelta(seconds=round(3600 * speed.hours))
        print(f"the whole run: {speed.clips:,} clips, {duration} (h:mm:ss) without validation")
    return 0


# Clips ---------------------------------------------------------------------------------------------------------------


def _predict(options: argparse.Namespace) -> int:
    from minirsa.models import checkpoint

    if options.model is None:
        if options.labels is not None or options.frames is not None:
            raise ValueError("--labels and --frames go with --model; a model file carries its own")
        path = options.checkpoint or checkpoint.MOTION_MODEL
        if path.is_dir() or path.suffix == ".pt":
            return _predict_by_run(path, options)
        model, card = checkpoint.load_model(path)
    else:
        model, card = _released(options)
    clip = card.read(options.clip)
    _print_best(checkpoint.predict(model, clip.flip(1) if options.reverse else clip), card.labels, options.top)
    return 0


def _predict_by_run(path: Path, options: argparse.Namespace) -> int:
    """With a net that `minirsa train` made."""
    from minirsa.models.checkpoint import predict
    from minirsa.training.engine import restore_model
    from minirsa.training.evaluation import read_file

    model, recipe, classes = restore_model(path)
    clip = read_file(recipe, options.clip)
    _print_best(predict(model, clip.flip(1) if options.reverse else clip), classes, options.top)
    return 0


def _print_best(probabilities, labels: Sequence[str], top: int) -> None:
    values, classes = probabilities.sort(descending=True)
    for probability, label in list(zip(values.tolist(), classes.tolist()))[:top]:
        print(f"{probability:6.4f}  {labels[label]}")


def _released(options: argparse.Namespace):
    """RSANet-R50 with a checkpoint of the published release, and a card made from the options."""
    from minirsa.models import checkpoint
    from minirsa.models.rsanet import from_release

    if options.model != "rsanet_r50":
        raise ValueError(f"--model takes rsanet_r50 (the published release); got {options.model!r}")
    if options.checkpoint is None or options.labels is None:
        raise ValueError("--model rsanet_r50 needs --checkpoint FILE and --labels FILE (a class name a line)")
    try:
        text = options.labels.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{options.labels} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    labels = [line.strip() for line in text.splitlines() if line.strip()]
    if not labels:
        raise ValueError(f"expected a class name a line in {options.labels}, got none")
    frames = options.frames or 8
    model = from_release(options.checkpoint, len(labels), frames).eval()
    card = checkpoint.Card("rsanet_r50", labels, frames, 240, 320, crop=224, normalize=True)
    return model, card


def _samples(options: argparse.Namespace) -> int:
    from minirsa.data.samples import write_samples

    for path in write_samples(options.folder):
        print(path)
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from minirsa.data.prepare import prepare
    from minirsa.training.runlog import ProgressLine

    line = ProgressLine()
    try:
        report = prepare(
            options.data,
            options.root,
            options.output,
            split=options.split,
            workers=options.workers,
            resize=options.resize,
            quality=options.quality,
            on_progress=lambda done, total, name: line.update(f"{_bar(done, total)} {done} of {total}  {name}"),
        )
    finally:
        line.close()
    print(report)
    return int(bool(report.missing or report.undecodable))


def _bar(done: int, total: int, width: int = 24) -> str:
    full = round(width * done / max(total, 1))
    return f"[{'#' * full}{'.' * (width - full)}]"
