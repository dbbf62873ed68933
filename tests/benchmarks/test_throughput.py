"""The throughput benchmark: the networks are those of the tables, and ratios are taken within a round."""

import json

import pytest

from benchmarks import throughput
from benchmarks.provenance import ROOT
from minirsa import published

RESULTS = ROOT / "benchmarks" / "results" / "throughput.json"

COUNTED = {  # parameters, multiply-adds in G; 25,557,032 and 4.09 are torchvision's ResNet-50
    "ResNet-50": (25_557_032, 4.09),
    "ResNet-152": (60_192_808, 11.51),
    "ViT-L/32": (None, None),
    "DeiT-Ti": (5_717_416, 1.25),
    "DeiT-S": (22_050_664, 4.60),
    "DeiT-B": (86_567_656, 17.56),
    "DeiT-B 384": (86_859_496, 55.48),
    "DeiT-Ti distilled": (5_910_800, None),
    "DeiT-S distilled": (22_436_432, None),
    "DeiT-B distilled": (87_338_192, 17.66),
}


@pytest.mark.parametrize("name", COUNTED)
def test_networks_have_the_published_sizes(name):
    params, gmacs = COUNTED[name]
    cost = throughput.count(name)
    if params is not None:
        assert cost.params == params
    if gmacs is not None:
        assert cost.macs / 1e9 == pytest.approx(gmacs, rel=4e-3)


def test_every_network_of_table_7_that_is_built_here_is_measured():
    missing = [row.model for row in published.DEIT_TRANSFER if row.model not in throughput.NETWORKS]
    assert missing == ["Grafit ResNet-50", "Grafit RegNetY-8GF", "EfficientNet-B7"]
    assert set(throughput.SAME.values()) <= set(throughput.NETWORKS)
    for name, other in throughput.SAME.items():
        assert throughput.count(name) == throughput.count(other)


def test_a_round_is_compared_with_itself_only():
    rounds = [{"ResNet-50": 1.0, "x": 4.0}, {"ResNet-50": 10.0, "x": 20.0}, {"ResNet-50": 2.0, "x": 10.0}]
    summary = throughput.relative(rounds)
    assert summary["ResNet-50"] == {"speed": 1.0, "lowest": 1.0, "highest": 1.0}
    assert summary["x"] == {"speed": 0.25, "lowest": 0.2, "highest": 0.5}


def test_committed_results_are_of_these_networks():
    stored = json.loads(RESULTS.read_text())
    assert [row["network"] for row in stored["rows"]] == list(throughput.NETWORKS)
    assert stored["rounds"] >= 5
    for row in stored["rows"]:
        cost = throughput.count(row["network"])
        assert (row["params"], row["macs"]) == (cost.params, cost.macs)
        assert row["lowest"] <= row["speed"] <= row["highest"]
