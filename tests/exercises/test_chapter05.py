"""The checkers of chapter 5 accept right answers and refuse known wrong ones, naming the mistake."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from minirsa.exercises import chapter05
from minirsa.models import vit
from minirsa.models.vit import attention_rollout, patches

BOOK = Path(__file__).resolve().parents[2] / "book"


def test_the_chapters_solutions_are_right(capsys):
    cells = json.loads((BOOK / "05_vit.ipynb").read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    names = {  # what the chapter has defined before its exercises
        "torch": torch,
        "F": F,
        "vit": vit,
        "VisionTransformer": vit.VisionTransformer,
        "P": 20,
        "cut": {"image_size": (240, 320), "patch_size": 20},
        "sizes": {"width": 64, "depth": 4, "heads": 4, "hidden": 128, "num_classes": 8},
        "image": torch.randn(3, 240, 320, dtype=torch.float64),
    }
    for source in re.findall(r"```python\n(.*?)```", prose, re.DOTALL):
        exec(source, names)
    chapter05.check_patches(names["my_patches"])
    chapter05.check_resize_positions(names["my_resize"])
    chapter05.check_rollout(names["my_rollout"])
    whole_patch, exchanged, cut_elsewhere = map(float, capsys.readouterr().out.split())
    assert max(whole_patch, exchanged) < 1e-4 < cut_elsewhere


def cut(images, size):
    B, C, H, W = images.shape
    squares = images.reshape(B, C, H // size, size, W // size, size)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * size * size)


def cut_by_loop(images, size):
    rows, columns = range(0, images.shape[2], size), range(0, images.shape[3], size)
    return torch.stack([images[:, :, r : r + size, c : c + size].flatten(1) for r in rows for c in columns], 1)


def test_patches_are_accepted():
    assert "400 patches took" in chapter05.check_patches(cut)
    chapter05.check_patches(patches)
    chapter05.check_patches(lambda images, size: F.unfold(images, size, stride=size).mT)
    chapter05.check_patches(lambda images, size: F.pixel_unshuffle(images, size).flatten(2).mT)


def permuted(*order):
    def wrong(images, size):
        B, C, H, W = images.shape
        squares = images.reshape(B, C, H // size, size, W // size, size)
        return squares.permute(order).reshape(B, -1, C * size * size)

    return wrong


@pytest.mark.parametrize(("wrong", "reason"), [
    (permuted(0, 4, 2, 1, 3, 5), "down the columns"),
    (permuted(0, 2, 4, 3, 5, 1), "channel comes last"),
    (permuted(0, 2, 4, 1, 5, 3), "exchanged inside"),
    (lambda images, size: images.reshape(len(images), -1, images.shape[1] * size * size), "strips"),
    (lambda images, size: F.unfold(images, size, stride=size), "shape"),
    (lambda images, size: cut(images, size)[:1], "shape"),
    (lambda images, size: cut(images.flip(2), size), "largest error"),
    (cut_by_loop, "no loop is needed"),
])  # fmt: skip
def test_wrong_patches_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter05.check_patches(wrong)


def resize_positions(table, old, new, *, mode="bilinear", **options):
    grid = table[1:].T.reshape(1, -1, *old)  # (1, D, h, w)
    grid = F.interpolate(grid, size=new, mode=mode, **options)
    return torch.cat([table[:1], grid[0].flatten(1).T])


def exchanged(table, old, new):
    return resize_positions(table, old[::-1], new[::-1])


def mixed_up(table, old, new):
    grid = F.interpolate(table[1:].reshape(1, -1, *old), size=new, mode="bilinear")
    return torch.cat([table[:1], grid.reshape(-1, table.shape[1])])


def in_one_dimension(table, old, new):
    line = F.interpolate(table[1:].T[None], size=new[0] * new[1], mode="linear")
    return torch.cat([table[:1], line[0].T])


def class_token_in_the_grid(table, old, new):
    """The class token is taken for a patch, and the last patch is lost."""
    return resize_positions(torch.cat([table[:1], table[:-1]]), old, new)


def test_resized_positions_are_accepted():
    assert "class token stays" in chapter05.check_resize_positions(resize_positions)


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda *a: resize_positions(*a, align_corners=True), "align_corners"),
    (exchanged, "exchanged"),
    (mixed_up, "mixed up"),
    (lambda *a: resize_positions(*a)[1:], "lost"),
    (lambda *a: torch.cat([torch.zeros_like(a[0][:1]), resize_positions(*a)[1:]]), "stay as it is"),
    (lambda *a: resize_positions(*a, mode="nearest"), "largest error"),
    (lambda *a: resize_positions(*a, mode="bicubic"), "largest error"),
    (in_one_dimension, "largest error"),
    (class_token_in_the_grid, "largest error"),
    (lambda table, old, new: table, "shape"),
])  # fmt: skip
def test_wrong_positions_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter05.check_resize_positions(wrong)


def rollout(weights):
    reached = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype)
    for layer in weights:
        reached = (0.5 * layer.mean(1) + 0.5 * torch.eye(layer.shape[-1], dtype=layer.dtype)) @ reached
    return reached


def backwards(weights):
    return rollout(list(weights)[::-1])


def without_residual(weights):
    reached = weights[0].mean(1)
    for layer in weights[1:]:
        reached = layer.mean(1) @ reached
    return reached


def largest_head(weights):
    return rollout([layer.amax(1, keepdim=True) for layer in weights])


def test_rollout_is_accepted():
    assert "adds up to one" in chapter05.check_rollout(rollout)
    chapter05.check_rollout(attention_rollout)


@pytest.mark.parametrize(("wrong", "reason"), [
    (backwards, "wrong order"),
    (without_residual, "residual is missing"),
    (lambda weights: weights[-1].mean(1), "residual is missing|last layer alone"),
    (lambda weights: 0.5 * weights[-1].mean(1) + 0.5 * torch.eye(weights[-1].shape[-1], dtype=torch.float64), "alone"),
    (lambda weights: rollout(weights).mT, "transposed"),
    (largest_head, "largest error"),
    (lambda weights: 2 * rollout(weights), "largest error"),
    (lambda weights: rollout(weights)[:, 0], "shape"),
])  # fmt: skip
def test_wrong_rollouts_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter05.check_rollout(wrong)
