"""The study of frame order keeps its runs, resumes, refuses mixed lengths, and counts what it says it counts."""

import json
import sys

import pytest
import torch
from torch import nn

from benchmarks import frame_order


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["frame_order", *map(str, arguments)])
    threads = torch.get_num_threads()
    try:
        frame_order.main()
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(frame_order, "TEST_CLIPS", 12)
    names = ("ViViT 4", "TimeSformer joint")
    monkeypatch.setattr(frame_order, "NETS", {name: frame_order.NETS[name] for name in names})


def test_runs_are_kept_and_not_repeated(tiny, monkeypatch, tmp_path, capsys):
    output = tmp_path / "results.json"
    run(monkeypatch, "--steps", 2, "--seeds", 0, "--rounds", 0, "--output", output)
    first = json.loads(output.read_text())
    run(monkeypatch, "--steps", 2, "--seeds", 0, 1, "--rounds", 1, "--output", output)
    second = json.loads(output.read_text())
    assert [(row["net"], row["seed"]) for row in second["runs"]] == [
        ("ViViT 4", 0),
        ("ViViT 4", 1),
        ("TimeSformer joint", 0),
        ("TimeSformer joint", 1),
    ]
    assert first["runs"][0] == second["runs"][0]
    assert first["runs"][1] == second["runs"][2]
    assert second["runs"][0] != {**second["runs"][1], "seed": 0}
    assert second["recipe"]["steps"] == 2
    assert second["provenance"]["command"]
    costs = {row["net"]: row for row in second["costs"]}
    assert costs["TimeSformer joint"]["forward"]["time"] == 1
    assert costs["ViViT 4"]["params"] == 163532


def test_another_length_is_refused(tiny, monkeypatch, tmp_path, capsys):
    output = tmp_path / "results.json"
    output.write_text(json.dumps({"steps": 5, "runs": [], "costs": []}))
    with pytest.raises(SystemExit):
        run(monkeypatch, "--steps", 2, "--output", output)
    assert "runs of 5 steps" in capsys.readouterr().err


def test_kept_bytes_are_those_of_the_saved_activations():
    class Squares(nn.Module):
        def forward(self, x):
            return (x.flatten(1)[:, :4] ** 2) * self.scale  # keeps a view of the clip, the square, and one number

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

    clip = torch.ones(1, 3, 2, 4, 4, requires_grad=True)
    # Squares: x (the clip's storage), its square (4 numbers); cross entropy: log-probabilities, target, its own total.
    bytes_kept = frame_order.kept_bytes(Squares(), clip)
    assert 4 * (96 + 4 + 4) <= bytes_kept <= 4 * (96 + 4 + 4) + 64
