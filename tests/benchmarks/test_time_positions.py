"""Positions in time that start away from zero: nothing else differs, and the record says what was run."""

import json
import sys

import pytest
import torch

from benchmarks import time_positions
from benchmarks.time_positions import drawn_net, relative_length
from minirsa.training.video import CONFIG, motion_clips, small_net


def test_only_the_positions_in_time_differ_from_the_small_net():
    torch.manual_seed(3)
    plain = small_net("TimeSformer divided").state_dict()
    drawn = drawn_net("divided", 0.5, 3).state_dict()
    assert {name for name in plain if not torch.equal(plain[name], drawn[name])} == {"time_positions"}
    assert drawn["time_positions"].std().item() == pytest.approx(0.5, rel=0.1)
    zero = drawn_net("divided", 0.0, 3).state_dict()
    assert all(torch.equal(plain[name], zero[name]) for name in plain)


def test_the_relative_length_ignores_what_all_frames_share():
    net = drawn_net("joint", 0.5, 0)
    clips, _ = motion_clips(12, CONFIG, seed=0)
    before = relative_length(net, clips)
    tokens, _ = net.embed(clips)
    differ = net.time_positions - net.time_positions.mean(0)
    assert before == pytest.approx((differ.norm(dim=1).mean() / tokens.norm(dim=-1).mean()).item())
    with torch.no_grad():
        net.time_positions.copy_(torch.ones(8, 64))
    assert relative_length(net, clips) == 0


@pytest.mark.parametrize(("scheme", "size"), [("space", 0.5), ("divided", -1), ("temporal", 0.1)])
def test_what_has_no_positions_in_time_is_refused(scheme, size):
    with pytest.raises(ValueError, match="positions in time"):
        drawn_net(scheme, size, 0)


def test_a_run_is_recorded_and_not_repeated(tmp_path, monkeypatch, capsys):
    output = tmp_path / "time_positions.json"
    options = ["--steps", "2", "--seeds", "0", "--schemes", "divided", "--sizes", "0.5", "--output", str(output)]
    monkeypatch.setattr(time_positions, "TEST_CLIPS", 48)
    monkeypatch.setattr(sys, "argv", ["time_positions", *options])
    time_positions.main()
    record = json.loads(output.read_text())
    assert {"steps", "runs", "recipe", "provenance"} == set(record)
    (run,) = record["runs"]
    assert (run["scheme"], run["size"], run["seed"], len(run["losses"])) == ("divided", 0.5, 0, 1)
    assert {"top1", "pair", "direction", "unmoved", "length before", "length after"} <= set(run)
    capsys.readouterr()
    time_positions.main()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys, "argv", ["time_positions", *options[2:], "--steps", "3"])
    with pytest.raises(SystemExit):
        time_positions.main()
