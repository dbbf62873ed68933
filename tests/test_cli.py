"""The command line as a person meets it: its answers, its errors, its exit codes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minirsa.cli import main
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
