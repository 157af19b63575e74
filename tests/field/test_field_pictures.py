"""Pictures that were drawn and are no pictures."""

import warnings

import numpy as np
import pytest
import torch

from factories import mamoe
from mamoe.errors import ConfigError, MamoeError
from mamoe.sampling.finite import NotFinite, finite, required_finite
from mamoe.sampling.pipeline import LayoutPipeline


@pytest.fixture(scope="module")
def pipe(base_model):
    return LayoutPipeline.from_pretrained(base_model)


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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"generator": 42}, r"generator is a torch\.Generator, got 42.*manual_seed"),
        ({"generator": [42]}, r"generator is a torch\.Generator"),
        ({"num_inference_steps": 2.5}, "num_inference_steps must be"),
        ({"num_inference_steps": None}, "num_inference_steps must be"),
        ({"guidance_scale": None}, "guidance_scale must be a number"),
        ({"guidance_scale": 10**400}, "guidance_scale must be 0 or more"),
        ({"guidance_rescale": ""}, "guidance_rescale must be a number"),
        ({"instance_prompts": True}, "instance_prompts are a mapping"),
        ({"output_type": None}, "output_type must be one of"),
    ],
)
def test_arguments_of_another_type(pipe, change, said):
    with pytest.raises(MamoeError, match=said):
        pipe(**{"prompt": "a street", "num_inference_steps": 1, **change})


def test_numbers_of_numpy_are_numbers(pipe):
    drawn = [
        pipe(
            "a street",
            num_inference_steps=steps,
            guidance_scale=scale,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images
        for steps, scale in ((1, 2.0), (np.int64(1), np.float32(2.0)))
    ]
    assert np.array_equal(*drawn)
