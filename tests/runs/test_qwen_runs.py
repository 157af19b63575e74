"""A Qwen-Image from the base model's folder to pictures and into its own pipeline, by LoRA, through the commands."""

import json

import pytest
from diffusers import QwenImagePipeline
from safetensors.torch import load_file

from loraruns import (
    METHODS,
    PICTURE,
    Family,
    assert_goes_out,
    assert_grids_and_jobs_are_drawn,
    assert_is_its_own_pipeline,
    noise,
    trained_and_resumed,
    words_of,
)
from mamoe import LayoutPipeline
from mamoe.models.qwen.model import MaMoEQwenImageTransformer2DModel
from small_qwen_base import write_qwen_base
from wholeruns import trained

# As own_picture is led.
LED = {"negative_prompt": "", "true_cfg_scale": 3.5}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_qwen_base(tmp_path_factory.mktemp("qwen"))


def stock_picture(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe(prompt="a street", latents=pipe._pack_latents(noise(), 1, 4, 8, 8), **LED, **PICTURE).images


@pytest.fixture(scope="module")
def family(base):
    return Family(base=base, pipeline=QwenImagePipeline, picture=stock_picture, differs=1e-4)


@pytest.mark.parametrize("method", ["lora", pytest.param("lora_experts", marks=pytest.mark.slow)])
def test_it_trains_resumes_to_the_bit_draws_and_is_exported(family, scenes, tmp_path, method):
    run = trained_and_resumed(family.base, scenes, tmp_path, *METHODS[method])
    learned = load_file(run / "checkpoints/latest/unet/adapter.safetensors")
    assert all(value.any() for name, value in learned.items() if name.endswith(".lora_B.default.weight"))
    assert any(value.any() for name, value in learned.items() if name.endswith(".up_EFr"))
    assert json.loads((run / "checkpoints/latest/recipe.json").read_text())["scheduler"]["shift_terminal"] == 0.02
    pipe = LayoutPipeline.from_pretrained(run)
    assert isinstance(pipe.unet, MaMoEQwenImageTransformer2DModel) and pipe.unet.config["expert_rank"] == 4
    assert_goes_out(run, family, scenes, tmp_path, method)


def test_in_half_the_bits_with_latents_from_the_cache_grids_and_sampling_jobs_are_drawn(base, scenes, tmp_path):
    half = ["trainer.precision=bf16-mixed", "model.frozen_precision=bf16", "cache.latents=true"]
    assert_grids_and_jobs_are_drawn(base, scenes, tmp_path, *METHODS["lora"], *half)


@pytest.mark.slow
def test_without_layout_it_is_exported_as_its_own_pipeline(family, scenes, tmp_path):
    assert_is_its_own_pipeline(family, scenes, tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=full"], "Choose another method: lora, lora_experts"),
        (["data.size=[72,64]", *METHODS["lora"]], "multiples of 16 pixels"),
        (["regions.strength=soft", *METHODS["lora"]], "regions.strength=hard"),
        (["model.train_text_encoder=true", *METHODS["lora"]], "Set it to false"),
    ],
)
def test_what_does_not_go_with_it_is_refused(base, scenes, tmp_path, words, said):
    assert said in trained(*words_of(base, scenes, tmp_path), *words, code=2).err
