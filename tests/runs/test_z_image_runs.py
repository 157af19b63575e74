"""A Z-Image from the base model's folder to pictures and into its own pipeline, by LoRA, through the commands."""

import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline
from safetensors.torch import load_file
from test_flux_runs import LORA, METHODS, PLAIN, own_picture, words_of

from factories import mamoe, only_run
from mamoe import LayoutPipeline
from mamoe.models.zimage.model import MaMoEZImageTransformer2DModel
from small_klein_base import PROMPT_TOKENS
from small_z_image_base import write_z_image_base
from wholeruns import SMALL, assert_equal, cut_back, draw, tensors, trained


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_z_image_base(tmp_path_factory.mktemp("z_image"))


def stock_picture(pipe):
    """What :func:`own_picture` draws: guidance counts from 0 here."""
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    options = {"num_inference_steps": 2, "output_type": "np", "height": 64, "width": 64, "guidance_scale": 2.5}
    return pipe(prompt="a street", latents=noise, max_sequence_length=PROMPT_TOKENS, **options).images


@pytest.mark.parametrize("method", [pytest.param("lora", marks=pytest.mark.slow), "lora_experts"])
def test_it_trains_resumes_to_the_bit_draws_and_is_exported(base, scenes, tmp_path, method):
    trained(*words_of(base, scenes, tmp_path / "runs", *METHODS[method], "callbacks.samples=null"))
    run = only_run(tmp_path / "runs")
    copy = cut_back(run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
    learned = load_file(run / "checkpoints/latest/unet/adapter.safetensors")
    assert any(value.abs().max() > 0 for name, value in learned.items() if name.endswith(".up_EFr"))
    pipe = LayoutPipeline.from_pretrained(run)
    assert isinstance(pipe.unet, MaMoEZImageTransformer2DModel) and pipe.unet.config["expert_rank"] == 4
    assert pipe.scheduler.config["shift"] == 6.0 and not pipe.scheduler.config["use_dynamic_shifting"]
    drawn = draw(pipe, scenes)
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    np.testing.assert_array_equal(draw(LayoutPipeline.from_pretrained(tmp_path / "out"), scenes), drawn)
    trained(*words_of(tmp_path / "out", scenes, tmp_path / "more"), *SMALL, *METHODS[method], "trainer.max_steps=1")
    # What it is without a map is a stock pipeline, and a LoRA of one.
    assert mamoe("export", str(run), str(tmp_path / "dense"), "--format", "dense", "--weights", "fp32").code == 0
    dense = stock_picture(ZImagePipeline.from_pretrained(tmp_path / "dense"))
    file = mamoe("export", str(run), str(tmp_path / "lora"), "--format", "diffusers-lora", "--weights", "fp32")
    assert file.code == 0, file.err
    stock, ours = ZImagePipeline.from_pretrained(base), LayoutPipeline.from_pretrained(base)
    before = stock_picture(stock)
    for one, picture in ((stock, stock_picture), (ours, own_picture)):
        one.load_lora_weights(tmp_path / "lora", weight_name="pytorch_lora_weights.safetensors")
        np.testing.assert_allclose(picture(one), dense, atol=2e-5)
    assert np.abs(before - dense).max() > 2e-4


@pytest.mark.slow
def test_without_layout_it_is_exported_as_its_own_pipeline(base, scenes, tmp_path):
    trained(*words_of(base, scenes, tmp_path / "runs"), *SMALL, *PLAIN, *LORA)
    run = only_run(tmp_path / "runs")
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    stock, ours = ZImagePipeline.from_pretrained(tmp_path / "out"), LayoutPipeline.from_pretrained(run)
    np.testing.assert_allclose(stock_picture(stock), own_picture(ours), atol=1e-4)


@pytest.mark.slow
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
        (["model.train_text_encoder=true", *LORA], "Set it to false"),
    ],
)
def test_what_does_not_go_with_it_is_refused(base, scenes, tmp_path, words, said):
    assert said in trained(*words_of(base, scenes, tmp_path), *words, code=2).err
