"""Transforms: shapes, one draw for all frames, and flips that know their labels."""

import numpy as np
import pytest
import torch

from minirsa.data.motion import LABELS
from minirsa.data.transforms import (
    CenterCrop,
    Compose,
    Flip,
    MultiScaleCrop,
    Normalize,
    Resize,
    mirror_labels,
    reversed_labels,
    to_tensor,
)

SOMETHING = (
    "Pushing [something] from left to right",
    "Pushing [something] from right to left",
    "Pulling something from left to right",
    "Pulling something from right to left",
    "Turning the camera left while filming something",
    "Turning the camera right while filming something",
    "Putting something upright on the table",
    "Moving something down",
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ramp(height=24, width=32, frames=3):
    """A clip whose value tells the column, and whose second channel tells the row."""
    clip = torch.zeros(3, frames, height, width)
    clip[0] = torch.arange(width).float() / width
    clip[1] = torch.arange(height).float()[:, None] / height
    clip[2] = torch.arange(frames).float()[:, None, None]
    return clip


def test_to_tensor_moves_channels_first_and_scales():
    frames = np.zeros((2, 4, 6, 3), np.uint8)
    frames[1, 2, 5] = (255, 51, 0)
    clip = to_tensor(frames)
    assert clip.shape == (3, 2, 4, 6)
    assert clip.dtype == torch.float32
    torch.testing.assert_close(clip[:, 1, 2, 5], torch.tensor([1.0, 0.2, 0.0]))
    assert clip.is_contiguous()
    assert clip.sum() == pytest.approx(1.2)


def test_to_tensor_takes_frames_that_numpy_reads_backwards():
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    forwards = to_tensor(frames)
    assert torch.equal(to_tensor(frames[::-1]), forwards.flip(1))
    assert torch.equal(to_tensor(frames[:, :, ::-1]), forwards.flip(3))
    assert torch.equal(to_tensor(frames[..., ::-1]), forwards.flip(0))


@pytest.mark.parametrize("bad", [np.zeros((2, 4, 6, 3), np.float32), np.zeros((4, 6, 3), np.uint8)])
def test_to_tensor_refuses_what_read_clip_does_not_give(bad):
    with pytest.raises(ValueError, match=r"expected uint8 frames \(T, H, W, 3\)"):
        to_tensor(bad)


def test_resize_keeps_the_aspect_ratio_or_takes_both_sides():
    assert Resize(12)(ramp(24, 32))[0].shape == (3, 3, 12, 16)
    assert Resize(12)(ramp(32, 24))[0].shape == (3, 3, 16, 12)
    assert Resize((10, 11))(ramp())[0].shape == (3, 3, 10, 11)
    assert Resize(48)(ramp(24, 32))[0].shape == (3, 3, 48, 64)


def test_resize_averages_when_it_shrinks():
    stripes = (torch.arange(32) % 8 < 4).float()
    stripes[::8] = 9.0  # one column in eight: a sample now and then would miss it, an average does not
    clip = stripes.expand(3, 2, 32, 32)
    small = Resize(4)(clip)[0][..., 1:-1]
    torch.testing.assert_close(small, torch.full_like(small, (9 + 3) / 8), atol=0.2, rtol=0)


def test_centre_crop_takes_the_middle_and_refuses_what_is_too_small():
    clip, label = CenterCrop(8)(ramp(), 4)
    assert label == 4
    torch.testing.assert_close(clip, ramp()[:, :, 8:16, 12:20])
    assert CenterCrop((6, 30))(ramp())[0].shape == (3, 3, 6, 30)
    with pytest.raises(ValueError, match="at least 25 x 25 to crop, got 24 x 32"):
        CenterCrop(25)(ramp())


@pytest.mark.parametrize("transform", [Resize, CenterCrop, MultiScaleCrop])
def test_sizes_come_as_a_number_a_tuple_or_a_list(transform):
    for size in ((8, 10), [8, 10], torch.Size([8, 10]), (np.int64(8), 10)):
        assert transform(size)(ramp(), generator=seeded())[0].shape == (3, 3, 8, 10)
    assert transform(np.int64(9))(ramp(27, 27), generator=seeded())[0].shape == (3, 3, 9, 9)
    for bad in (-4, 0, (8, 0), [8, -8], [8], (8, 8, 8), 8.0, (8, 4.5), "8", None):
        with pytest.raises(ValueError, match=r"expected a size of at least 1, a whole number or \(height, width\)"):
            transform(bad)


def test_multi_scale_crop_draws_windows_of_the_listed_scales_inside_the_frame():
    crop = MultiScaleCrop(16)
    generator = seeded()
    windows = {crop.draw(100, 140, generator=generator) for _ in range(4000)}
    sizes = {(h, w) for _, _, h, w in windows}
    steps = (100, 87, 75, 66)
    assert sizes == {(a, b) for i, a in enumerate(steps) for j, b in enumerate(steps) if abs(i - j) <= 1}
    assert all(0 <= top <= 100 - h and 0 <= left <= 140 - w for top, left, h, w in windows)
    assert len({(top, left) for top, left, h, w in windows if (h, w) == (75, 75)}) == 13
    assert {(0, 0), (25, 65), (0, 65), (12, 32)} <= {(top, left) for top, left, h, w in windows if (h, w) == (75, 75)}


def test_multi_scale_crop_is_one_window_for_all_frames():
    clip = ramp(frames=4)
    clip[2] = 0
    cropped, _ = MultiScaleCrop(16)(clip, generator=seeded())
    assert cropped.shape == (3, 4, 16, 16)
    for t in range(1, 4):
        assert torch.equal(cropped[:, t], cropped[:, 0])
    assert not torch.equal(cropped, MultiScaleCrop(16)(clip, generator=seeded(5))[0])


def test_normalise_gives_zero_mean_and_unit_deviation():
    clip = torch.rand(3, 4, 16, 16, generator=seeded())
    mean, std = clip.mean((1, 2, 3)).tolist(), clip.std((1, 2, 3)).tolist()
    clip, _ = Normalize(mean, std)(clip)
    torch.testing.assert_close(clip.mean((1, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.std((1, 2, 3)), torch.ones(3))
    white, _ = Normalize()(torch.ones(3, 1, 1, 1))
    torch.testing.assert_close(white.flatten(), torch.tensor([2.24891, 2.42857, 2.64]), atol=1e-4, rtol=0)


def test_partners_come_from_the_texts_of_something_something():
    assert mirror_labels(SOMETHING) == [1, 0, 3, 2, 5, 4, 6, 7]
    shuffled = [SOMETHING[i] for i in (4, 0, 6, 3, 1, 5, 7, 2)]  # another order, other numbers
    partners = mirror_labels(shuffled)
    assert [shuffled[p] for p in partners] == [
        SOMETHING[mirror_labels(SOMETHING)[SOMETHING.index(t)]] for t in shuffled
    ]


def test_turning_clockwise_mirrors_to_counterclockwise_in_every_spelling():
    for other in ("turning something counterclockwise", "Turning something counter-clockwise", "turning anticlockwise"):
        words = "turning clockwise" if "anti" in other else "turning something clockwise"
        assert mirror_labels([words, "moving up", other]) == [2, 1, 0]


def test_partners_of_the_motion_set():
    assert mirror_labels(LABELS) == [0, 1, 3, 2, 4, 5, 7, 6, 8, 9, 10, 11]


def test_a_sided_label_without_its_mirror_image_has_no_partner():
    assert mirror_labels(["Pushing something from left to right", "Dropping something"]) == [None, 1]


@pytest.mark.parametrize("partners", [mirror_labels, reversed_labels])
def test_two_equal_texts_are_refused(partners):
    with pytest.raises(ValueError, match="'moving something' twice"):
        partners(["Moving something", "moving [something]"])


OPPOSITES = [
    ("Approaching something with your camera", "Moving away from something with your camera"),
    ("Closing something", "Opening something"),
    ("Covering something with something", "Uncovering something"),
    ("Folding something", "Unfolding something"),
    ("Moving [something] down", "Moving [something] up"),
    ("Moving something and something closer to each other", "Moving something and something away from each other"),
    ("Moving something away from the camera", "Moving something towards the camera"),
    ("Moving something away from something", "Moving something closer to something"),
    ("Pulling something from left to right", "Pushing something from right to left"),
    ("Pulling something from right to left", "Pushing something from left to right"),
    ("Putting something into something", "Taking something out of something"),
    ("Turning the camera left", "Turning the camera right"),
    ("Turning the camera downwards", "Turning the camera upwards"),
]
ALONE = [
    "Pushing something onto something",
    "Pulling something onto something",
    "Lifting something up completely, then letting it drop down",
    "Picking something up",
    "Putting something upright on the table",
    "Dropping something into something",
]


def test_opposites_of_something_something_are_found_in_any_order():
    texts = [text for pair in OPPOSITES for text in pair] + ALONE
    order = torch.randperm(len(texts), generator=seeded()).tolist()
    shuffled = [texts[i] for i in order]
    partners = dict(zip(shuffled, reversed_labels(shuffled)))
    for one, other in OPPOSITES:
        assert shuffled[partners[one]] == other
        assert shuffled[partners[other]] == one
    assert [partners[text] for text in ALONE] == [None] * len(ALONE)


def test_opposites_of_the_motion_set_are_its_pairs():
    assert reversed_labels(LABELS) == [label ^ 1 for label in range(len(LABELS))]


def test_an_opposite_that_has_another_partner_is_none():
    assert reversed_labels(["Going away from it", "Going towards it", "Going closer to it"]) == [2, None, 0]


@pytest.mark.parametrize("policy", ["skip", "swap"])
def test_flip_policies(policy):
    flip = Flip(mirror_labels(SOMETHING), policy, p=1.0)
    clip = ramp()
    mirrored, label = flip(clip, 7, generator=seeded())  # down stays down
    assert label == 7
    assert torch.equal(mirrored, clip.flip(-1))
    sided, label = flip(clip, 0, generator=seeded())
    if policy == "skip":
        assert label == 0
        assert torch.equal(sided, clip)
    else:
        assert label == 1
        assert torch.equal(sided, clip.flip(-1))


def test_swapped_flip_of_a_motion_clip_shows_the_motion_of_its_new_label():
    """A thing going right, mirrored, goes left: measured on the clip, not read from the text."""
    from minirsa.data.motion import MotionConfig, MotionSet

    def drift(clip):
        """How far the bright thing's centre goes from the first to the last frame, in pixels to the right."""
        brightness = clip.mean(0)
        weight = (brightness - brightness.median()).clamp(min=0.25) - 0.25  # (T, H, W)
        columns = (weight.sum(1) * torch.arange(clip.shape[-1])).sum(-1) / weight.sum((1, 2))
        return float(columns[-1] - columns[0])

    items = MotionSet(36, MotionConfig(noise=0.0), seed=3)
    flip = Flip(mirror_labels(LABELS), "swap", p=1.0)
    for index in (2, 14, 26):
        clip, label = items[index]
        mirrored, new = flip(clip, label, generator=seeded())
        assert (LABELS[label], LABELS[new]) == (LABELS[2], LABELS[3])
        assert drift(clip) > 3
        assert drift(mirrored) < -3


@pytest.mark.parametrize("policy", ["skip", "swap"])
def test_flip_never_mirrors_without_a_partner_and_mirrors_about_half_of_the_rest(policy):
    flip = Flip([None, 1], policy)
    generator = seeded()
    clip = ramp(4, 4, 1)
    assert all(torch.equal(flip(clip, 0, generator=generator)[0], clip) for _ in range(50))
    flips = sum(not torch.equal(flip(clip, 1, generator=generator)[0], clip) for _ in range(400))
    assert 150 < flips < 250


def test_flip_needs_a_label_and_draws_need_a_generator():
    with pytest.raises(ValueError, match="label"):
        Flip([0])(ramp(), generator=seeded())
    with pytest.raises(ValueError, match="generator"):
        Flip([0])(ramp(), 0)
    with pytest.raises(ValueError, match="generator"):
        MultiScaleCrop(8)(ramp())
    with pytest.raises(ValueError, match="policy"):
        Flip([0], "sometimes")


def test_compose_hands_label_and_generator_through_and_repeats_itself():
    train = Compose([Resize(20), MultiScaleCrop(16), Flip(mirror_labels(LABELS), "swap"), Normalize()])
    draws = [train(ramp(), 2, generator=seeded(seed)) for seed in (1, 1, 2, 3, 4)]
    assert torch.equal(draws[0][0], draws[1][0])
    assert draws[0][1] == draws[1][1]
    assert {label for _, label in draws} == {2, 3}
    assert all(clip.shape == (3, 3, 16, 16) for clip, _ in draws)
    test = Compose([Resize(20), CenterCrop(16), Normalize()])
    assert test(ramp())[1] is None


@pytest.mark.parametrize("transform", [Resize(8), CenterCrop(4), Normalize(), MultiScaleCrop(4), Flip([0])])
@pytest.mark.parametrize("bad", [torch.zeros(3, 24, 32), torch.zeros(8, 3, 24, 32), torch.zeros(3, 2, 24, 32).byte()])
def test_wrong_shapes_and_types_are_refused(transform, bad):
    with pytest.raises(ValueError, match=r"expected a float clip \(3, T, H, W\), got torch"):
        transform(bad, 0, generator=seeded())
