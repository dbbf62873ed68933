"""The study of tubelets moves the frames it says it moves, and its results are whole."""

import json

import pytest
import torch
from torch import nn

from benchmarks import tubelet_order
from benchmarks.provenance import ROOT
from minirsa.training.video import small_net

RESULTS = ROOT / "benchmarks" / "results" / "tubelet_order.json"


def frames(change):
    clip = torch.arange(8.0).reshape(1, 1, 8, 1, 1)
    return [int(frame) for frame in tubelet_order.CHANGES[change](clip).flatten()]


def test_frames_go_where_the_names_say():
    assert frames("as they are") == [0, 1, 2, 3, 4, 5, 6, 7]
    assert frames("frames backwards inside tubelets") == [1, 0, 3, 2, 5, 4, 7, 6]
    assert frames("tubelets backwards") == [6, 7, 4, 5, 2, 3, 0, 1]
    assert frames("both: the clip backwards") == [7, 6, 5, 4, 3, 2, 1, 0]
    mixed = frames("tubelets shuffled")
    assert sorted(mixed) == list(range(8))
    assert all(b == a + 1 and a % 2 == 0 for a, b in zip(mixed[::2], mixed[1::2])), "whole tubelets move"


def test_clips_are_shuffled_each_in_an_order_of_its_own():
    clips = torch.arange(8.0).reshape(1, 1, 8, 1, 1).repeat(12, 1, 1, 1, 1)
    orders = {tuple(clip.flatten().tolist()) for clip in tubelet_order.shuffle_tubelets(clips, 0)}
    assert len(orders) > 3


def test_antisymmetric_share_of_known_filters():
    half = torch.randn(4, 3, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    for other, share in ((half, 0.0), (-half, 1.0), (torch.zeros_like(half), 0.5)):
        assert tubelet_order.antisymmetric_share(torch.cat([half, other], 2)) == pytest.approx(share)


def test_symmetric_filters_cannot_tell_the_two_frames_apart():
    torch.manual_seed(0)
    net = small_net("ViViT 4").eval()
    nn.init.normal_(net.head.weight)
    clips = torch.randn(2, 3, 8, 32, 32)
    turned = tubelet_order.CHANGES["frames backwards inside tubelets"](clips)
    blind = tubelet_order.with_symmetric_filters(net)
    with torch.no_grad():
        assert (net(clips) - net(turned)).abs().max() > 1e-3
        torch.testing.assert_close(blind(clips), blind(turned), atol=1e-5, rtol=1e-4)


def test_runs_are_kept_and_lengths_not_mixed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tubelet_order, "TEST_CLIPS", 12)
    output = tmp_path / "results.json"
    threads = torch.get_num_threads()
    for only in (["ViViT 4"], ["ViViT 1", "ViViT 4"]):
        arguments = ["tubelet_order", "--steps", "2", "--seeds", "0", "--only", *only, "--output", str(output)]
        monkeypatch.setattr("sys.argv", arguments)
        tubelet_order.main()
    record = json.loads(output.read_text())
    assert [row["net"] for row in record["runs"]] == ["ViViT 1", "ViViT 4"]
    assert capsys.readouterr().out.count("'net': 'ViViT 4'") == 1
    monkeypatch.setattr("sys.argv", ["tubelet_order", "--steps", "3", "--output", str(output)])
    with pytest.raises(SystemExit):
        tubelet_order.main()
    torch.set_num_threads(threads)


def test_committed_results_are_whole():
    record = json.loads(RESULTS.read_text())
    assert record["steps"] == 1200
    runs = {(row["net"], row["seed"]) for row in record["runs"]}
    seeds = {seed for _, seed in runs}
    assert runs == {(name, seed) for name in tubelet_order.NETS for seed in seeds}
    assert len(seeds) >= 2
    for row in record["runs"]:
        assert list(row["changes"]) == list(tubelet_order.CHANGES)
