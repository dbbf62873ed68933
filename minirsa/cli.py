"""The command line: `minirsa predict CLIP`, `minirsa data samples DIR`; also `python -m minirsa`.

Errors are one line on stderr that says what to do; exit code 1 for a file that cannot be used, 2 for a wrong call.
Book: chapters 7 and 13.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
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
    except (ValueError, OSError) as error:
        print(f"minirsa: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="minirsa", description="Video transforms from attention to RSA.")
    parser.add_argument("--version", action="version", version=f"minirsa {minirsa.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    predict = commands.add_parser(
        "predict",
        help="name the motion in a video file",
        description="Print the most probable classes of a video file, one a line, best first. Without options a small "
        "RSA net that ships with the package names one of twelve motions (chapter 7 of the book lists them).",
        epilog="example: minirsa predict data_samples/moving_something_down.mp4 --reverse",
    )
    predict.add_argument("clip", metavar="CLIP", type=Path, help="a video file (.mp4, .webm, ...)")
    predict.add_argument(
        "--checkpoint", type=Path, help="weights: a model file of minirsa, or a checkpoint for --model"
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
    predict.set_defaults(run=_predict)

    data = commands.add_parser("data", help="make data").add_subparsers(title="commands", metavar="COMMAND")
    data.required = True
    samples = data.add_parser("samples", help="draw the book's sample clips", description="Draw the sample clips.")
    samples.add_argument("folder", metavar="DIR", type=Path, help="where to write them")
    samples.set_defaults(run=_samples)
    return parser


def _predict(options: argparse.Namespace) -> int:
    from minirsa.models import checkpoint

    if options.model is None:
        if options.labels is not None or options.frames is not None:
            raise ValueError("--labels and --frames go with --model; a model file carries its own")
        model, card = checkpoint.load_model(options.checkpoint or checkpoint.MOTION_MODEL)
    else:
        model, card = _released(options)
    clip = card.read(options.clip)
    if options.reverse:
        clip = clip.flip(1)
    probabilities, classes = checkpoint.predict(model, clip).sort(descending=True)
    for probability, label in list(zip(probabilities.tolist(), classes.tolist()))[: options.top]:
        print(f"{probability:6.4f}  {card.labels[label]}")
    return 0


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
