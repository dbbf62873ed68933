"""The checkers of chapter 9 accept right answers and refuse known wrong ones, naming the mistake."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from minirsa.exercises import chapter09
from minirsa.models import timesformer
from minirsa.models.timesformer import SCHEMES, TimeSformer, group, load_vit, local_mask
from minirsa.models.vit import VisionTransformer

BOOK = Path(__file__).resolve().parents[2] / "book"


def test_the_chapters_solutions_are_right(capsys):
    cells = json.loads((BOOK / "09_timesformer.ipynb").read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    sizes = {"width": 24, "depth": 3, "heads": 4, "hidden": 48, "num_classes": 7}
    cut = {"image_size": 32, "patch_size": 8}
    vit = VisionTransformer(**sizes, **cut).double().eval()
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
    names = {  # what the chapter has defined before its exercises
        "torch": torch,
        "SCHEMES": SCHEMES,
        "TimeSformer": TimeSformer,
        "load_vit": load_vit,
        "tiny_vit": sizes,
        "tiny_cut": cut,
        "vit": vit,
        "image": torch.randn(2, 3, 32, 32, dtype=torch.float64),
    }
    for source in re.findall(r"```python\n(.*?)```", prose, re.DOTALL):
        exec(source, names)
    chapter09.check_divided(names["my_divided"])
    chapter09.check_global(names["my_global"])
    chapter09.check_local(names["my_local"])
    assert capsys.readouterr().out.split() == ["True", "False", "True"]
    assert tuple(SCHEMES) == ("space", "joint", "divided", "local_global", "axial")


def divided(x, time, space):
    B, T, N, D = x.shape
    x = x + time(x.transpose(1, 2).reshape(B * N, T, D)).reshape(B, N, T, D).transpose(1, 2)
    return x + space(x.reshape(B * T, N, D)).reshape(B, T, N, D)


def test_divided_is_accepted():
    assert "5 sizes" in chapter09.check_divided(divided)


def by_memory(x, time, space):
    B, T, N, D = x.shape
    x = x + time(x.reshape(B * N, T, D)).reshape(x.shape)
    return x + space(x.reshape(B * T, N, D)).reshape(x.shape)


def not_put_back(x, time, space):
    B, T, N, D = x.shape
    x = x + time(x.transpose(1, 2).reshape(B * N, T, D)).reshape(x.shape)
    return x + space(x.reshape(B * T, N, D)).reshape(x.shape)


def of_time(x, time):
    return divided(x, time, lambda y: 0 * y) - x


def of_space(x, space):
    return divided(x, lambda y: 0 * y, space) - x


@pytest.mark.parametrize(("wrong", "reason"), [
    (by_memory, "exchange T and N before"),
    (not_put_back, "put back in the wrong places"),
    (lambda x, t, s: x + of_space(x, s) + of_time(x + of_space(x, s), t), "space comes before time"),
    (lambda x, t, s: x + of_time(x, t) + of_space(x, s), "what time was given"),
    (lambda x, t, s: of_space(of_time(x, t), s), "residual sums are missing"),
    (lambda x, t, s: of_space(x + of_time(x, t), s), "after space is missing"),
    (lambda x, t, s: of_time(x, t) + of_space(of_time(x, t), s), "after time is missing"),
    (lambda x, t, s: divided(x, s, t), "largest error"),
    (lambda x, t, s: divided(x, t, s)[:, :1], "shape"),
    (lambda x, t, s: None, "expected a tensor"),
])  # fmt: skip
def test_wrong_divided_is_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter09.check_divided(wrong)


def places(grid):
    return torch.cartesian_prod(*(torch.arange(side) for side in grid))


def global_mask(grid):
    steps = places(grid)[None] - places(grid)[:, None]
    return (steps % 2 == 0).all(-1)


def test_masks_are_accepted():
    assert "every second patch" in chapter09.check_global(global_mask)
    assert "in every frame" in chapter09.check_local(local_mask)


def test_the_models_global_groups_are_those_of_the_checker():
    def by_groups(grid):
        numbers = torch.arange(torch.Size(grid).numel()).reshape(1, *grid, 1)
        mask = torch.zeros(numbers.numel(), numbers.numel(), dtype=torch.bool)
        for members in group(numbers, "global")[0, :, :, 0]:
            mask[members[:, None], members] = True
        return mask

    chapter09.check_global(by_groups)


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda g: (places(g) % 2 == 0).all(-1).expand(len(places(g)), -1), "count from the query's own"),
    (lambda g: ((places(g)[None] - places(g)[:, None])[..., 1:] % 2 == 0).all(-1), "frames are not skipped"),
    (lambda g: (places(g)[None] - places(g)[:, None])[..., 0] % 2 == 0, "rows and columns are not skipped"),
    (lambda g: (places(g)[None] - places(g)[:, None]).sum(-1) % 2 == 0, "each of the three"),
    (lambda g: ~global_mask(g), "exchanged"),
    (lambda g: global_mask(g).float(), "bool"),
    (lambda g: global_mask(g)[:1], "shape"),
    (lambda g: global_mask(g).fill_diagonal_(False), "should be True, got False"),
    (lambda g: global_mask(g).tolist(), "expected a tensor"),
])  # fmt: skip
def test_wrong_global_masks_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter09.check_global(wrong)


def window(grid, first, last):
    steps = (places(grid)[None] - places(grid)[:, None])[..., 1:]
    quarter = torch.tensor(grid[1:]) // 4
    return ((steps >= -quarter + first) & (steps <= quarter + last)).all(-1)


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda g: window(g, 0, 0), "too many"),
    (lambda g: window(g, 1, 0), "further forwards than back"),
    (lambda g: local_mask(g).T.contiguous(), "further forwards than back"),
    (lambda g: local_mask(g) & (places(g)[None, :, 0] == places(g)[:, None, 0]), "query's frame only"),
    (lambda g: local_mask(g)[len(places(g)) // g[0] // 2 + g[2] // 2].expand(len(places(g)), -1), "middle"),
    (lambda g: ~local_mask(g), "exchanged"),
    (lambda g: window(g, 1, -1), "should be True, got False"),
])  # fmt: skip
def test_wrong_local_masks_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter09.check_local(wrong)


def test_a_mask_for_the_other_grid_is_refused():
    with pytest.raises(AssertionError, match="shape"):
        chapter09.check_local(lambda grid: local_mask((1, 4, 4)))
    assert timesformer.local_mask((1, 4, 4)).dtype == torch.bool
