"""Noise by hashing: uniform, independent between places and seeds, and the same whatever it is drawn with."""

from dataclasses import replace

import pytest
import torch

from minirsa.data.motion import MotionConfig, MotionSet, reverse
from minirsa.data.noise import hashed_noise


def test_it_is_uniform_with_mean_0_and_variance_1():
    noise = hashed_noise([0, 1, 2**32 - 1], (3, 8, 64, 64)).double().flatten(1)
    assert noise.mean(1).abs().max() < 0.01
    assert (noise.var(1) - 1).abs().max() < 0.01
    assert noise.abs().max() <= 3**0.5 + 1e-6
    share = torch.histc(noise, 64) / noise.numel() * 64
    assert (share - 1).abs().max() < 0.05


def test_places_and_seeds_have_nothing_in_common():
    noise = hashed_noise([5, 6, 7, 5 ^ 1, 65536 + 5, 2**31 + 5], (8, 64, 64)).double()
    flat = noise.flatten(1)
    others = torch.corrcoef(flat) - torch.eye(6)
    assert others.abs().max() < 0.03
    for lag in (1, 2, 64, 128, 4096):
        assert (flat[:, :-lag] * flat[:, lag:]).mean(1).abs().max() < 0.03
    shifted = [(flat[0, :-s] * flat[1, s:]).mean().abs() for s in (1, 2, 3)]
    assert max(shifted) < 0.03
    power = torch.fft.rfft2(noise[0]).abs().square() / 64**2
    assert power[:, 1:].max() < 25  # no hidden pattern: exponential with mean 1, 16,000 of them


def test_a_block_depends_on_its_seed_alone():
    together = hashed_noise([3, 4, 5], (2, 100_000))
    torch.testing.assert_close(together[1:2], hashed_noise([4], (2, 100_000)), rtol=0, atol=0)


def test_the_first_values_stay_what_they_are():
    """Runs are to be made again years later: the noise may not change."""
    values = hashed_noise([0, 123456789], (4,))
    expected = torch.tensor(
        [[-1.7320507, -0.0678869, 1.2970195, 1.5487613], [0.2030060, 0.9540869, 1.0630030, 0.4313188]]
    )
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)


def test_seeds_that_are_no_32_bits_are_refused():
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match="seeds from 0 to 4294967295"):
            hashed_noise([seed], (3,))


def test_a_motion_set_with_hashed_noise_differs_in_the_noise_alone():
    size = {"height": 16, "width": 16, "frames": 4, "noise": 0.05}
    for config in (MotionConfig(**size), MotionConfig(**size, appearance="flicker", distractors=1)):
        clean = MotionSet(24, replace(config, noise=0.0), seed=3).batch(range(24))[0]
        drawn = MotionSet(24, config, seed=3).batch(range(24))[0] - clean
        hashed = MotionSet(24, config, seed=3, hashed_noise=True).batch(range(24))[0] - clean
        assert not torch.equal(drawn, hashed)
        inner = (clean > 0.1) & (clean < 0.9)
        assert abs(hashed[inner].std() - 0.05) < 0.001
        assert abs(drawn[inner].std() - hashed[inner].std()) < 0.001


def test_backwards_with_the_other_label_is_the_same_clip_turned_round():
    clips = MotionSet(24, MotionConfig(height=16, width=16, noise=0.1), seed=3, hashed_noise=True)
    forwards, _ = clips.batch([6], labels=[6])
    backwards, _ = clips.batch([6], labels=[7])
    torch.testing.assert_close(backwards, reverse(forwards), rtol=0, atol=0)
