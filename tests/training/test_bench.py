"""What `minirsa bench` measures; how fast it is here is nobody's business in a test."""

import pytest
import torch

from minirsa import complexity
from minirsa.training.bench import Speed, measure
from minirsa.training.engine import build_model

from .conftest import tiny


def test_counts_are_those_of_the_net_and_rates_are_measured():
    recipe = tiny(accumulation=2, data_options={"noise": 0.0})
    speed = measure(recipe, steps=1, warmup=1, device="cpu")
    counted = complexity.measure(build_model(recipe), torch.empty(1, 3, 4, 12, 12))
    assert (speed.params, speed.macs) == (counted.params, counted.macs)
    assert speed.clips == 3 * 48
    assert speed.training == pytest.approx(8 / speed.step_s)
    assert min(speed.inference, speed.training, speed.data) > 0


def test_hours_follow_the_slower_of_net_and_data():
    speed = Speed(1, 1, inference=50.0, training=10.0, step_s=0.1, memory_mib=None, data=5.0, clips=36_000)
    assert speed.hours == pytest.approx(2)
    assert Speed(1, 1, 50.0, 10.0, 0.1, None, 100.0, 36_000).hours == pytest.approx(1)
    assert Speed(1, 1, 50.0, 10.0, 0.1, None, None, None).hours is None


def test_data_are_not_measured_without_their_folder():
    recipe = tiny(data="clips", classes=2, epoch_clips=0, validation_clips=0)
    speed = measure(recipe, steps=1, warmup=0, device="cpu")
    assert (speed.data, speed.clips, speed.hours) == (None, None, None)


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="expected at least 1 step"):
        measure(tiny(), steps=0)
