"""Tiny runs for the tests of the training engine, in this process or in processes that can be killed."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from minirsa.models.checkpoint import BUILDERS
from minirsa.training.checkpoints import LAST, load
from minirsa.training.recipes import TrainingRecipe
from minirsa.training.runlog import read_log

TINY = {
    "model": "rsanet_small",
    "model_options": {"widths": [4, 8, 8], "queries": 2, "kernel_size": [3, 3, 3]},
    "initialisation": "scratch",
    "classes": 12,
    "frames": 4,
    "size": 12,
    "dropout": 0.2,
    "stochastic_depth": 0.2,
    "data": "motion",
    "epoch_clips": 48,
    "validation_clips": 24,
    "epochs": 3,
    "batch_size": 8,
    "base_batch": 8,
    "lr": 0.05,
    "warmup_epochs": 1,
    "workers": 0,
    "save_every": 2,
    "log_every": 4,
}
"""Three epochs of six steps, with everything that draws numbers, checkpoints at odd moments and rows across epochs."""


class Plain(nn.Module):
    """A net without batch norm: its gradient over a batch is the mean over the batch's parts."""

    def __init__(self, num_classes, num_frames, *, dropout, keep):
        super().__init__()
        self.convolution = nn.Conv3d(3, 8, 3, stride=2, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, video):
        return self.classifier(self.dropout(self.convolution(video).relu().mean((2, 3, 4))))


def tiny(**values):
    """A recipe of `TINY` with other values; `model="plain"` needs the fixture of that name, and drops nothing."""
    base = TINY | {"dropout": 0.0, "model_options": {}} if values.get("model") == "plain" else TINY
    return TrainingRecipe.from_dict(base | values)


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setitem(BUILDERS, "plain", Plain)


def rows(folder):
    """The log of a run, without what a clock says."""
    return [{key: value for key, value in row.items() if key != "timing"} for row in read_log(folder)]


def assert_equal_states(one, other, where="state"):
    """Two checkpoints' contents are the same to the bit, generators' states included."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for name in one:
            assert_equal_states(one[name], other[name], f"{where}[{name!r}]")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other)):
            assert_equal_states(*pair, f"{where}[{number}]")
    else:
        assert one == other, where


def assert_same_run(one, other):
    """Two folders hold the same run: weights, optimiser, place, scores, generators, log."""
    assert_equal_states(load(Path(one) / LAST), load(Path(other) / LAST))
    assert rows(one) == rows(other)


class Forker:
    """A process that has imported everything and forks a training process for each job; see forked.py."""

    def __init__(self):
        script = Path(__file__).with_name("forked.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, output, world=1, **job):
        """Start a job; the process ids of its ranks come back."""
        port = None
        if world > 1:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        job = {"output": str(output), "world": world, "port": port, "recipe": {}, **job}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def wait(self):
        """Exit codes by rank (minus the signal for a process that was killed) and what each reported."""
        return [tuple(entry) for entry in json.loads(self.process.stdout.readline())]

    def run(self, output, **job):
        """Start a job and wait for it."""
        self.start(output, **job)
        return self.wait()


@pytest.fixture(scope="session")
def forker():
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    forker = Forker()
    yield forker
    forker.process.stdin.close()
    assert forker.process.wait(10) == 0
