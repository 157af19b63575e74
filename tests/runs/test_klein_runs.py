"""A FLUX.2-klein from the base model's folder to pictures and into its own pipeline, by LoRA, through the commands."""

import pytest
from diffusers import Flux2KleinPipeline

from factories import only_run
from loraruns import METHODS, PICTURE, Family, assert_goes_out, noise, trained_and_resumed, words_of
from mamoe import LayoutPipeline
from mamoe.models.flux.model2 import MaMoEFlux2Transformer2DModel
from small_klein_base import PROMPT_TOKENS, write_klein_base
from wholeruns import trained


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_klein_base(tmp_path_factory.mktemp("klein"))


def stock_picture(pipe):
    pipe.set_progress_bar_config(disable=True)
    options = {**PICTURE, "guidance_scale": 3.5}
    patches = Flux2KleinPipeline._patchify_latents(noise())
    return pipe(prompt="a street", latents=patches, max_sequence_length=PROMPT_TOKENS, **options).images


@pytest.fixture(scope="module")
def family(base):
    return Family(base=base, pipeline=Flux2KleinPipeline, picture=stock_picture)


@pytest.mark.parametrize("method", ["lora", pytest.param("lora_experts", marks=pytest.mark.slow)])
def test_it_trains_resumes_to_the_bit_draws_and_is_exported(family, scenes, tmp_path, method):
    run = trained_and_resumed(family.base, scenes, tmp_path, *METHODS[method])
    pipe = LayoutPipeline.from_pretrained(run)
    assert isinstance(pipe.unet, MaMoEFlux2Transformer2DModel) and pipe.unet.config["expert_rank"] == 4
    assert_goes_out(run, family, scenes, tmp_path, method)


@pytest.mark.slow
def test_grids_are_drawn_with_latents_from_the_cache(base, scenes, tmp_path):
    trained(*words_of(base, scenes, tmp_path / "runs", *METHODS["lora"], "cache.latents=true"))
    assert list((only_run(tmp_path / "runs") / "samples").glob("step-*/grid.png"))
