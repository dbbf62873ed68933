"""The comparison with peers: pairs are equal before they are timed, and ratios are taken within a round."""

import json

import pytest
import torch
from torch import nn

from benchmarks import video_peers as peers
from benchmarks.provenance import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "video_peers.json"
TINY = {
    "TimeSformer divided": peers.Sizes(4, 32, 8, 24, 2, 4, 40, 7),
    "TimeSformer joint": peers.Sizes(4, 32, 8, 24, 2, 4, 40, 7),
    "ViViT model 1": peers.Sizes(4, 32, 8, 24, 2, 4, 40, 7),
    "ViT-B/16": peers.Sizes(0, 32, 8, 24, 2, 4, 40, 7),
    "DeiT-B distilled": peers.Sizes(0, 32, 8, 24, 2, 4, 40, 7),
}
ATTENTION = {"TimeSformer divided": "eager", "TimeSformer joint": "eager"}  # the others: "sdpa"


@pytest.fixture
def tiny(monkeypatch):
    """The benchmark with pairs of a few channels; torchvision's MViT has one size only and is left out."""
    pairs = {name: pair for name, pair in peers.PAIRS.items() if name in TINY}
    small = {name: peers.Pair(pair.build, TINY[name], pair.published, pair.library) for name, pair in pairs.items()}
    monkeypatch.setattr(peers, "PAIRS", small)


@pytest.mark.parametrize("name", TINY)
def test_a_pair_is_equal_and_compared(tiny, name):
    pytest.importorskip(peers.PAIRS[name].library, reason="the parity peers are an extra: minirsa[parity]")
    row = peers.compare(name, peers.PAIRS[name], 2)
    assert row["clip"] == list(TINY[name].clip)
    assert row["peer attention"] == ATTENTION.get(name, "sdpa")
    assert max(row["largest difference"].values()) <= 1e-4
    assert all(0 < row[which]["lowest"] <= row[which]["ratio"] <= row[which]["highest"] for which in peers.PASSES)
    assert min(row["kept bytes"].values()) > 0
    if row["peer attention"] == "eager":  # it keeps the weights
        assert row["kept bytes"]["ours"] < row["kept bytes"]["peer"]


def test_ratios_are_the_peers_time_over_ours_within_a_round():
    rounds = [{"ours": 1.0, "peer": 1.5}, {"ours": 10.0, "peer": 10.0}, {"ours": 2.0, "peer": 4.0}]
    assert peers.summary(rounds) == {"ratio": 1.5, "lowest": 1.0, "highest": 2.0}
    with pytest.raises(ValueError, match="at least one round"):
        peers.summary([])


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x):
        return self.factor * x


def test_pairs_that_differ_are_not_timed():
    clip = torch.linspace(1, 2, 6, requires_grad=True)
    assert peers.check_equal(Scaled(2.0), Scaled(2.0), clip) == {"logits": 0, "gradient": 0}
    with pytest.raises(AssertionError, match="expected differences up to"):
        peers.check_equal(Scaled(2.0), Scaled(2.004), clip)
    with pytest.raises(AssertionError, match="change by"):
        peers.check_equal(Scaled(0.0001), Scaled(0.0001), clip)
    pair = peers.Pair(lambda sizes, folder: (Scaled(1.0), nn.Linear(6, 6)), peers.Sizes(0, 32), "", "torch")
    with pytest.raises(RuntimeError, match="as many parameters"):
        peers.compare("two", pair, 1)


def test_passes_leave_no_gradients_behind():
    model, clip = Scaled(2.0), torch.ones(3, requires_grad=True)
    for which in peers.PASSES:
        assert peers.run(model, clip, which) >= 0
        assert clip.grad is None
        assert model.factor.grad is None


def test_mvit_has_one_size(tmp_path):
    pytest.importorskip("torchvision", reason="the parity peer is an extra: minirsa[parity]")
    with pytest.raises(ValueError, match="16 frames of 224"):
        peers.mvit_pair(peers.Sizes(8, 112), tmp_path)


@pytest.mark.parametrize("arguments", [["--only", "ResNet"], ["--rounds", "0"]])
def test_nonsense_on_the_command_line_is_refused(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["video_peers.py", *arguments])
    with pytest.raises(SystemExit):
        peers.main()
    assert "expected" in capsys.readouterr().err


def test_some_pairs_are_measured_and_the_others_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "compare", lambda name, pair, rounds: {"model": name, "rounds": rounds})
    path, threads = tmp_path / "peers.json", torch.get_num_threads()
    try:
        for arguments in (["--rounds", "2"], ["--rounds", "5", "--only", "ViT-B/16"]):
            monkeypatch.setattr("sys.argv", ["video_peers.py", *arguments, "--output", str(path)])
            peers.main()
    finally:
        torch.set_num_threads(threads)
    rows = json.loads(path.read_text())["rows"]
    assert [row["model"] for row in rows] == list(peers.PAIRS)
    assert {row["model"] for row in rows if row["rounds"] == 5} == {"ViT-B/16"}


def test_committed_results_are_of_these_pairs():
    stored = json.loads(RESULTS.read_text())
    assert stored["provenance"]["command"].startswith("python -m benchmarks.video_peers")
    assert "1 threads" in stored["provenance"]["hardware"]
    assert [row["model"] for row in stored["rows"]] == list(peers.PAIRS)
    for row in stored["rows"]:
        pair = peers.PAIRS[row["model"]]
        assert row["clip"] == list(pair.sizes.clip)
        assert row["published"] == pair.published
        assert row["rounds"] >= 5
        assert row["largest difference"]["logits"] <= peers.TOLERANCE
        assert row["largest difference"]["gradient"] <= peers.GRADIENT_TOLERANCE
        assert row["params"] > 30e6
        for which in peers.PASSES:
            assert row[which]["lowest"] <= row[which]["ratio"] <= row[which]["highest"]
