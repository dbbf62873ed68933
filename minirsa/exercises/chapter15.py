"""Checkers for the exercises of "RSANet": image weights in a video net, an RSA layer's price, layers put into a net.

Each takes the reader's function, tries it on several sizes, and compares it with loops, or with what is built and
counted. It returns a sentence that says what was checked, or raises AssertionError that says what is wrong and on which
input, naming the mistakes it knows; what the function itself raises comes through.

Book: chapter 15, "Exercises".
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from minirsa import complexity
from minirsa.exercises.judging import compare, random_tensors
from minirsa.layers.relational import RelationalSelfAttention
from minirsa.models.resnet import BlockIndex, TransformFactory, TSNResNet

__all__ = ["check_inflate", "check_insert", "check_rsa_cost"]


def check_inflate(function: Callable[[Tensor, int, str], Tensor]) -> str:
    """Judge image kernels made into video kernels: weight (O, I, k, k), frames, how -> (O, I, frames, k, k).

    how = "mean": the image kernel in every frame, divided by their number; "centre": in the middle frame alone, zeros
    in the others. `frames` is odd.
    """
    cases = ((2, 3, 3, 1), (3, 3, 1, 3), (4, 2, 3, 3), (1, 2, 5, 5))
    for how in ("mean", "centre"):
        for seed, (outputs, inputs, size, frames) in enumerate(cases):
            (weight,) = random_tensors(seed, (outputs, inputs, size, size))
            share = torch.zeros(frames, dtype=weight.dtype)
            share[frames // 2] = 1
            if how == "mean":
                share[:] = 1 / frames
            expected = torch.stack([part * weight for part in share], 2)
            copies = torch.stack([weight] * frames, 2)
            where = f'for a kernel of {tuple(weight.shape)}, {frames} frames, "{how}"'
            given = weight.clone()
            got = function(given, frames, how)
            assert torch.equal(given, weight), f"{where} the image kernel itself was changed: make a new one"
            if frames > 1 and isinstance(got, Tensor) and got.shape == expected.shape:
                at_the_end = expected.roll(frames // 2, 2), expected.roll(-(frames // 2), 2)
                known = {
                    "a still clip comes out several times as strong: divide by the number of frames": (copies, "mean"),
                    "these are the kernels of the other way to inflate": (
                        copies / frames if how == "centre" else torch.stack([weight * 0] * frames, 2), "centre"),
                    "the kernel stands in the first frame: the middle one is `frames // 2`": (at_the_end[1], "centre"),
                    "the kernel stands in the last frame: the middle one is `frames // 2`": (at_the_end[0], "centre"),
                    "the middle kernel is divided: alone, it must count whole": (expected / frames, "centre"),
                }  # fmt: skip
                for reason, (mistake, of) in known.items():
                    assert of != how or not torch.allclose(got, mistake), f"{where} {reason}"
            compare(got, expected, where)
    return f"Right for {len(cases)} kernels, both ways: inside a still clip they give the image's answer."


def check_rsa_cost(function: Callable[[int, int, int, int], tuple[int, int]]) -> str:
    """Judge the price of an RSA layer: channels, queries, neighbours, latent -> (parameters, multiply-adds a position).

    Kernel and context both "VR", as many groups as channels a query, products in the paper's order; the answer is what
    `minirsa.complexity.measure` counts on the layer that is built.
    """
    cases = ((12, 2, (3, 3, 3), 4), (64, 8, (5, 7, 7), 8), (48, 4, (3, 5, 5), 5), (512, 8, (5, 7, 7), 64))
    for channels, queries, kernel_size, latent in cases:
        options = {"queries": queries, "kernel_size": kernel_size, "latent": latent}
        with torch.device("meta"):
            layer = RelationalSelfAttention(channels, **options)
            cost = complexity.measure(layer, torch.empty(1, channels, 2, 3, 5))
        params, macs = cost.params, cost.macs // 30
        c, D, M, L = channels // queries, latent, layer.neighbours, queries
        where = f"for C = {channels}, L = {L}, M = {M}, D = {D}"
        got = function(channels, queries, M, latent)
        right = isinstance(got, tuple) and len(got) == 2 and all(type(number) is int for number in got)
        assert right, f"{where} expected two whole numbers, got {got!r}"
        projection = channels * (channels + 2 * c)
        known_params = {
            "the projection gives queries, keys and values: C + 2 c channels": params - projection + channels**2,
            "keys and values have c channels, shared by the queries": params - projection + 3 * channels**2,
            "H_1 has a kernel for each of the c channels of a key": params - (c - 1) * D * M,
            "H is not stored, only its factors": params - c * D * M - D * M + c * M * M,
            "P_1 is missing": params - c * D,
            "I is learned, too": params - c * c,
            "G is missing": params - c * M,
            "H_2 and G have one kernel for all channels": params + (c - 1) * (D + c) * M,
        }
        known_macs = {
            "the kernels of H_2 and G are used once for every channel of a value": macs - (c - 1) * (D + c) * M,
            "paper's order: first (D x c)(c x c), then the kernel": macs - D * c * c + L * c * c,
            "L queries meet D x c numbers twice: for the latent kernel, and at the end": macs - L * D * c,
            "a multiply-add is one operation here, not two": 2 * macs,
            "one position, please, not all of the clip": 30 * macs,
        }
        for known, number, true in ((known_params, got[0], params), (known_macs, got[1], macs)):
            for reason, mistake in known.items():
                assert number != mistake or mistake == true, f"{where} {reason}"
        assert got[0] == params, f"{where} expected {params:,} parameters, got {got[0]:,}"
        assert got[1] == macs, f"{where} expected {macs:,} multiply-adds a position, got {got[1]:,}"
    return f"Right for {len(cases)} layers, as built and counted."


class _Transform(nn.Conv3d):
    """A transform over space and time with weights that its place in line decides."""

    def __init__(self, number: int, channels: int, stride: int) -> None:
        super().__init__(channels, channels, 3, stride=(1, stride, stride), padding=1, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.weight.copy_(random_tensors(100 + number, tuple(self.weight.shape))[0] / 5)


def check_insert(
    function: Callable[[TSNResNet, Sequence[BlockIndex], TransformFactory], TSNResNet],
) -> str:
    """Judge transforms put into a net: net, places (stage, block) from 0, make(channels, stride) -> the net, changed.

    At every place, in the order given, `make` is called with what the 3x3 convolution had, and takes its seat;
    everything else keeps its weights, and `net.replaced()` finds the new transforms.
    """
    for places in ([(0, 1)], [(0, 0), (1, 0), (2, 1)], [(2, 0), (1, 1)]):
        options = {"depths": (2, 3, 2), "widths": (4, 8, 6), "stem_width": 5, "dropout": 0.0}
        net = TSNResNet(7, 3, **options).double().eval()
        draws = random_tensors(0, *(tuple(p.shape) for p in net.parameters()))
        with torch.no_grad():  # all random: a norm that starts at zero would hide what its branch does
            for parameter, values in zip(net.parameters(), draws):
                parameter.copy_(values / max(values[0].numel(), 1) ** 0.5 if values.ndim > 1 else 1 + values / 4)
        for number, norm in enumerate(module for module in net.modules() if isinstance(module, nn.BatchNorm3d)):
            mean, spread = random_tensors(50 + number, (norm.num_features,), (norm.num_features,))
            norm.running_mean.copy_(mean / 4)
            norm.running_var.copy_(1 + spread.square() / 4)
        calls: list[tuple[int, int]] = []

        def make(channels: int, stride: int, calls: list = calls) -> nn.Module:
            calls.append((channels, stride))
            return _Transform(len(calls), channels, stride)

        before = copy.deepcopy(net)
        (video,) = random_tensors(1, (2, 3, 3, 16, 16))
        where = f"for places {places}"
        wanted = [(options["widths"][stage], 2 if stage and not block else 1) for stage, block in places]
        got = function(net, places, make)
        assert isinstance(got, TSNResNet), f"{where} expected the net, got {type(got).__name__}"
        assert calls != [(4 * channels, stride) for channels, stride in wanted], (
            f"{where} the transform stands in the narrow middle of a bottleneck: {wanted[0][0]} channels there"
        )
        assert calls == wanted, f"{where} make(channels, stride) should be called with {wanted}, was with {calls}"
        found = {place: type(layer) for place, layer in got.replaced().items()}
        assert found == dict.fromkeys(sorted(places), _Transform), (
            f"{where} net.replaced() finds {sorted(found)}: is `replaced` true of these bottlenecks, and of no other?"
        )
        with torch.no_grad():
            compare(got(video), _reference(before, places)(video), where)
    return "Right for 3 choices of places: the new transforms are in their seats, all other weights are as they were."


def _reference(net: TSNResNet, places: Sequence[BlockIndex]) -> TSNResNet:
    """The net with transforms in the order of `places`, its forward pass written out."""

    class Written(nn.Module):
        def forward(self, video: Tensor) -> Tensor:
            x = net.stem_features(video)
            for place, block in net.bottlenecks().items():
                inner = block.before_transform(x)
                if place in places:
                    stride = block.transform.stride[2]
                    transform = _Transform(places.index(place) + 1, inner.shape[1], stride)
                else:
                    transform = block.transform
                inner = block.transform_norm(transform(inner)).relu()
                x = (block.shortcut(x) + block.expand_norm(block.expand(inner))).relu()
            return net.classifier(x.mean((3, 4)).transpose(1, 2)).mean(1)

    return Written()
