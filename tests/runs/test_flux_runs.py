"""A FLUX.1 from the base model's folder to pictures and into its own pipeline, by LoRA, through the commands."""

import json

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file

from factories import mamoe, only_run, short_run
from mamoe import LayoutPipeline
from mamoe.models.flux.model import MaMoEFluxTransformer2DModel
from small_flux_base import PROMPT_TOKENS, write_flux_base
from wholeruns import SMALL, assert_equal, cut_back, draw, tensors, trained

LORA = ["method=lora", "method.rank=4", "method.alpha=8", "method.conv=false"]
METHODS = {"lora": LORA, "lora_experts": ["method=lora_experts", "method.rank=4", "method.alpha=8"]}
PLAIN = ["layout.moe=false", "layout.region_attention=false", "layout.global_prompt=true", "layout.global_padding=true"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_flux_base(tmp_path_factory.mktemp("flux"))


def words_of(base, scenes, runs, *more):
    return [*short_run(base, scenes, runs), "optimizer.lr=1e-2", "objective.timesteps=logit_normal", *more]


def stock_picture(pipe):
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    options = {"num_inference_steps": 2, "output_type": "np", "height": 64, "width": 64, "guidance_scale": 3.5}
    packed = FluxPipeline._pack_latents(noise, 1, 4, 8, 8)
    return pipe("a street", latents=packed, max_sequence_length=PROMPT_TOKENS, **options).images


def own_picture(pipe):
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "output_type": "np", "height": 64, "width": 64, "guidance_scale": 3.5}
    return pipe("a street", generator=torch.Generator().manual_seed(1), **options).images


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_trains_resumes_to_the_bit_draws_and_is_exported(base, scenes, tmp_path, method):
    trained(*words_of(base, scenes, tmp_path / "runs", *METHODS[method], "callbacks.samples=null"))
    run = only_run(tmp_path / "runs")
    copy = cut_back(run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
    learned = load_file(run / "checkpoints/latest/unet/adapter.safetensors")
    assert any(value.abs().max() > 0 for name, value in learned.items() if name.endswith(".up_EFr"))
    assert any("lora_A" in name for name in learned) == (method == "lora")
    pipe = LayoutPipeline.from_pretrained(run)
    assert isinstance(pipe.unet, MaMoEFluxTransformer2DModel) and pipe.unet.config["num_experts"] > 1
    assert pipe.scheduler.config["use_dynamic_shifting"]
    drawn = draw(pipe, scenes)
    # As our own pipeline it is read back to the bit, and goes on as a base.
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    again = LayoutPipeline.from_pretrained(tmp_path / "out")
    np.testing.assert_array_equal(draw(again, scenes), drawn)
    trained(*words_of(tmp_path / "out", scenes, tmp_path / "more"), *SMALL, *METHODS[method], "trainer.max_steps=1")
    # What it is without a map is a stock pipeline, and a LoRA of one.
    assert mamoe("export", str(run), str(tmp_path / "dense"), "--format", "dense", "--weights", "fp32").code == 0
    dense = stock_picture(FluxPipeline.from_pretrained(tmp_path / "dense"))
    file = mamoe("export", str(run), str(tmp_path / "lora"), "--format", "diffusers-lora", "--weights", "fp32")
    assert file.code == 0, file.err
    stock = FluxPipeline.from_pretrained(base)
    before = stock_picture(stock)
    stock.load_lora_weights(tmp_path / "lora", weight_name="pytorch_lora_weights.safetensors")
    np.testing.assert_allclose(stock_picture(stock), dense, atol=1e-4)
    assert np.abs(before - dense).max() > 1e-3
    # So do ours of the base model.
    ours = LayoutPipeline.from_pretrained(base)
    ours.load_lora_weights(tmp_path / "lora", weight_name="pytorch_lora_weights.safetensors")
    np.testing.assert_allclose(own_picture(ours), dense, atol=1e-4)
    refused = mamoe("export", str(run), str(tmp_path / "kohya"), "--format", "kohya")
    assert refused.code == 2 and "take diffusers-lora" in refused.err


def test_without_layout_it_is_exported_as_its_own_pipeline(base, scenes, tmp_path):
    trained(*words_of(base, scenes, tmp_path / "runs"), *SMALL, *PLAIN, *LORA)
    run = only_run(tmp_path / "runs")
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    assert json.loads((tmp_path / "out/model_index.json").read_text())["_class_name"] == "FluxPipeline"
    stock, ours = FluxPipeline.from_pretrained(tmp_path / "out"), LayoutPipeline.from_pretrained(run)
    np.testing.assert_allclose(stock_picture(stock), own_picture(ours), atol=1e-4)


def test_grids_and_sampling_jobs_are_drawn(base, scenes, tmp_path):
    trained(*words_of(base, scenes, tmp_path / "runs", *LORA, "cache.latents=true"))
    run = only_run(tmp_path / "runs")
    assert list((run / "samples").glob("step-*/grid.png"))
    maps = ["--panoptic", str(scenes / "panoptic/test"), "--prompts", str(scenes / "prompts_test.csv")]
    job = mamoe("sample", str(run), *maps, "--out", str(tmp_path / "out"), "--steps", "1")
    assert job.code == 0, job.err
    assert len(list((tmp_path / "out").glob("scene*.png"))) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=full"], "Choose another method: lora, lora_experts"),
        (["data.size=[72,64]", *LORA], "multiples of 16 pixels"),
        (["regions.strength=learned", *LORA], "regions.strength=hard"),
        (["regions.strength=soft", *LORA], "regions.strength=hard"),
        (["method=lora"], "method.conv=false"),
        (["loss=perceptual", *LORA], "choose another loss"),
        (["model.train_text_encoder=true", *LORA], "Set it to false"),
    ],
)
def test_what_does_not_go_with_it_is_refused(base, scenes, tmp_path, words, said):
    assert said in trained(*words_of(base, scenes, tmp_path), *words, code=2).err
