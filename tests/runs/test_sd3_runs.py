"""A Stable Diffusion 3 from the base model's folder to pictures and into its own pipeline, by LoRA."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file
from test_flux_runs import METHODS, PLAIN, own_picture, words_of

from factories import mamoe, only_run
from mamoe import LayoutPipeline
from mamoe.models.sd3.model import MaMoESD3Transformer2DModel
from small_sd3_base import PLACES, T5_WORDS, write_sd3_base
from wholeruns import SMALL, assert_equal, cut_back, draw, tensors, trained


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_sd3_base(tmp_path_factory.mktemp("sd3"))


def stock_picture(pipe):
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    options = {"num_inference_steps": 2, "output_type": "np", "height": 64, "width": 64, "guidance_scale": 3.5}
    return pipe("a street", latents=noise, max_sequence_length=T5_WORDS, **options).images


@pytest.mark.parametrize("method", ["lora", pytest.param("lora_experts", marks=pytest.mark.slow)])
def test_it_trains_resumes_to_the_bit_draws_and_is_exported(base, scenes, tmp_path, method):
    trained(*words_of(base, scenes, tmp_path / "runs", *METHODS[method], "callbacks.samples=null"))
    run = only_run(tmp_path / "runs")
    copy = cut_back(run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
    learned = load_file(run / "checkpoints/latest/unet/adapter.safetensors")
    assert any(value.abs().max() > 0 for name, value in learned.items() if name.endswith(".up_EFr"))
    pipe = LayoutPipeline.from_pretrained(run)
    assert isinstance(pipe.unet, MaMoESD3Transformer2DModel) and pipe.unet.config["expert_rank"] == 4
    assert pipe.scheduler.config["shift"] == 3.0
    drawn = draw(pipe, scenes)
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    np.testing.assert_array_equal(draw(LayoutPipeline.from_pretrained(tmp_path / "out"), scenes), drawn)
    trained(*words_of(tmp_path / "out", scenes, tmp_path / "more"), *SMALL, *METHODS[method], "trainer.max_steps=1")
    # What it is without a map is a stock pipeline, and a LoRA of one.
    assert mamoe("export", str(run), str(tmp_path / "dense"), "--format", "dense", "--weights", "fp32").code == 0
    dense = stock_picture(StableDiffusion3Pipeline.from_pretrained(tmp_path / "dense"))
    file = mamoe("export", str(run), str(tmp_path / "lora"), "--format", "diffusers-lora", "--weights", "fp32")
    assert file.code == 0, file.err
    stock, ours = StableDiffusion3Pipeline.from_pretrained(base), LayoutPipeline.from_pretrained(base)
    before = stock_picture(stock)
    for one, picture in ((stock, stock_picture), (ours, own_picture)):
        one.load_lora_weights(tmp_path / "lora", weight_name="pytorch_lora_weights.safetensors")
        np.testing.assert_allclose(picture(one), dense, atol=1e-4)
    assert np.abs(before - dense).max() > 1e-3


def test_without_layout_and_t5_it_is_exported_as_its_own_pipeline(scenes, tmp_path):
    base = write_sd3_base(tmp_path / "base", t5=False)
    trained(*words_of(base, scenes, tmp_path / "runs"), *SMALL, *PLAIN, *METHODS["lora"])
    run = only_run(tmp_path / "runs")
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    index = json.loads((tmp_path / "out/model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusion3Pipeline" and index["text_encoder_3"] == [None, None]
    without = {"text_encoder_3": None, "tokenizer_3": None}
    stock = StableDiffusion3Pipeline.from_pretrained(tmp_path / "out", **without)
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    options = {"num_inference_steps": 2, "output_type": "np", "height": 64, "width": 64, "guidance_scale": 3.5}
    wanted = stock("a street", latents=noise, **options).images
    np.testing.assert_allclose(wanted, own_picture(LayoutPipeline.from_pretrained(run)), atol=1e-4)


@pytest.mark.slow
def test_grids_and_sampling_jobs_are_drawn(base, scenes, tmp_path):
    words = ["cache.latents=true", "layout.global_padding=false", "layout.blocks=[0,1]"]
    trained(*words_of(base, scenes, tmp_path / "runs", *METHODS["lora"], *words))
    run = only_run(tmp_path / "runs")
    assert list((run / "samples").glob("step-*/grid.png"))
    maps = ["--panoptic", str(scenes / "panoptic/test"), "--prompts", str(scenes / "prompts_test.csv")]
    job = mamoe("sample", str(run), *maps, "--out", str(tmp_path / "out"), "--steps", "1")
    assert job.code == 0, job.err
    assert len(list((tmp_path / "out").glob("scene*.png"))) == 2


@pytest.mark.slow
def test_frozen_weights_and_t5_in_fewer_bits(base, scenes, tmp_path):
    pytest.importorskip("bitsandbytes")
    words = ["trainer.precision=bf16-mixed", "model.frozen_precision=int8", "model.text_precision=int8"]
    trained(*words_of(base, scenes, tmp_path / "runs", *METHODS["lora_experts"], *words, "callbacks.samples=null"))
    run = only_run(tmp_path / "runs")
    copy = cut_back(run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
    assert np.isfinite(draw(LayoutPipeline.from_pretrained(run), scenes)).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=full"], "Choose another method: lora, lora_experts"),
        (["data.size=[72,64]", *METHODS["lora"]], "multiples of 16 pixels"),
        ([f"data.size=[64,{8 * PLACES + 16}]", *METHODS["lora"]], f"has places for {8 * PLACES} pixels a side"),
        (["regions.strength=soft", *METHODS["lora"]], "regions.strength=hard"),
        (["model.train_text_encoder=true", *METHODS["lora"]], "has three, which stay as they are"),
    ],
)
def test_what_does_not_go_with_it_is_refused(base, scenes, tmp_path, words, said):
    refused = trained(*words_of(base, scenes, tmp_path), *words, code=2).err
    assert said in " ".join(refused.split())
