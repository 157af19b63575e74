import numpy as np
import pytest
import torch

from mamoe.evaluation.intervals import (
    bootstrap_counts,
    deviation_of_linear,
    interval_around,
    interval_of_mean,
    interval_over_seeds,
    student_t,
)
from mamoe.evaluation.protocol import Over
from mamoe.randomness import generator_for

VALUES = torch.rand(200, generator=generator_for(0, "values"), dtype=torch.float64)


def test_interval_of_a_mean_is_the_normal_one():
    interval = interval_of_mean(VALUES)
    half = 1.96 * float(VALUES.std()) / len(VALUES) ** 0.5
    assert interval is not None and interval.over is Over.IMAGES
    assert interval.low == pytest.approx(float(VALUES.mean()) - half, abs=0.2 * half)
    assert interval.high == pytest.approx(float(VALUES.mean()) + half, abs=0.2 * half)


def test_same_seed_same_interval():
    assert interval_of_mean(VALUES, seed=3) == interval_of_mean(VALUES, seed=3) != interval_of_mean(VALUES, seed=4)


def test_one_picture_has_no_interval():
    assert interval_of_mean(VALUES[:1]) is None and interval_over_seeds([1.0]) is None


def test_nineteen_of_twenty_intervals_hold_the_mean():
    held = 0
    for seed in range(200):
        sample = torch.rand(60, generator=generator_for(seed, "sample"), dtype=torch.float64)
        interval = interval_of_mean(sample, seed=seed)
        assert interval is not None
        held += interval.low <= 0.5 <= interval.high
    assert 180 <= held <= 198


def test_counts_are_whole_draws():
    counts = bootstrap_counts(50, seed=0, replicates=400)
    assert (counts.sum(1) == 50).all() and counts.mean(0) == pytest.approx(torch.ones(50), abs=0.25)


def test_linear_deviation_is_that_of_the_replicates():
    means = bootstrap_counts(200, seed=0, replicates=4000) @ VALUES / 200
    assert deviation_of_linear(VALUES) == pytest.approx(float(means.std()), rel=0.05)


def test_pictures_of_one_layout_are_drawn_together():
    """The same picture three times says no more than once."""
    layouts = torch.arange(200).repeat_interleave(3).tolist()
    thrice = VALUES.repeat_interleave(3)
    counts = bootstrap_counts(600, seed=0, replicates=50, layouts=layouts).reshape(50, 200, 3)
    assert (counts == counts[:, :, :1]).all() and (counts[:, :, 0].sum(1) == 200).all()
    once, again = interval_of_mean(VALUES), interval_of_mean(thrice, layouts=layouts)
    assert again is not None and once is not None and again.over is Over.LAYOUTS
    assert (again.low, again.high) == pytest.approx((once.low, once.high))
    assert deviation_of_linear(thrice, layouts) == pytest.approx(deviation_of_linear(VALUES))
    assert interval_of_mean(thrice, layouts=[0] * 600) is None


def test_linear_deviation_of_layouts_is_that_of_the_replicates():
    """Also where layouts have different numbers of pictures."""
    layouts = [i // 2 if i < 100 else i - 50 for i in range(200)]
    counts = bootstrap_counts(200, seed=0, replicates=4000, layouts=layouts)
    means = counts @ VALUES / counts.sum(1)
    assert deviation_of_linear(VALUES, layouts) == pytest.approx(float(means.std()), rel=0.05)


def test_interval_around():
    interval = interval_around(3.0, 0.5)
    assert (interval.low, interval.high) == pytest.approx((3 - 0.98, 3 + 0.98), abs=1e-3)


@pytest.mark.parametrize("freedom, t", [(1, 12.7062), (2, 4.30265), (3, 3.18245), (9, 2.26216), (10, 2.22814)])
def test_student_t(freedom, t):
    """Values of the printed table."""
    assert student_t(freedom) == pytest.approx(t, rel=1e-5)


def test_interval_over_seeds():
    interval = interval_over_seeds([1.0, 2.0, 4.0])
    assert interval is not None and interval.over is Over.SEEDS
    half = 4.30265 * np.std([1, 2, 4], ddof=1) / 3**0.5
    assert (interval.low, interval.high) == pytest.approx((7 / 3 - half, 7 / 3 + half), rel=1e-5)
