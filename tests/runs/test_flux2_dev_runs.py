"""A FLUX.2-dev from the base model's folder to pictures and into its own pipeline, by LoRA, through the commands."""

import json

import numpy as np
import pytest
import torch
from diffusers import Flux2Pipeline
from test_flux_runs import METHODS, PLAIN, own_picture, words_of

from factories import mamoe, only_run
from mamoe import LayoutPipeline
from mamoe.models.flux.model2 import MaMoEFlux2Transformer2DModel
from small_flux2_dev_base import PROMPT_TOKENS, write_dev_base
from wholeruns import SMALL, assert_equal, cut_back, draw, tensors, trained


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_dev_base(tmp_path_factory.mktemp("dev"))


def stock_picture(pipe):
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    options = {"num_inference_steps": 2, "output_type": "np", "height": 64, "width": 64, "guidance_scale": 3.5}
    patches = Flux2Pipeline._patchify_latents(noise)
    return pipe(prompt="a street", latents=patches, max_sequence_length=PROMPT_TOKENS, **options).images


@pytest.mark.slow
def test_it_trains_resumes_to_the_bit_draws_and_is_exported(base, scenes, tmp_path):
    trained(*words_of(base, scenes, tmp_path / "runs", *METHODS["lora"], "callbacks.samples=null"))
    run = only_run(tmp_path / "runs")
    copy = cut_back(run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
    pipe = LayoutPipeline.from_pretrained(run)
    assert isinstance(pipe.unet, MaMoEFlux2Transformer2DModel) and pipe.unet.config["expert_rank"] == 4
    drawn = draw(pipe, scenes)
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    np.testing.assert_array_equal(draw(LayoutPipeline.from_pretrained(tmp_path / "out"), scenes), drawn)
    # What it is without a map is a stock pipeline, and a LoRA of one.
    assert mamoe("export", str(run), str(tmp_path / "dense"), "--format", "dense", "--weights", "fp32").code == 0
    dense = stock_picture(Flux2Pipeline.from_pretrained(tmp_path / "dense"))
    file = mamoe("export", str(run), str(tmp_path / "lora"), "--format", "diffusers-lora", "--weights", "fp32")
    assert file.code == 0, file.err
    stock, ours = Flux2Pipeline.from_pretrained(base), LayoutPipeline.from_pretrained(base)
    before = stock_picture(stock)
    for one, picture in ((stock, stock_picture), (ours, own_picture)):
        one.load_lora_weights(tmp_path / "lora", weight_name="pytorch_lora_weights.safetensors")
        np.testing.assert_allclose(picture(one), dense, atol=2e-5)
    assert np.abs(before - dense).max() > 2e-4


@pytest.mark.slow
def test_without_layout_it_is_exported_as_its_own_pipeline(base, scenes, tmp_path):
    trained(*words_of(base, scenes, tmp_path / "runs"), *SMALL, *PLAIN, *METHODS["lora"])
    run = only_run(tmp_path / "runs")
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    assert json.loads((tmp_path / "out/model_index.json").read_text())["_class_name"] == "Flux2Pipeline"
    stock, ours = Flux2Pipeline.from_pretrained(tmp_path / "out"), LayoutPipeline.from_pretrained(run)
    np.testing.assert_allclose(stock_picture(stock), own_picture(ours), atol=1e-4)


def test_with_a_layout_it_trains_and_its_grids_are_drawn_with_latents_from_the_cache(base, scenes, tmp_path):
    words = ["cache.latents=true", "layout.global_padding=false", "trainer.max_steps=1", "callbacks.samples.every=1"]
    trained(*words_of(base, scenes, tmp_path / "runs", *METHODS["lora_experts"], *words))
    assert list((only_run(tmp_path / "runs") / "samples").glob("step-*/grid.png"))
