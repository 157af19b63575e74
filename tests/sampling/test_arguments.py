"""Arguments that are none: of another kind, of other pipelines, misspelt. Each is answered in words."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from mamoe.errors import ConfigError, MamoeError
from mamoe.sampling.effect import WithoutEffect
from mamoe.sampling.pipeline import LayoutPipeline

QUICK = {"num_inference_steps": 1}
PICTURE = np.zeros((32, 48, 3), dtype=np.uint8)

SLIPS = [
    ({"num_inference_steps": "5"}, "num_inference_steps must be a whole number, got '5'"),
    ({"num_inference_steps": 5.0}, "num_inference_steps must be a whole number, got 5.0"),
    ({"num_images_per_prompt": None}, "num_images_per_prompt must be a whole number"),
    ({"height": "32"}, "height must be a whole number"),
    ({"guidance_scale": [1.0, 2.0]}, "guidance_scale must be a number"),
    ({"guidance_layout": "3"}, "guidance_layout must be a number"),
    ({"image": PICTURE, "strength": "0.5"}, "strength must be a number"),
    ({"image": PICTURE, "border": 2.5}, "border must be a whole number"),
    ({"instance_prompts": [(7, "red")]}, "instance_prompts are a mapping"),
    ({"instance_prompts": {"7": "red"}}, r"segment ids are whole numbers, got text: \['7'\]"),
    ({"negative_instance_prompts": "red"}, "negative_instance_prompts are a mapping"),
    ({"generator": 3}, r"manual_seed\(seed\)"),
    ({"generator": [3]}, r"manual_seed\(seed\)"),
    ({"regions_from": "0.5"}, r"regions_from are shares of the denoising in \[0, 1\], got \['0.5'\]"),
    ({"regions_until": None}, "regions_until are shares"),
    ({"latents": torch.full((1, 4, 4, 6), torch.nan)}, "latents must be finite"),
    ({"encoded": "a street"}, "encoded is what pipe.encode"),
    ({"image": PICTURE, "mask_image": np.zeros((32, 48), dtype=bool)}, "mask_image 0 is black all over"),
    ({"image": PICTURE, "mask_image": PICTURE}, r"an array \[H W\], got uint8 \(32, 48, 3\)"),
    ({"callback_on_step_end": lambda *_: (1, 2)}, "gives back a dictionary"),
    # Of diffusers' other pipelines.
    ({"eta": 0.5}, "eta is not taken here: for fresh noise"),
    ({"clip_skip": 1}, "clip_skip is not taken here"),
    ({"timesteps": [900, 500]}, "the scheduler chooses its steps"),
    ({"sigmas": [1.0, 0.5]}, "the scheduler chooses its steps"),
    ({"prompt_embeds": torch.zeros(1, 77, 16)}, r"encoded=pipe.encode\(...\)"),
    ({"negative_prompt_embeds": torch.zeros(1, 77, 16)}, r"encoded=pipe.encode\(...\)"),
    ({"cross_attention_kwargs": {"scale": 0.5}}, r"pipe.set_adapters\(name, weight\)"),
    ({"ip_adapter_image": PICTURE}, "no IP-Adapters"),
    ({"callback": print, "callback_steps": 2}, "callback_on_step_end"),
]


@pytest.mark.parametrize(("slip", "words"), SLIPS)
def test_a_slip_is_answered_in_words(pipe, make_map, slip, words):
    with pytest.raises(MamoeError, match=words):
        pipe(**{"panoptic": make_map(), **QUICK, **slip})


def test_several_slips_are_listed_together(pipe):
    with pytest.raises(MamoeError, match=r"(?s)num_inference_steps.*height.*eta"):
        pipe("a street", num_inference_steps="x", height="y", eta=1.0)


def test_what_stable_diffusions_scripts_pass_by_habit_changes_nothing(pipe, make_map):
    asked = {"panoptic": make_map(), "generator": torch.Generator().manual_seed(0), "output_type": "np", **QUICK}
    habits = {"eta": 0.0, "clip_skip": None, "cross_attention_kwargs": None, "timesteps": None, "prompt_embeds": None}
    wanted = pipe("a street", **asked).images
    asked["generator"] = torch.Generator().manual_seed(0)
    assert np.array_equal(wanted, pipe("a street", **asked, **habits, ip_adapter_image=None).images)


def test_a_misspelt_argument_is_answered_with_the_nearest(pipe, make_map):
    with pytest.raises(TypeError, match="no argument 'instance_promts'; nearest is instance_prompts"):
        pipe("a street", make_map(), instance_promts={}, **QUICK)
    with pytest.raises(TypeError, match="no argument 'negativ_prompt'"):
        pipe.encode("a street", make_map(), negativ_prompt="fog")
    with pytest.raises(MamoeError, match="num_images_per_prompt must be a whole number"):
        pipe.encode("a street", make_map(), num_images_per_prompt=1.5)


def test_numbers_of_numpy_are_numbers(pipe, make_map):
    pipe("a street", make_map(), num_inference_steps=np.int64(1), guidance_scale=np.float32(2.0))


def test_a_mask_as_diffusers_writes_arrays_is_a_mask(pipe, make_map):
    left = np.zeros((32, 48), dtype=np.float32)
    left[:, :24] = 1.0
    pictures = [
        pipe(
            "a street",
            make_map(),
            image=PICTURE,
            mask_image=mask,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
            **QUICK,
        ).images
        for mask in (left, left[None], left[None, None], left[None, ..., None])
    ]
    assert all(np.array_equal(pictures[0], picture) for picture in pictures)


def test_guidance_on_a_layout_that_is_not_there_is_said(pipe):
    with pytest.warns(WithoutEffect, match="there is no map"):
        pipe("a street", height=32, width=48, guidance_layout=3.0, **QUICK)


# Pipelines out of pipelines, and what reading one may be told.


def test_a_pipeline_from_another_has_its_networks_and_its_layout(pipe, make_map):
    again = LayoutPipeline.from_pipe(pipe)
    assert again.unet is pipe.unet and again.settings == pipe.settings
    asked = {"panoptic": make_map(), "output_type": "np", **QUICK}
    one, other = (p("a street", **asked, generator=torch.Generator().manual_seed(0)).images for p in (pipe, again))
    assert np.array_equal(one, other)


def test_a_pipeline_from_a_stock_one_draws_what_that_draws(make_pipe, parts):
    scheduler = make_pipe(layout=False, zero_snr=False).scheduler
    stock = StableDiffusionPipeline(
        **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    stock.set_progress_bar_config(disable=True)
    ours = LayoutPipeline.from_pipe(stock)
    asked = {"height": 32, "width": 48, "output_type": "np", "latents": torch.randn(1, 4, 4, 6), "guidance_scale": 3.0}
    one, other = (p("a street", **asked, num_inference_steps=2).images for p in (stock, ours))
    assert np.abs(one - other).max() < 1e-5


def test_parts_without_their_layout_are_told_apart_from_a_model_without(pipe, make_map):
    with pytest.raises(MamoeError, match=r'layout=pipe.config\["layout"\]'):
        LayoutPipeline(**pipe.components)("a street", make_map(), **QUICK)


def test_a_number_format_has_the_name_diffusers_gives_it_by_now(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert LayoutPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert LayoutPipeline.from_pretrained(tmp_path, dtype=None, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="give one of them"):
        LayoutPipeline.from_pretrained(tmp_path, dtype=torch.float16, torch_dtype=torch.float16)
    with pytest.raises(ConfigError, match="got 'float16'"):
        LayoutPipeline.from_pretrained(tmp_path, torch_dtype="float16")
