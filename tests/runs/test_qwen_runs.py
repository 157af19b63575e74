"""A Qwen-Image from the base model's folder to pictures and into its own pipeline, by LoRA, through the commands."""

import json

import numpy as np
import pytest
import torch
from diffusers import QwenImagePipeline
from safetensors.torch import load_file
from test_flux_runs import METHODS, PLAIN, own_picture, words_of

from factories import mamoe, only_run
from mamoe import LayoutPipeline
from mamoe.models.qwen.model import MaMoEQwenImageTransformer2DModel
from small_qwen_base import write_qwen_base
from wholeruns import SMALL, assert_equal, cut_back, draw, tensors, trained

# As own_picture is led.
LED = {"negative_prompt": "", "true_cfg_scale": 3.5}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_qwen_base(tmp_path_factory.mktemp("qwen"))


def stock_picture(pipe):
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    options = {"num_inference_steps": 2, "output_type": "np", "height": 64, "width": 64}
    return pipe(prompt="a street", latents=pipe._pack_latents(noise, 1, 4, 8, 8), **LED, **options).images


@pytest.mark.parametrize("method", ["lora", pytest.param("lora_experts", marks=pytest.mark.slow)])
def test_it_trains_resumes_to_the_bit_draws_and_is_exported(base, scenes, tmp_path, method):
    trained(*words_of(base, scenes, tmp_path / "runs", *METHODS[method], "callbacks.samples=null"))
    run = only_run(tmp_path / "runs")
    copy = cut_back(run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
    learned = load_file(run / "checkpoints/latest/unet/adapter.safetensors")
    assert all(value.any() for name, value in learned.items() if name.endswith(".lora_B.default.weight"))
    assert any(value.any() for name, value in learned.items() if name.endswith(".up_EFr"))
    assert json.loads((run / "checkpoints/latest/recipe.json").read_text())["scheduler"]["shift_terminal"] == 0.02
    pipe = LayoutPipeline.from_pretrained(run)
    assert isinstance(pipe.unet, MaMoEQwenImageTransformer2DModel) and pipe.unet.config["expert_rank"] == 4
    drawn = draw(pipe, scenes)
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    np.testing.assert_array_equal(draw(LayoutPipeline.from_pretrained(tmp_path / "out"), scenes), drawn)
    trained(*words_of(tmp_path / "out", scenes, tmp_path / "more"), *SMALL, *METHODS[method], "trainer.max_steps=1")
    # What it is without a map is a stock pipeline, and a LoRA of one.
    assert mamoe("export", str(run), str(tmp_path / "dense"), "--format", "dense", "--weights", "fp32").code == 0
    dense = stock_picture(QwenImagePipeline.from_pretrained(tmp_path / "dense"))
    file = mamoe("export", str(run), str(tmp_path / "lora"), "--format", "diffusers-lora", "--weights", "fp32")
    assert file.code == 0, file.err
    stock, ours = QwenImagePipeline.from_pretrained(base), LayoutPipeline.from_pretrained(base)
    before = stock_picture(stock)
    for one, picture in ((stock, stock_picture), (ours, own_picture)):
        one.load_lora_weights(tmp_path / "lora", weight_name="pytorch_lora_weights.safetensors")
        np.testing.assert_allclose(picture(one), dense, atol=2e-5)
    assert np.abs(before - dense).max() > 1e-4


def test_in_half_the_bits_with_latents_from_the_cache_grids_and_sampling_jobs_are_drawn(base, scenes, tmp_path):
    half = ["trainer.precision=bf16-mixed", "model.frozen_precision=bf16", "cache.latents=true"]
    trained(*words_of(base, scenes, tmp_path / "runs", *METHODS["lora"], *half))
    run = only_run(tmp_path / "runs")
    assert list((run / "samples").glob("step-*/grid.png"))
    maps = ["--panoptic", str(scenes / "panoptic/test"), "--prompts", str(scenes / "prompts_test.csv")]
    job = mamoe("sample", str(run), *maps, "--out", str(tmp_path / "out"), "--steps", "2")
    assert job.code == 0, job.err
    assert len(list((tmp_path / "out").glob("scene*.png"))) == 2


@pytest.mark.slow
def test_without_layout_it_is_exported_as_its_own_pipeline(base, scenes, tmp_path):
    trained(*words_of(base, scenes, tmp_path / "runs"), *SMALL, *PLAIN, *METHODS["lora"])
    run = only_run(tmp_path / "runs")
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    assert json.loads((tmp_path / "out/model_index.json").read_text())["_class_name"] == "QwenImagePipeline"
    stock, ours = QwenImagePipeline.from_pretrained(tmp_path / "out"), LayoutPipeline.from_pretrained(run)
    np.testing.assert_allclose(stock_picture(stock), own_picture(ours), atol=1e-4)


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
