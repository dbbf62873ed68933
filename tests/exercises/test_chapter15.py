"""The checkers of chapter 15 accept right answers and refuse known wrong ones, naming the mistake."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from minirsa.exercises import chapter15
from minirsa.layers import RelationalSelfAttention
from minirsa.models.resnet import tsn_resnet50
from minirsa.models.rsanet import RSANET_R50_BLOCKS, rsanet_r50

BOOK = Path(__file__).resolve().parents[2] / "book"


def test_the_chapters_solutions_are_right():
    cells = json.loads((BOOK / "15_rsanet.ipynb").read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    names = {"torch": torch}
    for source in re.findall(r"```python\n(.*?)```", prose, re.DOTALL):
        exec(source, names)
    chapter15.check_inflate(names["inflate"])
    chapter15.check_rsa_cost(names["rsa_cost"])
    chapter15.check_insert(names["insert"])


def inflate(weight, frames, how, *, at=None, share=None):
    kernel = torch.zeros(*weight.shape[:2], frames, *weight.shape[2:], dtype=weight.dtype)
    if how == "mean":
        kernel[:] = weight[:, :, None] * (share or 1 / frames)
    else:
        kernel[:, :, frames // 2 if at is None else at] = weight
    return kernel


def test_inflated_kernels_are_accepted():
    assert "still clip" in chapter15.check_inflate(inflate)


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda w, f, how: inflate(w, f, how, share=1), "divide by the number"),
    (lambda w, f, how: inflate(w.mul_(2).div_(4), f, how), "itself was changed"),
    (lambda w, f, how: inflate(w, f, how, at=0), "first frame"),
    (lambda w, f, how: inflate(w, f, how, at=-1), "last frame"),
    (lambda w, f, how: inflate(w, f, "mean"), "other way"),
    (lambda w, f, how: inflate(w, f, "centre"), "largest error"),
    (lambda w, f, how: inflate(w, f, how) / (f if how == "centre" else 1), "count whole"),
    (lambda w, f, how: inflate(w, f, how).transpose(0, 1), "shape|error"),
    (lambda w, f, how: inflate(w, f, how).transpose(3, 4), "largest error"),
    (lambda w, f, how: inflate(w, f, how).movedim(2, 4), "shape"),
    (lambda w, f, how: inflate(w, f, how)[:, :, :1], "shape"),
    (lambda w, f, how: inflate(w, f, how).tolist(), "expected a tensor"),
])  # fmt: skip
def test_wrong_inflations_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter15.check_inflate(wrong)


def rsa_cost(C, L, M, D, *, params=lambda c, D, M: 0, macs=lambda c, D, M: 0):
    c = C // L
    projection = C * (C + 2 * c)
    counted = projection + c * D * M + (D + c) * M + c * D + c * c
    products = L * c * D + D * c * c + L * D * c
    return counted + params(c, D, M), projection + c * D * M + c * (D + c) * M + products + macs(c, D, M)


def test_costs_are_accepted():
    assert "built and counted" in chapter15.check_rsa_cost(rsa_cost)


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda C, L, M, D: rsa_cost(C, L, M, D, params=lambda c, D, M: -2 * c * C), "C \\+ 2 c channels"),
    (lambda C, L, M, D: rsa_cost(C, L, M, D, params=lambda c, D, M: 2 * C * C - 2 * c * C), "shared by the queries"),
    (lambda *a: rsa_cost(*a, params=lambda c, D, M: -(c - 1) * D * M), "H_1 has a kernel for each"),
    (lambda *a: rsa_cost(*a, params=lambda c, D, M: c * M * M - c * D * M - D * M), "only its factors"),
    (lambda C, L, M, D: rsa_cost(C, L, M, D, params=lambda c, D, M: -c * D), "P_1 is missing"),
    (lambda *a: rsa_cost(*a, params=lambda c, D, M: -c * c), "I is learned"),
    (lambda *a: rsa_cost(*a, params=lambda c, D, M: -c * M), "G is missing"),
    (lambda *a: rsa_cost(*a, params=lambda c, D, M: (c - 1) * (D + c) * M), "one kernel for all"),
    (lambda *a: rsa_cost(*a, macs=lambda c, D, M: -(c - 1) * (D + c) * M), "once for every channel"),
    (lambda C, L, M, D: rsa_cost(C, L, M, D, macs=lambda c, D, M: (L - D) * c * c), "paper's order"),
    (lambda C, L, M, D: rsa_cost(C, L, M, D, macs=lambda c, D, M: -L * D * c), "meet D x c numbers twice"),
    (lambda *a: (rsa_cost(*a)[0], 2 * rsa_cost(*a)[1]), "one operation"),
    (lambda *a: (rsa_cost(*a)[0], 30 * rsa_cost(*a)[1]), "one position"),
    (lambda *a: (float(rsa_cost(*a)[0]), rsa_cost(*a)[1]), "two whole numbers"),
    (lambda *a: rsa_cost(*a)[0], "two whole numbers"),
    (lambda *a: rsa_cost(*a)[::-1], "expected"),
    (lambda *a: rsa_cost(*a, params=lambda c, D, M: 1), "parameters"),
    (lambda *a: rsa_cost(*a, macs=lambda c, D, M: 1), "multiply-adds a position"),
])  # fmt: skip
def test_wrong_costs_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter15.check_rsa_cost(wrong)


def insert(net, places, make, *, channels=lambda block: block.transform.out_channels, stride=None, mark=True):
    for stage, block in places:
        bottleneck = net.stages[stage][block]
        step = bottleneck.transform.stride[2] if stride is None else stride
        bottleneck.transform = make(channels(bottleneck), step)
        bottleneck.replaced = mark
    return net


def redraw(net, places, make):
    for layer in insert(net, places, make).modules():
        if isinstance(layer, nn.BatchNorm3d):
            layer.reset_parameters()
    return net


def into_the_shortcut(net, places, make):
    for stage, block in places:
        old = net.stages[stage][block].transform
        net.stages[stage][block].reduce = nn.Sequential(net.stages[stage][block].reduce, make(old.out_channels, 1))
        net.stages[stage][block].replaced = True
    return net


def beside(net, places, make):
    """Adds the new transform to the convolution instead of exchanging them."""

    class Both(nn.Module):
        def __init__(self, old, new):
            super().__init__()
            self.old, self.new = old, new

        def forward(self, x):
            return self.old(x) + self.new(x)

    for stage, block in places:
        old = net.stages[stage][block].transform
        net.stages[stage][block].transform = Both(old, make(old.out_channels, old.stride[2]))
        net.stages[stage][block].replaced = True
    return net


def with_forgotten_statistics(net):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.reset_running_stats()
    return net


def test_insertions_are_accepted():
    assert "in their seats" in chapter15.check_insert(insert)
    chapter15.check_insert(lambda net, places, make: insert(copy.deepcopy(net), places, make))


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda *a: with_forgotten_statistics(insert(*a)), "error"),
    (lambda *a: insert(*a, stride=1), "should be called with"),
    (lambda *a: insert(*a, stride=2), "should be called with"),
    (lambda *a: insert(*a, channels=lambda block: block.expand.out_channels), "narrow middle"),
    (lambda *a: insert(*a, channels=lambda block: block.reduce.in_channels), "narrow middle|should be called"),
    (lambda *a: insert(*a, mark=False), "net.replaced"),
    (lambda net, places, make: insert(net, sorted(places), make), "should be called with"),
    (lambda net, places, make: insert(net, [(s, (b + 1) % 2) for s, b in places], make), "places"),
    (lambda net, places, make: (insert(net, places, make), None)[1], "expected the net"),
    (lambda net, places, make: net, "should be called with"),
    (redraw, "largest error"),
    (into_the_shortcut, "should be called with|net.replaced"),
    (beside, "net.replaced"),
])  # fmt: skip
def test_wrong_insertions_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter15.check_insert(wrong)


def test_seven_insertions_make_rsanet_r50():
    """The claim below exercise 5's solution."""
    places = [(stage, block) for stage, blocks in enumerate(RSANET_R50_BLOCKS) for block in blocks]
    torch.manual_seed(0)
    net = insert(tsn_resnet50(7, 2), places, lambda channels, stride: RelationalSelfAttention(channels, stride=stride))
    for block in net.bottlenecks().values():
        nn.init.uniform_(block.expand_norm.weight, 0.1, 0.9)
    published = rsanet_r50(7, 2)
    published.load_state_dict(net.state_dict())
    video = torch.randn(1, 3, 2, 32, 32)
    with torch.no_grad():
        assert torch.equal(net.eval()(video), published.eval()(video))
