"""The command line as a person meets it: its answers, its errors, its exit codes."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from minirsa.cli import _parser, main
from minirsa.data.video import clip_length
from minirsa.models.rsanet import release_key_map, rsanet_r50

ROOT = Path(__file__).parent.parent
CLIP = str(ROOT / "data_samples" / "moving_something_down.mp4")
RELEASE = ["--model", "rsanet_r50", "--checkpoint", str(ROOT / "README.md")]


def lines(capsys):
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def test_predict_names_the_motion_best_first(capsys):
    assert main(["predict", CLIP]) == 0
    rows = [re.fullmatch(r"(\d\.\d{4})  (.+)", line).groups() for line in lines(capsys)]
    assert len(rows) == 5
    assert rows[0][1] == "moving something down"
    probabilities = [float(p) for p, _ in rows]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1.0005


def test_predict_backwards_names_the_other_of_the_pair(capsys):
    assert main(["predict", CLIP, "--reverse", "--top", "1"]) == 0
    assert [line.split("  ")[1] for line in lines(capsys)] == ["moving something up"]


def test_all_classes_add_up_to_one(capsys):
    assert main(["predict", CLIP, "--top", "99"]) == 0
    probabilities = [float(line.split()[0]) for line in lines(capsys)]
    assert len(probabilities) == 12
    assert sum(probabilities) == pytest.approx(1, abs=1e-3)


def test_python_m_minirsa_is_the_same_command():
    command = [sys.executable, "-m", "minirsa", "predict", CLIP, "--top", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("moving something down\n")


def test_predict_reads_a_checkpoint_of_the_release(tmp_path, capsys):
    torch.manual_seed(0)
    model = rsanet_r50(3, 2)
    tensors = {}
    for ours, theirs in release_key_map(model).items():
        tensor = model.state_dict()[ours]
        name = theirs.rsplit(".", 2)[-2]
        if name in ("H1", "H2", "G") and "conv2" in theirs:
            tensor = tensor.reshape(-1, 1, *tensor.shape[-3:])
        tensors[theirs] = tensor[None] if theirs.endswith((".P1", ".I")) else tensor
    tensors["module.new_fc.weight"] = tensors["module.new_fc.weight"][..., None]
    torch.save({"state_dict": tensors}, tmp_path / "run.pth.tar")
    (tmp_path / "labels.txt").write_text("one\ntwo\nthree\n")
    options = ["--model", "rsanet_r50", "--checkpoint", str(tmp_path / "run.pth.tar"), "--frames", "2"]
    assert main(["predict", CLIP, *options, "--labels", str(tmp_path / "labels.txt")]) == 0
    assert sorted(line.split("  ")[1] for line in lines(capsys)) == ["one", "three", "two"]


@pytest.mark.parametrize(("arguments", "words"), [
    (["predict", "no_such.mp4"], "no_such.mp4"),
    (["predict", str(ROOT / "README.md")], "README.md"),
    (["predict", str(ROOT)], "directory"),
    (["predict", CLIP, "--checkpoint", "gone.safetensors"], "gone.safetensors"),
    (["predict", CLIP, "--checkpoint", str(ROOT / "README.md")], "not a model file"),
    (["predict", CLIP, "--frames", "4"], "--model"),
    (["predict", CLIP, "--labels", "labels.txt"], "--model"),
    (["predict", CLIP, *RELEASE, "--labels", CLIP], "UTF-8"),
    (["predict", CLIP, *RELEASE, "--labels", os.devnull], "class name a line"),
    (["predict", CLIP, *RELEASE, "--labels", str(ROOT / "README.md")], "README.md is not a readable checkpoint"),
    (["predict", CLIP, "--model", "vit"], "rsanet_r50"),
    (["predict", CLIP, "--model", "rsanet_r50"], "--checkpoint"),
])  # fmt: skip
def test_errors_are_one_line_that_says_what_is_wrong(arguments, words, capfd):
    assert main(arguments) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    message = [line for line in captured.err.splitlines() if line.startswith("minirsa: ")]
    assert len(message) == 1
    assert words in message[0]


@pytest.mark.parametrize("arguments", [
    ["predict"], ["dance"], ["data"], ["predict", CLIP, "--top", "0"], ["predict", CLIP, "--frames", "x"],
])  # fmt: skip
def test_a_wrong_call_exits_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: minirsa" in capsys.readouterr().err


def test_no_command_shows_the_help(capsys):
    assert main([]) == 2
    assert "predict" in capsys.readouterr().out


def test_samples_are_written_where_asked(tmp_path, capsys):
    assert main(["data", "samples", str(tmp_path / "clips")]) == 0
    assert len(lines(capsys)) == 14
    assert (tmp_path / "clips" / "labels.csv").read_text().startswith("clip,label\n")


def test_a_closed_pipe_is_no_error():
    command = [sys.executable, "-u", "-m", "minirsa", "predict", CLIP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.close()  # the reader is gone before the first line comes
        assert process.stderr.read() == b""
    assert process.returncode == 0


# Training and evaluation ---------------------------------------------------------------------------------------------

TINY = [
    "model_options.widths=[4, 8, 8]", "model_options.transform=conv3d", "size=12", "frames=4", "epoch_clips=32",
    "validation_clips=24", "epochs=2", "batch_size=8", "base_batch=8", "save_every=2", "validate_every=1", "lr=0.05",
]  # fmt: skip
SMALL = ["--recipe", "motion-ci", *(word for value in TINY for word in ("--set", value)), "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main(["train", *SMALL, "--output", str(folder)]) == 0
    return folder


def test_train_says_what_it_does_and_a_second_call_has_nothing_left_to_do(tmp_path, capsys):
    folder = str(tmp_path / "run")
    assert main(["train", *SMALL, "--output", folder]) == 0
    said = lines(capsys)
    assert said[0] == f"rsanet_small on motion into {folder}"
    assert [line.split()[1] for line in said if line.startswith("epoch ")] == ["1/2", "2/2"]
    assert sum("validation: loss" in line and "24 clips x 1 view" in line for line in said) == 2
    assert said[-1] == f"test it: minirsa evaluate {folder}"
    assert main(["train", "--output", folder, "--device", "cpu"]) == 0  # its recipe.toml says what to train
    again = lines(capsys)
    assert "going on from" in again[1]
    assert not any(line.startswith("epoch ") for line in again)


def test_evaluate_prints_the_protocol_and_saves_scores_that_need_no_second_pass(trained, capsys):
    assert main(["evaluate", str(trained), "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    scores = trained / "scores-motion-validation-4x1x1.safetensors"
    assert captured.err == f"scores: {scores}\n"
    said = captured.out.splitlines()
    assert said[0] == "motion validation: 24 clips; 4 frames x 1 clip x 1 crop"
    assert len(said) == 3 + 6  # six pairs of opposite motions
    (trained / "best.pt").rename(trained / "away.pt")
    try:
        assert main(["evaluate", str(scores)]) == 0
    finally:
        (trained / "away.pt").rename(trained / "best.pt")
    assert lines(capsys) == said


def test_two_sources_are_an_ensemble_and_json_is_read_back(trained, capsys):
    assert main(["evaluate", str(trained / "best.pt"), str(trained / "last.pt"), "--json", "--device", "cpu"]) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    one = "4 frames x 1 clip x 1 crop"
    assert [report["protocol"] for report in reports] == [one, one, f"{one} + {one}"]
    assert all(report["clips"] == 24 and 0 <= report["top1"] <= report["top5"] <= 1 for report in reports)


def test_evaluate_backwards_wants_the_opposite(trained, capsys):
    assert main(["evaluate", str(trained), "--reverse", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("motion validation, played backwards: 24 clips; ")
    assert (trained / "scores-motion-validation-4x1x1-backwards.safetensors").is_file()


def test_predict_takes_a_run(trained, capsys):
    assert main(["predict", CLIP, "--checkpoint", str(trained), "--top", "12"]) == 0
    rows = lines(capsys)
    assert len(rows) == 12
    assert sum(float(row.split()[0]) for row in rows) == pytest.approx(1, abs=1e-3)
    assert main(["predict", CLIP, "--checkpoint", str(trained / "best.pt"), "--reverse", "--top", "12"]) == 0
    assert lines(capsys) != rows


def test_show_prints_a_recipe_that_train_reads(tmp_path, capsys):
    assert main(["train", "--recipe", "ssv2-8f", "--set", "frames=4", "--show"]) == 0
    (tmp_path / "my.toml").write_text(capsys.readouterr().out)
    assert main(["train", "--recipe", str(tmp_path / "my.toml"), "--show"]) == 0
    assert "frames = 4\n" in capsys.readouterr().out


def test_a_run_that_is_stopped_by_a_signal_saves_and_leaves_with_its_code(tmp_path):
    """The whole command in a process of its own, stopped as soon as its log has rows, and gone on with."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "minirsa", "train", *SMALL, "--set", "epochs=200", "--set", "log_every=1"]
    with subprocess.Popen([*command, "--output", str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        log = folder / "log.jsonl"
        while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 3):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 130
    assert re.search(r"stopped and saved at epoch \d+, step \d+; the same command goes on from there", said)
    assert (folder / "last.pt").is_file()


@pytest.mark.parametrize(("arguments", "words"), [
    (["train"], "train needs --recipe NAME"),
    (["train", "--recipe", "motion-cu"], "did you mean 'motion-ci'"),
    (["train", "--recipe", "motion-ci", "--set", "lrr=1"], "did you mean 'lr'"),
    (["train", "--recipe", "motion-ci", "--set", "lr=fast"], "lr: expected a number"),
    (["train", "--recipe", "ssv2-8f"], "give --data-root FOLDER"),
    (["train", "--recipe", "ssv2-8f", "--data-root", "gone"], "gone"),
    (["train", *SMALL, "--resume", "must", "--output", "gone"], "no checkpoint to go on from in gone"),
    (["evaluate", "gone"], "gone"),
    (["evaluate", str(ROOT / "README.md")], "README.md"),
    (["evaluate", "gone.safetensors"], "no scores at gone.safetensors"),
    (["bench", "--recipe", "gone.toml"], "no recipe at gone.toml"),
    (["data", "prepare", "something-v3", "gone"], "did you mean 'something-v2'"),
    (["data", "prepare", "clips", "gone"], "gone"),
])  # fmt: skip
def test_errors_of_training_are_one_line_that_says_what_is_wrong(arguments, words, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    captured = capfd.readouterr()
    message = [line for line in captured.err.splitlines() if line.startswith("minirsa: ")]
    assert len(message) == 1
    assert words in message[0]


def test_prepare_extracts_frames_lists_what_is_missing_and_says_so_by_its_exit_code(tmp_path, capsys):
    root = tmp_path / "clips"
    root.mkdir()
    shutil.copy(CLIP, root / "whole.mp4")
    (root / "broken.mp4").write_bytes(b"no video")
    rows = [f"{name}.mp4,moving {way},train" for name, way in (("whole", "down"), ("broken", "up"), ("gone", "up"))]
    (root / "labels.csv").write_text("\n".join(["clip,label,split", *rows]) + "\n")
    command = ["data", "prepare", "clips", str(root), "--output", str(tmp_path / "out"), "--workers", "0"]
    assert main([*command, "--resize", "24"]) == 1
    said = lines(capsys)
    assert said[0] == "1 clips prepared, 0 were ready"
    assert "1 missing, listed in missing.txt: gone.mp4" in said
    assert "1 undecodable, listed in undecodable.txt: broken.mp4" in said
    frames = sorted((tmp_path / "out" / "frames" / "whole.mp4").iterdir())
    assert frames[0].name == "00001.jpg"
    assert len(frames) == clip_length(CLIP)
    for name in ("broken", "gone"):
        shutil.copy(CLIP, root / f"{name}.mp4")
    assert main([*command, "--resize", "24"]) == 0
    assert lines(capsys)[0] == "2 clips prepared, 1 were ready"


def test_bench_tells_what_the_run_would_take(capsys):
    assert main(["bench", *SMALL, "--steps", "2", "--warmup", "1"]) == 0
    said = lines(capsys)
    assert said[0].startswith("rsanet_small: ")
    assert said[0].endswith("a clip of 4 x 12 x 12")
    assert [line.split()[0] for line in said[1:4]] == ["inference", "training", "data"]
    assert said[4].startswith("the whole run: 64 clips, ")
    assert main(["bench", *SMALL, "--set", "data=clips", "--set", "epoch_clips=0", "--set", "validation_clips=0"]) == 0
    assert "not measured: give --data-root DIR" in lines(capsys)[3]


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "bench", "data prepare"])
def test_help_ends_with_an_example_that_can_be_parsed(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    examples = [line.strip() for line in capsys.readouterr().out.split("example")[-1].splitlines()[1:] if line.strip()]
    assert examples
    for line in examples:
        words = shlex.split(line.split("   (")[0].split(" > ")[0])
        _parser().parse_args(words[words.index("minirsa") + 1 :])
