"""The motion set: seeded by index, exact reversals, visible motion, and no way to tell a pair apart without order."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from minirsa.data.motion import (
    _GLOBAL,
    _SLOT,
    APPEARANCES,
    LABELS,
    MotionConfig,
    MotionSet,
    _scene,
    reverse,
    reverse_label,
)

CLEAN = MotionConfig(noise=0.0)


def centres(clip):
    """Centre (y, x) of what is bright in each frame of (3, T, H, W), in pixels: (T, 2)."""
    brightness = clip.mean(0)
    weight = (brightness - brightness.median() - 0.2).clamp(min=0) + 1e-9
    total = weight.sum((1, 2))
    rows = (weight.sum(2) * torch.arange(clip.shape[2])).sum(1) / total
    columns = (weight.sum(1) * torch.arange(clip.shape[3])).sum(1) / total
    return torch.stack([rows, columns], 1)


def area(clip):
    """Share of each frame that is bright: (T,)."""
    brightness = clip.mean(0)
    return (brightness > brightness.median() + 0.25).float().mean((1, 2))


def items_of(label, count, config=CLEAN, seed=0):
    indices = [label + 12 * i for i in range(count)]
    return MotionSet(12 * count, config, seed=seed).batch(indices)[0]


def test_labels_are_twelve_in_pairs():
    assert len(LABELS) == len(set(LABELS)) == 12
    assert [reverse_label(i) for i in range(12)] == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10]
    assert LABELS[reverse_label(LABELS.index("covering something with something"))] == "uncovering something"
    with pytest.raises(ValueError, match="0 to 11"):
        reverse_label(12)


def test_shapes_types_and_balance():
    items = MotionSet(30, MotionConfig(height=20, width=28, frames=5), seed=1)
    clip, label = items[25]
    assert clip.shape == (3, 5, 20, 28)
    assert clip.dtype == torch.float32
    assert 0 <= clip.min() < clip.max() <= 1
    assert label == items.label(25) == 1
    clips, labels = items.batch(range(24))
    assert clips.shape == (24, 3, 5, 20, 28)
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [2] * 12
    assert len(list(items)) == len(items) == 30
    assert items.batch([])[0].shape == (0, 3, 5, 20, 28)


def test_an_item_depends_on_seed_and_index_alone():
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    items = MotionSet(1000, seed=5)
    alone, label = items[77]
    batch, labels = items.batch([3, 77, 500])
    torch.testing.assert_close(batch[1], alone)
    assert label == labels[1]
    torch.testing.assert_close(MotionSet(78, seed=5)[77][0], alone)
    assert (MotionSet(1000, seed=6)[77][0] - alone).abs().mean() > 0.05
    assert (items[77 + 12][0] - alone).abs().mean() > 0.05
    assert torch.equal(state, torch.random.get_rng_state())


def test_items_are_the_same_on_every_machine():
    """Values measured once, on Linux x86_64 with torch 2.13."""
    clips, _ = MotionSet(1000, seed=7).batch([0, 7, 123, 999])
    torch.testing.assert_close(clips.mean((1, 2, 3, 4)), torch.tensor(EXPECTED_MEANS), atol=2e-5, rtol=0)
    torch.testing.assert_close(clips[:, 1, 3, 10, 20], torch.tensor(EXPECTED_VALUES), atol=1e-4, rtol=0)


EXPECTED_MEANS = [0.355896, 0.402680, 0.322569, 0.319510]
EXPECTED_VALUES = [0.581959, 0.769258, 0.334972, 0.365522]


def test_under_the_other_label_of_its_pair_an_item_is_its_reversal():
    """The whole argument: nothing but the order of the frames is different, whatever the knobs."""
    for config in (
        MotionConfig(),
        MotionConfig(distractors=2, camouflage=True, frames=7),
        MotionConfig(appearance="flicker", noise=0.05),
    ):
        items = MotionSet(48, config, seed=2)
        clips, labels = items.batch(range(48))
        others, other_labels = items.batch(range(48), labels=labels ^ 1)
        assert torch.equal(other_labels, labels ^ 1)
        assert torch.equal(others, reverse(clips))
        assert (others - clips).abs().mean((1, 2, 3, 4)).min() > 0.004


@pytest.mark.parametrize(("label", "axis"), [(0, 0), (2, 1)])
def test_things_go_where_the_label_says_from_random_starts_to_random_ends(label, axis):
    paths = torch.stack([centres(clip) for clip in items_of(label, 40)])  # (40, T, 2)
    ways = paths[:, -1] - paths[:, 0]
    assert (ways[:, axis] > 5).float().mean() > 0.95
    assert (ways[:, 1 - axis].abs() < ways[:, axis]).float().mean() > 0.95
    assert paths[:, 0, axis].std() > 1.5
    assert paths[:, -1, axis].std() > 1.5
    assert paths[:, 0, 1 - axis].std() > 3


def test_things_that_come_nearer_grow_and_stay_where_they_are():
    clips = items_of(4, 40)
    growth = torch.stack([area(clip)[-1] / area(clip)[0].clamp(min=1e-3) for clip in clips])
    assert (growth > 3).float().mean() > 0.85


def angle_of(clip):
    """Direction of the long axis of what is bright in each frame, in radians clockwise, modulo pi: (T,)."""
    brightness = clip.mean(0)
    weight = (brightness - brightness.median() - 0.2).clamp(min=0)
    y, x = torch.meshgrid(torch.arange(clip.shape[2]).float(), torch.arange(clip.shape[3]).float(), indexing="ij")
    total = weight.sum((1, 2)) + 1e-9
    dy = y - ((weight * y).sum((1, 2)) / total)[:, None, None]
    dx = x - ((weight * x).sum((1, 2)) / total)[:, None, None]
    xx, yy, xy = ((weight * p).sum((1, 2)) / total for p in (dx * dx, dy * dy, dx * dy))
    return 0.5 * torch.atan2(2 * xy, xx - yy)


def test_clockwise_is_clockwise_on_the_screen():
    right = 0
    clips = items_of(6, 40, replace(CLEAN, height=48, width=48, frames=12))
    for clip in clips:
        steps = angle_of(clip).diff()
        steps = torch.remainder(steps + torch.pi / 2, torch.pi) - torch.pi / 2  # the axis has no head and tail
        right += int((steps > 0).float().mean() > 0.5)
    assert right >= 34  # a thing of round outline shows its turning by its texture only


def test_two_things_come_closer_and_do_not_meet():
    items = MotionSet(12 * 40, CLEAN)
    uniforms, _ = items._draw([8 + 12 * i for i in range(40)])
    from minirsa.data.motion import _scene

    scene = _scene(uniforms, torch.full((40,), 4), CLEAN)
    apart = (scene["centre"][:, 0] - scene["centre"][:, 1]).norm(dim=1)  # (40, start and end)
    reach = scene["radius"][:, 0, 0] + scene["radius"][:, 1, 0]
    assert (apart[:, 0] - apart[:, 1]).min() > 0.5
    assert (apart[:, 1] > reach).all()
    assert (scene["centre"].diff(dim=3).norm(dim=2) > 0.2).all()  # both move


def test_covering_ends_with_one_thing_hidden():
    """Measured in the frames: nothing but the tip of a corner is left to see of the first thing, and it stays so."""
    items = MotionSet(12 * 40, CLEAN)
    positions = [10 + 12 * i for i in range(40)]
    clips, _ = items.batch(positions)
    uniforms, noise = items._draw(positions)
    from minirsa.data.motion import _render, _scene

    scene = _scene(uniforms, torch.full((40,), 5), CLEAN)
    scene["shown"][:, 0] = 0.0  # without the first thing
    alone = _render(scene, noise, CLEAN)
    difference = (clips - alone).abs().amax(1).flatten(2)  # (40, T, H*W): where the first thing is seen
    seen = (difference > 0.05).float().mean(2)
    assert (seen[:, 0] > 0.01).float().mean() > 0.9
    for t in (-1, -2):
        assert (seen[:, t] < 0.25 * seen[:, 0]).float().mean() > 0.9
        assert seen[:, t].median() == 0


def test_a_scene_does_not_depend_on_resolution_or_frame_rate():
    indices = range(12)
    small = MotionSet(12, replace(CLEAN, height=24, width=32, frames=4), seed=9).batch(indices)[0]
    large = MotionSet(12, replace(CLEAN, height=96, width=128, frames=20), seed=9).batch(indices)[0]
    shrunk = nn.functional.avg_pool3d(large[:, :, 2::5], (1, 4, 4))
    assert (shrunk - small).abs().mean() < 0.01
    assert (shrunk - reverse(small)).abs().mean() > 0.03


def test_knobs_do_what_they_say():
    def rendered(**knobs):
        return MotionSet(24, replace(CLEAN, **knobs), seed=4).batch(range(24))[0]

    plain = rendered()
    assert torch.equal(rendered(), plain)
    noisy = rendered(noise=0.1)
    inside = (plain > 0.35) & (plain < 0.65)
    assert (noisy - plain)[inside].std() == pytest.approx(0.1, abs=0.005)
    grey = rendered(appearance="grey")
    assert torch.equal(grey[:, 0], grey[:, 2])
    torch.testing.assert_close(grey[:, 0], plain.mean(1))
    torch.testing.assert_close(rendered(appearance="low_contrast"), 0.5 + 0.3 * (plain - 0.5))
    brightness = rendered(appearance="flicker").mean((1, 3, 4)) / plain.mean((1, 3, 4))
    assert brightness.std(1).min() > 0.1

    def detail(clips):
        return (clips[..., 1:] - clips[..., :-1]).abs().mean()

    assert detail(plain) * 1.3 < detail(rendered(appearance="fine")) * 1.0
    assert detail(rendered(contrast=0.0)) < detail(plain) < detail(rendered(contrast=2.0))
    assert (rendered(distractors=3) - plain).abs().mean() > 0.01
    hidden = rendered(camouflage=True)
    # a still frame's colours say little about where the thing is: its brightest part is no longer the thing
    assert (
        torch.stack([centres(c).std(0).sum() for c in hidden]).mean()
        < 0.6 * torch.stack([centres(c).std(0).sum() for c in plain]).mean()
    )
    slow, fast = (torch.stack([centres(c)[-1] - centres(c)[0] for c in items_of(0, 20, replace(CLEAN, speed=v))])
                  for v in (0.5, 1.0))  # fmt: skip
    assert slow[:, 0].mean() == pytest.approx(0.5 * fast[:, 0].mean(), rel=0.25)


def test_distractors_leave_the_rest_of_the_scene_alone_and_have_no_favourite_direction():
    from minirsa.data.motion import _scene

    items = MotionSet(12 * 60, replace(CLEAN, distractors=2))
    uniforms, _ = items._draw(list(range(12 * 60)))
    pair = torch.arange(12 * 60) % 12 // 2
    scene = _scene(uniforms, pair, items.config)
    plain = _scene(MotionSet(12 * 60, CLEAN)._draw(list(range(12 * 60)))[0], pair, CLEAN)
    for name in ("centre", "radius", "colour", "phase"):
        torch.testing.assert_close(scene[name][:, 2:], plain[name])
    ways = scene["centre"][:, :2].diff(dim=3).squeeze(3).flatten(0, 1)  # (1440, 2)
    assert (ways.mean(0).abs() < 0.06).all()
    assert (ways.norm(dim=1) > 0.25).all()


def test_every_appearance_can_be_drawn():
    for appearance in APPEARANCES:
        clips, _ = MotionSet(2, MotionConfig(appearance=appearance)).batch([0, 1])
        assert torch.isfinite(clips).all()


@pytest.mark.parametrize(
    "knobs",
    [
        {"height": 0},
        {"speed": 0.0},
        {"distractors": -1},
        {"noise": -0.1},
        {"frequencies": (2.0, 1.0)},
        {"appearance": "blue"},
        *({name: value} for name in ("speed", "noise", "contrast") for value in (float("nan"), float("inf"))),
        {"distractors": float("nan")},
        {"frequencies": (float("nan"), 2.0)},
        {"frequencies": (0.6, float("nan"))},
        {"frequencies": (0.6, float("inf"))},
    ],
)
def test_impossible_settings_are_refused(knobs):
    with pytest.raises(ValueError, match="expected"):
        MotionConfig(**knobs)


@pytest.mark.parametrize("size", [(64, 14), (64, 22), (64, 29), (1000, 455), (12, 5)])
def test_frames_too_narrow_for_motion_across_are_refused(size):
    with pytest.raises(ValueError, match=r"a width of at least 0\.456 of the height"):
        MotionConfig(height=size[0], width=size[1])


@pytest.mark.parametrize("size", [(1000, 456), (64, 30)])
def test_in_the_narrowest_frame_things_still_go_where_the_label_says(size):
    """In scene coordinates: from start to end a thing goes further along its label's axis than it drifts aside."""
    config = MotionConfig(height=size[0], width=size[1])
    uniforms = torch.rand(4000, _GLOBAL + 2 * _SLOT, generator=torch.Generator().manual_seed(0))
    for pair, axis in ((0, 0), (1, 1)):
        centre = _scene(uniforms, torch.full((4000,), pair), config)["centre"][:, 0]  # (B, 2, 2): (y, x), end
        way = centre[..., 1] - centre[..., 0]
        assert (way[:, axis] > way[:, 1 - axis].abs()).all()
    items = MotionSet(12 * 10, replace(config, height=64, width=30, noise=0.0))
    clips, _ = items.batch([12 * i + 2 for i in range(10)])
    assert all(centres(clip)[-1, 1] > centres(clip)[0, 1] for clip in clips)


def test_what_is_outside_the_set_is_refused():
    items = MotionSet(5)
    with pytest.raises(IndexError, match="index 5 is outside a set of 5 clips"):
        items[5]
    assert torch.equal(items[-1][0], items[4][0])
    with pytest.raises(ValueError, match="3 labels from 0 to 11"):
        items.batch([0, 1, 2], labels=[0, 1, 12])
    with pytest.raises(ValueError, match="seed"):
        MotionSet(5, seed=-1)
    with pytest.raises(ValueError, match=r"\(\.\.\., C, T, H, W\)"):
        reverse(torch.zeros(8, 32, 32))


def convolutions(depth):
    """Three convolutions over (B, 3, T, H, W), ``depth`` frames deep, then the mean: logits (B, 12)."""
    layers = []
    for channels, out in ((3, 16), (16, 32), (32, 64)):
        conv = nn.Conv3d(channels, out, (depth, 3, 3), (1, 2, 2), (depth // 2, 1, 1), bias=False)
        layers += [conv, nn.BatchNorm3d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(64, 12))


def any_frame(clips, generator):
    """One random frame of each clip."""
    frames = torch.randint(clips.shape[2], (len(clips),), generator=generator)
    return clips[torch.arange(len(clips)), :, frames][:, :, None]


def any_order(clips, generator):
    """The frames of each clip in a random order of its own."""
    order = torch.rand(len(clips), clips.shape[2], generator=generator).argsort(1)
    return torch.stack([clip[:, o] for clip, o in zip(clips, order)])


def in_order(clips, generator):
    return clips


def trained_within_pairs(view, depth, steps=240):
    """Share of test clips whose pair's right member gets the higher score, and share whose pair is found."""
    config = MotionConfig(height=24, width=24, noise=0.01)
    train, test = MotionSet(10**6, config, seed=1), MotionSet(960, config, seed=2)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = convolutions(depth)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    for _ in range(steps):
        clips, labels = train.batch(torch.randint(len(train), (16,), generator=generator))
        loss = nn.functional.cross_entropy(net(view(clips, generator) - 0.5), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        clips, labels = test.batch(range(len(test)))
        scores = net(view(clips, generator) - 0.5)
    own = scores.gather(1, labels[:, None])
    other = scores.gather(1, (labels ^ 1)[:, None])
    return float((own > other).float().mean()), float((scores.argmax(1) // 2 == labels // 2).float().mean())


@pytest.mark.parametrize(
    ("view", "depth"), [(any_frame, 1), (in_order, 1), (any_order, 3)], ids=["one frame", "frame by frame", "shuffled"]
)
def test_a_trained_net_without_order_stays_at_chance_within_each_pair(view, depth):
    within, pair = trained_within_pairs(view, depth)
    assert abs(within - 0.5) < 0.065  # four standard errors of 960 tosses of a coin
    assert pair > 1 / 6 + 0.06  # it has learned something: which pair a clip belongs to


def test_a_trained_net_that_sees_order_tells_the_pairs_apart():
    """The same test would notice a leak: here it notices order."""
    within, pair = trained_within_pairs(in_order, 3)
    assert within > 0.85
    assert pair > 0.6
