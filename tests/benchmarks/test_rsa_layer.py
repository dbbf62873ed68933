"""What `benchmarks/rsa_layer.py` compares is one transform, arranged in two ways."""

import pytest
import torch
from torch import nn

from benchmarks.rsa_layer import STAGES, release_arrangement
from minirsa.complexity import measure
from minirsa.layers import RelationalSelfAttention


def layer_and_video(channels=16, size=(3, 5, 4), **options):
    torch.manual_seed(0)
    layer = RelationalSelfAttention(channels, **options).double()
    for parameter in (layer.P1, layer.I):
        nn.init.normal_(parameter)
    return layer, torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": (3, 3, 3), "queries": 4},
        {"kernel_size": (5, 7, 7), "queries": 8},  # a kernel larger than the clip
        {"kernel_size": (3, 5, 5), "queries": 2, "latent": 3},
    ],
)
def test_both_arrangements_give_one_output_and_one_gradient(options):
    layer, video = layer_and_video(**options)
    weights = [video, *layer.parameters()]
    outputs = [layer(video), release_arrangement(layer, video)]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    upstream = torch.randn_like(outputs[0])
    for ours, theirs in zip(*(torch.autograd.grad(out, weights, upstream) for out in outputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


class ReleaseArrangement(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return release_arrangement(self.layer, x)


@pytest.mark.parametrize("stage", STAGES)
def test_the_releases_arrangement_costs_what_the_paper_counts(stage):
    channels, size = STAGES[stage]
    with torch.device("meta"):
        layer, video = RelationalSelfAttention(channels), torch.empty(1, channels, 8, size, size)
        assert measure(ReleaseArrangement(layer), video) == measure(layer, video)
