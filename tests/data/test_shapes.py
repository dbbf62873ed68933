"""Shapes and textures: one item is one picture for good, cues go together as said, and both can be seen."""

import math

import pytest
import torch
from torch.testing import assert_close

from minirsa.data.shapes import SHAPES, TEXTURES, ShapeSet, shape_bias


def test_items_depend_on_seed_and_index_alone():
    images = ShapeSet(40, seed=3)
    batch = images.batch([7, 21, 7])
    assert batch.images.shape == (3, 3, 32, 32)
    assert batch.images.dtype == torch.float32
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1
    assert torch.equal(batch.images[0], batch.images[2])
    image, shape = ShapeSet(400, seed=3)[21]
    assert_close(image, batch.images[1])
    assert shape == 21 % 8
    assert not torch.equal(ShapeSet(40, seed=4)[7][0], batch.images[0])


@pytest.mark.parametrize("cues", ["agree", "conflict", "independent"])
def test_cues_go_together_as_said(cues):
    batch = ShapeSet(1600, cues=cues, size=16).batch(range(1600))
    assert torch.bincount(batch.shapes, minlength=8).tolist() == [200] * 8
    same = (batch.shapes == batch.textures).float().mean().item()
    assert same == {"agree": 1.0, "conflict": 0.0}.get(cues, pytest.approx(1 / 8, abs=0.03))
    for shape in range(8):
        seen = torch.bincount(batch.textures[batch.shapes == shape], minlength=8)
        used = {"agree": 1, "conflict": 7}.get(cues, 8)
        assert (seen > 0).sum() == used
        assert seen[seen > 0].min() >= 0.4 * 200 / used


def test_the_same_item_has_one_place_and_form_under_all_cues():
    agree, conflict = (ShapeSet(64, cues=cues, noise=0.0, size=48).batch(range(64)) for cues in ("agree", "conflict"))
    ground = (agree.images - conflict.images).abs().amax(1) < 1e-6  # where both show the plain ground
    assert 0.5 < ground.float().mean() < 0.9
    assert (ground[:, 0, 0] & ground[:, -1, -1]).all()


def test_noise_is_the_only_difference_that_noise_makes():
    clean, noisy = ShapeSet(8, noise=0.0).batch(range(8)).images, ShapeSet(8, noise=0.1).batch(range(8)).images
    assert (noisy - clean).std().item() == pytest.approx(0.1, rel=0.15)


def test_larger_images_show_the_same_picture():
    small = ShapeSet(16, noise=0.0, size=32).batch(range(16)).images
    large = ShapeSet(16, noise=0.0, size=96).batch(range(16)).images
    assert (torch.nn.functional.avg_pool2d(large, 3) - small).abs().mean() < 0.02


def nearest_mean_accuracy(train, test, labels_train, labels_test):
    """Accuracy of the nearest class mean."""
    means = torch.stack([train[labels_train == k].mean(0) for k in range(8)])
    return (torch.cdist(test, means).argmin(1) == labels_test).float().mean().item()


def test_texture_alone_and_shape_alone_can_be_told_apart_by_simple_statistics():
    train, test = (ShapeSet(1600, cues="independent", noise=0.0, seed=s).batch(range(1600)) for s in (0, 1))

    def brightness(batch):  # local contrast, sorted: no place, no form
        grey = batch.images.mean(1)
        steps = [(grey[:, k:] - grey[:, :-k]).abs().flatten(1).sort(1).values[:, ::16] for k in (1, 2, 4)]
        return torch.cat(steps, 1)

    texture = nearest_mean_accuracy(brightness(train), brightness(test), train.textures, test.textures)
    assert texture > 0.2  # chance is 1 / 8

    def area(batch):  # how many pixels differ from the corner: no texture
        return (batch.images - batch.images[:, :, :1, :1]).abs().amax(1).gt(0.15).flatten(1).float().mean(1)[:, None]

    shape = nearest_mean_accuracy(area(train), area(test), train.shapes, test.shapes)
    assert shape > 0.2


def test_no_label_leaks_through_colours_or_place():
    batch = ShapeSet(4000, cues="independent", noise=0.0).batch(range(4000))
    corner = batch.images[:, :, 0, 0]
    means = torch.stack([corner[batch.shapes == k].mean(0) for k in range(8)])
    assert (means - means.mean(0)).abs().max() < 0.02


def test_shape_bias_counts_decisions_for_either_cue():
    shapes, textures = torch.tensor([0, 1, 2, 3]), torch.tensor([5, 6, 7, 0])
    assert shape_bias(torch.tensor([0, 1, 2, 0]), shapes, textures) == 0.75
    assert shape_bias(torch.tensor([0, 6, 4, 4]), shapes, textures) == 0.5
    assert math.isnan(shape_bias(torch.tensor([4, 4, 4, 4]), shapes, textures))
    with pytest.raises(ValueError, match="conflict"):
        shape_bias(shapes, shapes, shapes)
    with pytest.raises(ValueError, match=r"\(B,\)"):
        shape_bias(shapes, shapes, textures[:2])


def test_names():
    assert len(SHAPES) == len(TEXTURES) == len(set(SHAPES)) == len(set(TEXTURES)) == 8


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ShapeSet(-1), ValueError, "length"),
        (lambda: ShapeSet(1, seed=-1), ValueError, "seed"),
        (lambda: ShapeSet(1, size=8), ValueError, "16 pixels"),
        (lambda: ShapeSet(1, cues="both"), ValueError, "both"),
        (lambda: ShapeSet(1, noise=-1), ValueError, "noise"),
        (lambda: ShapeSet(4).batch([]), ValueError, "at least one"),
        (lambda: ShapeSet(4)[4], IndexError, "below 4"),
    ],
)
def test_errors_say_what_was_expected(call, error, words):
    with pytest.raises(error, match=words):
        call()
