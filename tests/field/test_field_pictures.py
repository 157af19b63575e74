"""Pictures that were drawn and are no pictures."""

import warnings

import pytest
import torch

from factories import mamoe
from mamoe.errors import ConfigError
from mamoe.sampling.finite import NotFinite, finite, required_finite


def test_what_is_no_number_is_black_and_said():
    images = torch.zeros(3, 3, 4, 4)
    images[1, 0, 2, 2], images[2, :, 0, 0] = torch.nan, torch.inf
    with pytest.warns(NotFinite, match=r"^2 of 3 pictures hold NaN .*Lower the guidance"):
        shown = finite(images)
    assert shown[1, 0, 2, 2] == -1 and (shown[2, :, 0, 0] == -1).all() and torch.isfinite(shown).all()
    assert (shown[0] == 0).all() and shown[1, 1, 2, 2] == 0


def test_sound_pictures_are_left_as_they_are():
    images = torch.rand(2, 3, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert finite(images) is images


def test_whoever_draws_for_keeps_refuses_them():
    with (
        pytest.raises(ConfigError, match=r"^Drawing a\.png, b\.png: 1 of 1 pictures"),
        required_finite(["a.png", "b.png"]),
    ):
        finite(torch.full((1, 3, 2, 2), torch.nan))


def test_a_guidance_that_overflows_writes_nothing(finished_run, scenes, tmp_path):
    maps = sorted((scenes / "panoptic/test").iterdir())
    words = ("sample", finished_run, "--panoptic", maps[0], "--out", tmp_path / "out", "--device", "cpu")
    outcome = mamoe(*words, "--steps", "1", "--guidance-scale", "1e38")
    assert outcome.code == 2
    assert f"Drawing {maps[0].name}: 1 of 1 pictures hold NaN or infinity" in outcome.err
    assert not [*tmp_path.glob("out/*.png")]
    outcome = mamoe(*words, "--steps", "1")  # nothing is in the way of the next try
    assert outcome.code == 0, outcome.err
