"""A FLUX.2-dev from the base model's folder to pictures and into its own pipeline, by LoRA, through the commands."""

import pytest
from diffusers import Flux2Pipeline

from factories import only_run
from loraruns import (
    METHODS,
    PICTURE,
    Family,
    assert_goes_out,
    assert_is_its_own_pipeline,
    noise,
    trained_and_resumed,
    words_of,
)
from mamoe import LayoutPipeline
from mamoe.models.flux.model2 import MaMoEFlux2Transformer2DModel
from small_flux2_dev_base import PROMPT_TOKENS, write_dev_base
from wholeruns import trained


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_dev_base(tmp_path_factory.mktemp("dev"))


def stock_picture(pipe):
    pipe.set_progress_bar_config(disable=True)
    options = {**PICTURE, "guidance_scale": 3.5}
    patches = Flux2Pipeline._patchify_latents(noise())
    return pipe(prompt="a street", latents=patches, max_sequence_length=PROMPT_TOKENS, **options).images


@pytest.fixture(scope="module")
def family(base):
    return Family(base=base, pipeline=Flux2Pipeline, picture=stock_picture)


@pytest.mark.slow
def test_it_trains_resumes_to_the_bit_draws_and_is_exported(family, scenes, tmp_path):
    run = trained_and_resumed(family.base, scenes, tmp_path, *METHODS["lora"])
    pipe = LayoutPipeline.from_pretrained(run)
    assert isinstance(pipe.unet, MaMoEFlux2Transformer2DModel) and pipe.unet.config["expert_rank"] == 4
    assert_goes_out(run, family, scenes, tmp_path, "lora")


@pytest.mark.slow
def test_without_layout_it_is_exported_as_its_own_pipeline(family, scenes, tmp_path):
    assert_is_its_own_pipeline(family, scenes, tmp_path)


def test_with_a_layout_it_trains_and_its_grids_are_drawn_with_latents_from_the_cache(base, scenes, tmp_path):
    words = ["cache.latents=true", "layout.global_padding=false", "trainer.max_steps=1", "callbacks.samples.every=1"]
    trained(*words_of(base, scenes, tmp_path / "runs", *METHODS["lora_experts"], *words))
    assert list((only_run(tmp_path / "runs") / "samples").glob("step-*/grid.png"))
