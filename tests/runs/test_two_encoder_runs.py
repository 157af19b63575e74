"""Whole runs on a base model of the SDXL kind."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

from factories import mamoe, only_run, short_run
from mamoe import LayoutPipeline, MaMoEUNet2DConditionModel
from wholeruns import SMALL, WEIGHTS, assert_equal, cut_back, draw, tensors, trained

STEPS = 4


@pytest.fixture(scope="module")
def run(xl_base, scenes, tmp_path_factory):
    runs = tmp_path_factory.mktemp("xl") / "runs"
    trained(*short_run(xl_base, scenes, runs))
    return only_run(runs)


@pytest.mark.slow
def test_it_trains_and_samples_as_it_goes(run, xl_base):
    before, after = load_file(xl_base / "unet" / WEIGHTS), load_file(run / "checkpoints/latest/unet" / WEIGHTS)
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name.split(".")[0] for name in before} == {name.split(".")[0] for name in moved}
    assert any(name.startswith("add_embedding.linear_1") for name in moved)  # pooled prompt and sizes
    assert (run / f"samples/step-{STEPS:08d}/grid.png").is_file()
    assert len(list((run.parents[1] / "cache/text").iterdir())) == 1


@pytest.mark.slow
def test_resumed_equals_uninterrupted(run, tmp_path):
    copy = cut_back(run, tmp_path / "copy", STEPS // 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, STEPS), tensors(copy, STEPS))


def test_an_exported_run_draws_the_same_picture(run, scenes, tmp_path):
    picture = draw(LayoutPipeline.from_pretrained(run), scenes)
    assert mamoe("export", run, tmp_path / "out", "--weights", "fp32").code == 0
    exported = LayoutPipeline.from_pretrained(tmp_path / "out")
    assert isinstance(exported.unet, MaMoEUNet2DConditionModel) and exported.text_encoder_2 is not None
    assert np.array_equal(draw(exported, scenes), picture)


def test_without_layout_it_is_exported_as_a_stock_pipeline(xl_base, scenes, tmp_path):
    off = [
        "layout.region_attention=false",
        "layout.moe=false",
        "layout.global_prompt=true",
        "layout.global_padding=true",
        "layout.moe_levels=null",
    ]
    trained(*short_run(xl_base, scenes, tmp_path / "runs"), *SMALL, "trainer.max_steps=1", *off)
    run = only_run(tmp_path / "runs")
    assert mamoe("export", run, tmp_path / "out", "--weights", "fp32").code == 0
    index = json.loads((tmp_path / "out/model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline" and index["force_zeros_for_empty_prompt"]
    stock = StableDiffusionXLPipeline.from_pretrained(tmp_path / "out", add_watermarker=False)
    stock.set_progress_bar_config(disable=True)
    ours = LayoutPipeline.from_pretrained(run)
    ours.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 32, "width": 32, "output_type": "np"}
    drawn = [one("red car", generator=torch.Generator().manual_seed(0), **asked).images for one in (stock, ours)]
    assert np.abs(drawn[0] - drawn[1]).max() < 1e-4


def test_two_text_encoders_are_not_trained(xl_base, scenes, tmp_path):
    words = [*short_run(xl_base, scenes, tmp_path / "runs"), *SMALL, "model.train_text_encoder=true"]
    assert "has two, which stay as they are" in " ".join(trained(*words, code=2).err.split())
