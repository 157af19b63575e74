"""A FLUX.2-klein from the base model's folder to pictures and into its own pipeline, by LoRA, through the commands."""

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from test_flux_runs import METHODS, own_picture, words_of

from factories import mamoe, only_run
from mamoe import LayoutPipeline
from mamoe.models.flux.model2 import MaMoEFlux2Transformer2DModel
from small_klein_base import PROMPT_TOKENS, write_klein_base
from wholeruns import SMALL, assert_equal, cut_back, draw, tensors, trained


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_klein_base(tmp_path_factory.mktemp("klein"))


def stock_picture(pipe):
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    options = {"num_inference_steps": 2, "output_type": "np", "height": 64, "width": 64, "guidance_scale": 3.5}
    patches = Flux2KleinPipeline._patchify_latents(noise)
    return pipe(prompt="a street", latents=patches, max_sequence_length=PROMPT_TOKENS, **options).images


@pytest.mark.parametrize("method", ["lora", pytest.param("lora_experts", marks=pytest.mark.slow)])
def test_it_trains_resumes_to_the_bit_draws_and_is_exported(base, scenes, tmp_path, method):
    trained(*words_of(base, scenes, tmp_path / "runs", *METHODS[method], "callbacks.samples=null"))
    run = only_run(tmp_path / "runs")
    copy = cut_back(run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
    pipe = LayoutPipeline.from_pretrained(run)
    assert isinstance(pipe.unet, MaMoEFlux2Transformer2DModel) and pipe.unet.config["expert_rank"] == 4
    drawn = draw(pipe, scenes)
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    np.testing.assert_array_equal(draw(LayoutPipeline.from_pretrained(tmp_path / "out"), scenes), drawn)
    trained(*words_of(tmp_path / "out", scenes, tmp_path / "more"), *SMALL, *METHODS[method], "trainer.max_steps=1")
    # What it is without a map is a stock pipeline, and a LoRA of one.
    assert mamoe("export", str(run), str(tmp_path / "dense"), "--format", "dense", "--weights", "fp32").code == 0
    dense = stock_picture(Flux2KleinPipeline.from_pretrained(tmp_path / "dense"))
    file = mamoe("export", str(run), str(tmp_path / "lora"), "--format", "diffusers-lora", "--weights", "fp32")
    assert file.code == 0, file.err
    stock, ours = Flux2KleinPipeline.from_pretrained(base), LayoutPipeline.from_pretrained(base)
    before = stock_picture(stock)
    for one, picture in ((stock, stock_picture), (ours, own_picture)):
        one.load_lora_weights(tmp_path / "lora", weight_name="pytorch_lora_weights.safetensors")
        np.testing.assert_allclose(picture(one), dense, atol=2e-5)
    assert np.abs(before - dense).max() > 2e-4


@pytest.mark.slow
def test_grids_are_drawn_with_latents_from_the_cache(base, scenes, tmp_path):
    trained(*words_of(base, scenes, tmp_path / "runs", *METHODS["lora"], "cache.latents=true"))
    assert list((only_run(tmp_path / "runs") / "samples").glob("step-*/grid.png"))
