"""Training on a finite set of images: every image once a pass, moved as said, and the same batches for every net."""

import pytest
import torch
from torch.testing import assert_close

from minirsa.data.shapes import ShapeSet
from minirsa.models.resnet import TSNResNet
from minirsa.training import Recipe
from minirsa.training.images import OneFrame, normalize_images, shape_batches, shape_images, shift_and_mirror

PLAIN = {"shift": 0, "mirror": False}


def numbered(count, size=4):
    """Images that say their own number in every pixel."""
    images = torch.arange(float(count))[:, None, None, None].expand(-1, 3, size, size)
    return images, torch.arange(count)


def test_shape_images_are_the_sets_normalised():
    got = shape_images(1100, seed=3, cues="conflict", size=16)
    expected = ShapeSet(1100, seed=3, cues="conflict", size=16).batch(range(1100))
    assert_close(got.images, (expected.images - 0.5) / 0.25)
    assert torch.equal(got.shapes, expected.shapes)
    assert torch.equal(got.textures, expected.textures)
    assert got.images.mean().abs() < 0.3
    assert 0.5 < got.images.std() < 1.5


def test_every_image_comes_once_a_pass():
    images, labels = numbered(10)
    batches = list(shape_batches(Recipe(steps=5, batch_size=4), images, labels, **PLAIN))
    seen = torch.cat([y for _, y in batches])
    assert all(torch.equal(x[:, 0, 0, 0], y.float()) for x, y in batches)
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist() != list(range(10))


def test_a_set_smaller_than_a_batch_is_repeated():
    images, labels = numbered(3)
    ((_, seen),) = shape_batches(Recipe(steps=1, batch_size=7), images, labels, **PLAIN)
    assert torch.bincount(seen).sort().values.tolist() == [2, 2, 3]


def test_batches_depend_on_the_recipes_seed_alone():
    data = shape_images(16, seed=0, size=16)

    def batches(seed):
        return list(shape_batches(Recipe(steps=3, batch_size=8, seed=seed), data.images, data.shapes))

    first = batches(5)
    torch.rand(1)  # the global generator plays no part
    again, other = batches(5), batches(6)
    assert all(torch.equal(a, b) for one, two in zip(first, again) for a, b in zip(one, two))
    assert not torch.equal(first[0][0], other[0][0])


def test_an_image_is_moved_down_and_right_its_border_repeated_then_mirrored():
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    plain = torch.tensor([False])
    moved = shift_and_mirror(image, torch.tensor([[1, 2]]), plain)
    assert moved[0, 0].tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [4, 4, 4, 5]]
    up = shift_and_mirror(image, torch.tensor([[-2, -1]]), plain)
    assert up[0, 0].tolist() == [[9, 10, 11, 11]] * 3
    both = shift_and_mirror(image, torch.tensor([[1, 2]]), torch.tensor([True]))
    assert_close(both, moved.flip(3))
    assert torch.equal(shift_and_mirror(image, torch.zeros(1, 2, dtype=torch.long), plain), image)


def test_each_image_of_a_batch_has_its_own_move():
    images, labels = torch.randn(1, 3, 9, 9).expand(200, -1, -1, -1), torch.zeros(200, dtype=torch.long)
    ((got, _),) = shape_batches(Recipe(steps=1, batch_size=200), images, labels, shift=1)
    forms = {tuple(image.flatten().tolist()) for image in got}
    assert len(forms) == 18  # 3 x 3 moves, each mirrored or not
    ((still, _),) = shape_batches(Recipe(steps=1, batch_size=200), images, labels, **PLAIN)
    assert torch.equal(still, images)


def test_one_frame_is_the_net_on_a_clip_of_one_frame():
    net = TSNResNet(8, 1, depths=(1, 1), widths=(4, 8), stem_width=8, dropout=0.0).eval()
    images = normalize_images(torch.rand(2, 3, 16, 16))
    assert torch.equal(OneFrame(net)(images), net(images[:, :, None]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: shape_batches(Recipe(), torch.zeros(2, 3, 4, 4), torch.zeros(3)), r"labels \(N,\)"),
        (lambda: shape_batches(Recipe(), torch.zeros(2, 3, 4), torch.zeros(2)), r"images \(N, C, H, W\)"),
        (lambda: shape_batches(Recipe(), torch.zeros(0, 3, 4, 4), torch.zeros(0)), r"\(N, C, H, W\)"),
        (lambda: shape_batches(Recipe(), *numbered(2), shift=-1), "shift"),
    ],
)
def test_errors_say_what_was_expected_before_the_first_batch(call, words):
    with pytest.raises(ValueError, match=words):
        call()
