"""A Stable Diffusion 3 from the base model's folder to pictures and into its own pipeline, by LoRA."""

import json

import numpy as np
import pytest
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

from factories import mamoe, only_run
from loraruns import (
    METHODS,
    PICTURE,
    PLAIN,
    Family,
    assert_goes_out,
    assert_grids_and_jobs_are_drawn,
    noise,
    own_picture,
    trained_and_resumed,
    words_of,
)
from mamoe import LayoutPipeline
from mamoe.models.sd3.model import MaMoESD3Transformer2DModel
from small_sd3_base import PLACES, T5_WORDS, write_sd3_base
from wholeruns import SMALL, draw, trained


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_sd3_base(tmp_path_factory.mktemp("sd3"))


def stock_picture(pipe):
    pipe.set_progress_bar_config(disable=True)
    options = {**PICTURE, "guidance_scale": 3.5}
    return pipe("a street", latents=noise(), max_sequence_length=T5_WORDS, **options).images


@pytest.fixture(scope="module")
def family(base):
    return Family(base=base, pipeline=StableDiffusion3Pipeline, picture=stock_picture, atol=1e-4, differs=1e-3)


@pytest.mark.parametrize("method", ["lora", pytest.param("lora_experts", marks=pytest.mark.slow)])
def test_it_trains_resumes_to_the_bit_draws_and_is_exported(family, scenes, tmp_path, method):
    run = trained_and_resumed(family.base, scenes, tmp_path, *METHODS[method])
    learned = load_file(run / "checkpoints/latest/unet/adapter.safetensors")
    assert any(value.abs().max() > 0 for name, value in learned.items() if name.endswith(".up_EFr"))
    pipe = LayoutPipeline.from_pretrained(run)
    assert isinstance(pipe.unet, MaMoESD3Transformer2DModel) and pipe.unet.config["expert_rank"] == 4
    assert pipe.scheduler.config["shift"] == 3.0
    assert_goes_out(run, family, scenes, tmp_path, method)


def test_without_layout_and_t5_it_is_exported_as_its_own_pipeline(scenes, tmp_path):
    base = write_sd3_base(tmp_path / "base", t5=False)
    trained(*words_of(base, scenes, tmp_path / "runs"), *SMALL, *PLAIN, *METHODS["lora"])
    run = only_run(tmp_path / "runs")
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    index = json.loads((tmp_path / "out/model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusion3Pipeline" and index["text_encoder_3"] == [None, None]
    without = {"text_encoder_3": None, "tokenizer_3": None}
    stock = StableDiffusion3Pipeline.from_pretrained(tmp_path / "out", **without)
    options = {**PICTURE, "guidance_scale": 3.5}
    wanted = stock("a street", latents=noise(), **options).images
    np.testing.assert_allclose(wanted, own_picture(LayoutPipeline.from_pretrained(run)), atol=1e-4)


@pytest.mark.slow
def test_grids_and_sampling_jobs_are_drawn(base, scenes, tmp_path):
    words = ["cache.latents=true", "layout.global_padding=false", "layout.blocks=[0,1]"]
    assert_grids_and_jobs_are_drawn(base, scenes, tmp_path, *METHODS["lora"], *words)


@pytest.mark.slow
def test_frozen_weights_and_t5_in_fewer_bits(base, scenes, tmp_path):
    pytest.importorskip("bitsandbytes")
    words = ["trainer.precision=bf16-mixed", "model.frozen_precision=int8", "model.text_precision=int8"]
    run = trained_and_resumed(base, scenes, tmp_path, *METHODS["lora_experts"], *words)
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
