"""The checkers of chapter 11 accept right answers and refuse known wrong ones, naming the mistake."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from minirsa.exercises import chapter11
from minirsa.models.mvit import AveragePool3d, Pool
from minirsa.training import Recipe, fit
from minirsa.training.video import CONFIG, clip_batches, motion_clips, order_test, small_net

BOOK = Path(__file__).resolve().parents[2] / "book"


def test_the_chapters_solutions_are_right(capsys):
    cells = json.loads((BOOK / "11_mvit.ipynb").read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    torch.manual_seed(0)
    clips, labels = motion_clips(12, CONFIG, seed=1)
    names = {  # what the chapter has defined before its exercises
        "torch": torch,
        "F": F,
        "math": math,
        "net": small_net("MViT conv"),
        "clips_seen": clips,
        "labels_seen": labels,
        "order_test": order_test,
        "Recipe": lambda steps, **options: Recipe(steps=min(steps, 3), **options),  # the chapter has the time
        "fit": fit,
        "clip_batches": clip_batches,
        "CONFIG": CONFIG,
    }
    for source in re.findall(r"```python\n(.*?)```", prose, re.DOTALL):
        exec(source, names)
    chapter11.check_pool(names["my_pool"])
    chapter11.check_positions(names["my_positions"])
    chapter11.check_block_macs(names["my_block_macs"])
    weight = names["net"].stem.weight
    assert weight[:, :, 1].abs().sum() > 0
    assert weight[:, :, [0, 2]].abs().sum() == 0  # after the training, too
    assert capsys.readouterr().out.count("OrderTest(") == 2


def pool(x, grid, stride):
    cube = x[:, 1:].transpose(1, 2).unflatten(2, grid)
    cube = F.max_pool3d(cube, 3, stride, 1)
    return torch.cat([x[:, :1], cube.flatten(2).transpose(1, 2)], 1)


def module_pool(x, grid, stride):
    return Pool("max", x.shape[-1], (3, 3, 3), stride)(x[:, None], grid)[0][:, 0]


def zero_padded(x, grid, stride):
    cube = F.pad(x[:, 1:].transpose(1, 2).unflatten(2, grid), (1,) * 6)
    return torch.cat([x[:, :1], F.max_pool3d(cube, 3, stride).flatten(2).transpose(1, 2)], 1)


def averaged(x, grid, stride):
    cube = x[:, 1:].transpose(1, 2).unflatten(2, grid)
    cube = AveragePool3d((3, 3, 3), stride, (1, 1, 1))(cube)
    return torch.cat([x[:, :1], cube.flatten(2).transpose(1, 2)], 1)


def mixed_up(x, grid, stride):
    cube = F.max_pool3d(x[:, 1:].transpose(1, 2).unflatten(2, grid), 3, stride, 1)
    return torch.cat([x[:, :1], cube.reshape(len(x), -1, x.shape[-1])], 1)


def test_pools_are_accepted():
    assert "goes round" in chapter11.check_pool(pool)
    chapter11.check_pool(module_pool)


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda *a: pool(*a)[:, 1:], "has been lost"),
    (lambda *a: pool(*a).roll(-1, 1), "is last"),
    (lambda x, *a: torch.cat([x.amax(1, keepdim=True), pool(x, *a)[:, 1:]], 1), "been pooled"),
    (zero_padded, "zeros of the padding"),
    (averaged, "mean of each box"),
    (mixed_up, "mixed up"),
    (lambda x, grid, stride: pool(x, (grid[0], grid[2], grid[1]), stride), "rows and columns"),
    (lambda x, grid, stride: pool(x, grid, (1, 2, 2)), "shape"),
    (lambda x, grid, stride: x, "shape"),
    (lambda x, grid, stride: (pool(x, grid, stride), grid), "tuple"),
    (lambda *a: pool(*a) + 1e-3, "largest error"),
])  # fmt: skip
def test_wrong_pools_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter11.check_pool(wrong)


def positions(time, space, token):
    return torch.cat([token[None], (time[:, None] + space[None]).flatten(0, 1)])


def by_repeating(time, space, token):
    table = time.repeat_interleave(len(space), 0) + space.repeat(len(time), 1)
    return torch.cat([token[None], table])


def test_positions_are_accepted():
    assert "frame by frame" in chapter11.check_positions(positions)
    chapter11.check_positions(by_repeating)


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda t, s, c: torch.cat([c[None], (s[:, None] + t[None]).flatten(0, 1)]), "time is the outer axis"),
    (lambda t, s, c: positions(t, s, c)[1:], "missing: it comes first"),
    (lambda t, s, c: positions(t, s, c).roll(-1, 0), "belongs in front"),
    (lambda t, s, c: torch.cat([c[None], positions(t, s, c)[1:] + c]), "row of its own"),
    (lambda t, s, c: positions(0 * t, s, c), "frame's vector is missing"),
    (lambda t, s, c: positions(t, 0 * s, c), "place's vector is missing"),
    (lambda t, s, c: torch.cat([c[None], (t[:, None] * s).flatten(0, 1)]), "multiplied"),
    (lambda t, s, c: t[:, None] + s[None], "shape"),
    (lambda t, s, c: positions(t, s, 2 * c), "largest error"),
])  # fmt: skip
def test_wrong_positions_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter11.check_positions(wrong)


def tokens(grid, stride):
    return 1 + math.prod((side - 1) // s + 1 for side, s in zip(grid, stride))


def macs(C, D, grid, q, kv, *, output=None, mlp_on=None, products=2, skip=True, pairs=None, contract=None, early=False):
    n, n_q, n_k = (tokens(grid, stride) for stride in ((1, 1, 1), q, kv))
    projections = n * C * C + 2 * (n_k if early else n) * C * C + (output or (lambda n, n_q: n_q))(n, n_q) * C * C
    pair = (pairs or (lambda n, n_q, n_k: n_q * n_k))(n, n_q, n_k)
    rows = (mlp_on or (lambda n, n_q: n_q))(n, n_q)
    grows = rows * C * D if C != D and skip else 0
    return projections + products * pair * C + rows * (4 * C * C + 4 * C * (contract or (lambda C, D: D))(C, D)) + grows


def with_mistake(**mistake):
    return lambda *a: macs(*a, **mistake)


def test_block_macs_are_accepted():
    assert "as built and counted" in chapter11.check_block_macs(macs)


@pytest.mark.parametrize(("wrong", "reason"), [
    (with_mistake(early=True), "projected before they are pooled"),
    (with_mistake(output=lambda n, n_q: n), "W_O"),
    (with_mistake(mlp_on=lambda n, n_q: n), "the MLP comes after"),
    (with_mistake(products=1), "two products"),
    (with_mistake(pairs=lambda n, n_q, n_k: n * n), "not n n"),
    (with_mistake(skip=False), "linear layer where the width grows"),
    (with_mistake(contract=lambda C, D: C), "contracts to the new width"),
    (with_mistake(pairs=lambda n, n_q, n_k: (n_q - 1) * (n_k - 1)), "class token"),
    (lambda *a: 2 * macs(*a), "one operation"),
    (lambda *a: float(macs(*a)), "whole number"),
    (lambda *a: macs(*a) + 1, "expected"),
])  # fmt: skip
def test_wrong_block_macs_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter11.check_block_macs(wrong)
