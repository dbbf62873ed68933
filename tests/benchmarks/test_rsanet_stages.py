"""The benchmark by stage: the stages in turn are the net, ratios stay within a round, results are those of today."""

import copy
import json

import pytest
import torch
from torch import nn

from benchmarks import rsanet_stages as stages
from benchmarks.provenance import ROOT
from minirsa import complexity
from minirsa.models.rsanet import rsanet_small

RESULTS = ROOT / "benchmarks" / "results" / "rsanet_stages.json"


@pytest.fixture(scope="module")
def committed():
    return json.loads(RESULTS.read_text())


def small(frames=3, transform="rsa"):
    """A net of four stages, as the benchmark cuts it."""
    torch.manual_seed(0)
    shape = {"widths": (8, 8, 8, 16), "depths": (1, 2, 1, 1), "blocks": ((), (1,), (), (0,))}
    net = rsanet_small(num_frames=frames, transform=transform, **shape)
    for block in net.bottlenecks().values():
        nn.init.ones_(block.expand_norm.weight)
    return net


def test_the_stages_one_after_the_other_are_the_net():
    net, video = small().eval(), torch.randn(2, 3, 3, 16, 16)
    x = video
    with torch.no_grad():
        for stage in stages.stages_of(net).values():
            x = stage(x)
        torch.testing.assert_close(x, net(video))


def test_backward_by_stage_gives_the_nets_gradients(monkeypatch):
    net, video = small(), torch.randn(2, 3, 3, 16, 16)
    whole = copy.deepcopy(net).train()
    whole(video).sum().backward()
    monkeypatch.setattr(net, "zero_grad", lambda: None)
    seconds = stages.stage_seconds(net, video, "forward+backward")
    assert list(seconds) == list(stages.STAGES)
    assert min(seconds.values()) > 0
    for one, other in zip(net.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4 * other.grad.abs().max().item())


def test_forward_keeps_no_gradients_and_leaves_norms_alone():
    net, video = small(), torch.randn(1, 3, 3, 16, 16)
    before = copy.deepcopy(net.state_dict())
    assert sum(stages.stage_seconds(net, video, "forward").values()) > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    with pytest.raises(ValueError, match="'backward'"):
        stages.stage_seconds(net, video, "backward")


def test_counts_of_the_stages_are_those_of_the_net():
    counted = stages.counts(8, 224)
    for name, make in stages.NETS.items():
        with torch.device("meta"):
            whole = complexity.measure(make(8), torch.empty(1, 3, 8, 224, 224))
        assert sum(stage["macs"] for stage in counted[name].values()) == whole.macs
        assert sum(stage["params"] for stage in counted[name].values()) == whole.params
    assert whole == complexity.Complexity(22_034_302, 35_887_120_384)


def made_up(factor):
    """A round in which the nets take 1, 2 and 4 times as long, res5 of the last 8 times."""
    times = dict(zip(stages.NETS, (1, 2, 4)))
    one = {n: {w: dict.fromkeys(stages.STAGES, factor * t) for w in stages.PASSES} for n, t in times.items()}
    one["RSANet"]["forward"]["res5"] = 8 * factor
    return one


def test_ratios_are_taken_within_a_round():
    found = stages.summary([made_up(1.0), made_up(100.0), made_up(0.01)])
    assert found["3-D convolution"]["forward"]["all"]["to TSN's stage"] == {"median": 2, "lowest": 2, "highest": 2}
    row = found["RSANet"]["forward"]
    assert row["res5"]["to TSN's stage"]["median"] == 8
    assert row["res5"]["of TSN's whole"]["median"] == pytest.approx(8 / 6, abs=1e-4)
    assert row["all"]["of TSN's whole"]["median"] == pytest.approx(28 / 6, abs=1e-4)
    assert stages.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "lowest": 1.0, "highest": 3.0}


def test_the_command_writes_after_every_round_and_stops_in_time(monkeypatch, tmp_path, capsys):
    path = tmp_path / "stages.json"
    monkeypatch.setattr(stages, "NETS", {name: small for name in stages.NETS})
    threads = torch.get_num_threads()
    try:
        for rounds, minutes, done in (("2", "6", 2), ("3", "0", 1)):
            arguments = ["--rounds", rounds, "--minutes", minutes, "--frames", "3", "--size", "64"]
            monkeypatch.setattr("sys.argv", ["rsanet_stages.py", *arguments, "--output", str(path)])
            stages.main()
            record = json.loads(path.read_text())
            assert (record["frames"], record["size"], len(record["rounds"])) == (3, 64, done)
            assert record["summary"] == stages.summary(record["rounds"])
    finally:
        torch.set_num_threads(threads)
    assert capsys.readouterr().out.count("\n") == 3


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--frames", "0"], ["--size", "-1"]])
def test_nonsense_on_the_command_line_is_refused(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["rsanet_stages.py", *arguments])
    with pytest.raises(SystemExit):
        stages.main()
    assert "at least one" in capsys.readouterr().err


def test_committed_results_are_of_their_rounds_and_of_this_code(committed):
    assert committed["provenance"]["command"].startswith("python -m benchmarks.rsanet_stages")
    assert "1 threads" in committed["provenance"]["hardware"]
    assert len(committed["rounds"]) >= 5
    assert committed["summary"] == stages.summary(committed["rounds"])
    assert committed["counts"] == stages.counts(committed["frames"], committed["size"])
