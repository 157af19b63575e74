"""A Z-Image from the base model's folder to pictures and into its own pipeline, by LoRA, through the commands."""

import pytest
from diffusers import ZImagePipeline
from safetensors.torch import load_file

from loraruns import (
    LORA,
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
from mamoe.models.zimage.model import MaMoEZImageTransformer2DModel
from small_klein_base import PROMPT_TOKENS
from small_z_image_base import write_z_image_base
from wholeruns import trained


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_z_image_base(tmp_path_factory.mktemp("z_image"))


def stock_picture(pipe):
    """What :func:`own_picture` draws: guidance counts from 0 here."""
    pipe.set_progress_bar_config(disable=True)
    options = {**PICTURE, "guidance_scale": 2.5}
    return pipe(prompt="a street", latents=noise(), max_sequence_length=PROMPT_TOKENS, **options).images


@pytest.fixture(scope="module")
def family(base):
    return Family(base=base, pipeline=ZImagePipeline, picture=stock_picture)


@pytest.mark.parametrize("method", [pytest.param("lora", marks=pytest.mark.slow), "lora_experts"])
def test_it_trains_resumes_to_the_bit_draws_and_is_exported(family, scenes, tmp_path, method):
    run = trained_and_resumed(family.base, scenes, tmp_path, *METHODS[method])
    learned = load_file(run / "checkpoints/latest/unet/adapter.safetensors")
    assert any(value.abs().max() > 0 for name, value in learned.items() if name.endswith(".up_EFr"))
    pipe = LayoutPipeline.from_pretrained(run)
    assert isinstance(pipe.unet, MaMoEZImageTransformer2DModel) and pipe.unet.config["expert_rank"] == 4
    assert pipe.scheduler.config["shift"] == 6.0 and not pipe.scheduler.config["use_dynamic_shifting"]
    assert_goes_out(run, family, scenes, tmp_path, method)


@pytest.mark.slow
def test_without_layout_it_is_exported_as_its_own_pipeline(family, scenes, tmp_path):
    assert_is_its_own_pipeline(family, scenes, tmp_path)


@pytest.mark.slow
def test_grids_and_sampling_jobs_are_drawn(base, scenes, tmp_path):
    assert_grids_and_jobs_are_drawn(base, scenes, tmp_path, *LORA, "cache.latents=true")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=full"], "Choose another method: lora, lora_experts"),
        (["data.size=[72,64]", *LORA], "multiples of 16 pixels"),
        (["model.train_text_encoder=true", *LORA], "Set it to false"),
    ],
)
def test_what_does_not_go_with_it_is_refused(base, scenes, tmp_path, words, said):
    assert said in trained(*words_of(base, scenes, tmp_path), *words, code=2).err
