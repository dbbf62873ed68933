"""Which frames are read: published formulas at test time, one frame a segment in training, short videos."""

from itertools import pairwise

import pytest
import torch

from minirsa.data.sampling import dense_indices, segment_indices


@pytest.mark.parametrize("num_frames", [1, 8, 16])
@pytest.mark.parametrize("length", [1, 3, 7, 8, 16, 48, 56, 117])
def test_test_time_follows_the_published_formulas(length, num_frames):
    tick = length / num_frames
    assert segment_indices(length, num_frames) == [int(tick / 2 + tick * i) for i in range(num_frames)]
    assert segment_indices(length, num_frames, clip=1) == [int(tick * i) for i in range(num_frames)]


def test_written_out():
    assert segment_indices(56, 8) == [3, 10, 17, 24, 31, 38, 45, 52]
    assert segment_indices(56, 8, clip=1) == [0, 7, 14, 21, 28, 35, 42, 49]
    assert segment_indices(8, 8) == segment_indices(8, 8, clip=1) == list(range(8))
    assert segment_indices(3, 8) == [0, 0, 0, 1, 1, 2, 2, 2]
    assert segment_indices(1, 8) == [0] * 8
    assert segment_indices(9, 1) == [4]


def test_training_draws_within_each_segment_and_reaches_all_of_it():
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([segment_indices(48, 8, generator=generator) for _ in range(400)])
    for i in range(8):
        assert sorted(set(draws[:, i].tolist())) == list(range(6 * i, 6 * i + 6))


@pytest.mark.parametrize("length", [1, 5, 8, 11, 48])
def test_training_indices_are_in_order_and_inside(length):
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        indices = segment_indices(length, 8, generator=generator)
        assert indices == sorted(indices)
        assert 0 <= indices[0] <= indices[-1] < length
        assert len(indices) == 8
    if length == 8:
        assert indices == list(range(8))


def test_a_generator_decides_and_nothing_else():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    one = segment_indices(50, 8, generator=torch.Generator().manual_seed(3))
    assert one == segment_indices(50, 8, generator=torch.Generator().manual_seed(3))
    assert one != segment_indices(50, 8, generator=torch.Generator().manual_seed(4))
    assert dense_indices(50, 4, 3, generator=torch.Generator().manual_seed(3)) == dense_indices(
        50, 4, 3, generator=torch.Generator().manual_seed(3)
    )
    assert torch.equal(before, torch.random.get_rng_state())


def test_dense_window_lies_in_the_middle_at_test_time_and_anywhere_in_training():
    assert dense_indices(20, 4, 3) == [5, 8, 11, 14]
    generator = torch.Generator().manual_seed(0)
    starts = set()
    for _ in range(300):
        indices = dense_indices(20, 4, 3, generator=generator)
        assert [b - a for a, b in pairwise(indices)] == [3, 3, 3]
        starts.add(indices[0])
    assert starts == set(range(11))


def test_dense_window_longer_than_the_video_repeats_its_last_frame():
    assert dense_indices(5, 4, 2) == [0, 2, 4, 4]
    assert dense_indices(7, 4, 2) == [0, 2, 4, 6]
    assert dense_indices(1, 4, 2, generator=torch.Generator()) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: segment_indices(0, 8),
        lambda: segment_indices(8, 0),
        lambda: segment_indices(8, 8, clip=2),
        lambda: dense_indices(0, 8, 1),
        lambda: dense_indices(8, 8, 0),
    ],
)
def test_impossible_requests_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()
