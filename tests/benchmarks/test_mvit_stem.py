"""The benchmark of MViT's stems: which nets let frames meet in a linear map, and its committed results."""

import dataclasses
import json

import pytest
import torch

from benchmarks import mvit_stem
from benchmarks.provenance import ROOT
from minirsa.training.video import CONFIG, OrderTest, motion_clips, small_net

RESULTS = ROOT / "benchmarks" / "results" / "mvit_stem.json"


def test_the_published_arrangement_is_the_small_net_of_the_study():
    ours, theirs = mvit_stem.build(3, 3), small_net("MViT conv").eval()
    theirs.load_state_dict(ours.state_dict())
    clips, _ = motion_clips(2, CONFIG, seed=0)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(clips), theirs(clips))


def felt(function, x):
    """Frames of x (1, C, T, H, W) or places in time that output step 0, 1, ... depends on: [{t, ...}, ...]."""
    x = x.clone().requires_grad_()
    y = function(x)  # (1, D, t, h, w)
    found = []
    for t in range(y.shape[2]):
        (gradient,) = torch.autograd.grad(y[:, :, t].square().sum(), x, retain_graph=True)
        found.append({i for i in range(x.shape[2]) if gradient[:, :, i].abs().sum() > 0})
    return found


@pytest.mark.parametrize(("stem", "frames"), [
    (3, [{0, 1}, {1, 2, 3}, {3, 4, 5}, {5, 6, 7}]),
    (2, [{0, 1}, {2, 3}, {4, 5}, {6, 7}]),
    (1, [{t} for t in range(8)]),
])  # fmt: skip
def test_cubes_span_the_frames_they_should(stem, frames):
    clips, _ = motion_clips(1, CONFIG, seed=0)
    assert felt(mvit_stem.build(stem, 3).stem, clips) == frames


def test_pools_within_frames_leave_no_linear_map_across_time():
    for pool, frames in ((3, [{0, 1}, {0, 1, 2}, {1, 2, 3}, {2, 3}]), (1, [{0}, {1}, {2}, {3}])):
        net = mvit_stem.build(3, pool)
        pools = [p for block in net.blocks for p in (block.attention.pool_query, block.attention.pool_key)]
        for each in (p for p in pools if p is not None):
            width = each.pool.in_channels
            assert felt(each.pool, torch.randn(1, width, 4, 8, 8)) == frames
    strides = [[block.attention.pool_key.pool.stride for block in mvit_stem.build(3, pool).blocks] for pool in (3, 1)]
    assert strides[0] == strides[1]


def test_a_finished_run_is_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(mvit_stem, "TEST_CLIPS", 12)
    path = tmp_path / "stem.json"
    arguments = ["mvit_stem.py", "--steps", "1", "--seeds", "0", "--output", str(path), "--only"]
    threads = torch.get_num_threads()
    try:
        for names in (["2 frames, 1x3x3"], ["2 frames, 1x3x3", "3 frames, 3x3x3"]):
            monkeypatch.setattr("sys.argv", [*arguments, *names])
            mvit_stem.main()
    finally:
        torch.set_num_threads(threads)
    runs = json.loads(path.read_text())["runs"]
    assert [run["net"] for run in runs] == ["3 frames, 3x3x3", "2 frames, 1x3x3"]
    assert capsys.readouterr().out.count("top1") == 2  # the first run was not repeated


def test_committed_results_are_whole():
    record = json.loads(RESULTS.read_text())
    assert {row["net"] for row in record["runs"]} == set(mvit_stem.NETS)
    assert len(record["runs"]) == len(mvit_stem.NETS) * len({row["seed"] for row in record["runs"]})
    scores = {field.name for field in dataclasses.fields(OrderTest)}
    assert all(scores <= set(row) and all(0 <= row[key] <= 1 for key in scores) for row in record["runs"])
    assert {row["net"]: (row["params"], row["macs"]) for row in record["costs"]} == {
        row["net"]: (row["params"], row["macs"]) for row in mvit_stem.costs()
    }
    assert record["recipe"]["lr"] == mvit_stem.LR
    assert record["provenance"]["command"].startswith("python -m benchmarks.mvit_stem")
