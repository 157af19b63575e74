"""A FLUX.1 from the base model's folder to pictures and into its own pipeline, by LoRA, through the commands."""

import pytest
from diffusers import FluxPipeline
from safetensors.torch import load_file

from factories import mamoe
from loraruns import (
    LORA,
    METHODS,
    PICTURE,
    Family,
    assert_goes_out,
    assert_grids_and_jobs_are_drawn,
    assert_is_its_own_pipeline,
    noise,
    trained_and_resumed,
    words_of,
)
from mamoe import LayoutPipeline
from mamoe.models.flux.model import MaMoEFluxTransformer2DModel
from small_flux_base import PROMPT_TOKENS, write_flux_base
from wholeruns import trained


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_flux_base(tmp_path_factory.mktemp("flux"))


def stock_picture(pipe):
    pipe.set_progress_bar_config(disable=True)
    options = {**PICTURE, "guidance_scale": 3.5}
    packed = FluxPipeline._pack_latents(noise(), 1, 4, 8, 8)
    return pipe("a street", latents=packed, max_sequence_length=PROMPT_TOKENS, **options).images


@pytest.fixture(scope="module")
def family(base):
    return Family(base=base, pipeline=FluxPipeline, picture=stock_picture, atol=1e-4, differs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_trains_resumes_to_the_bit_draws_and_is_exported(family, scenes, tmp_path, method):
    run = trained_and_resumed(family.base, scenes, tmp_path, *METHODS[method])
    learned = load_file(run / "checkpoints/latest/unet/adapter.safetensors")
    assert any(value.abs().max() > 0 for name, value in learned.items() if name.endswith(".up_EFr"))
    assert any("lora_A" in name for name in learned) == (method == "lora")
    pipe = LayoutPipeline.from_pretrained(run)
    assert isinstance(pipe.unet, MaMoEFluxTransformer2DModel) and pipe.unet.config["num_experts"] > 1
    assert pipe.scheduler.config["use_dynamic_shifting"]
    assert_goes_out(run, family, scenes, tmp_path, method)
    refused = mamoe("export", str(run), str(tmp_path / "kohya"), "--format", "kohya")
    assert refused.code == 2 and "take diffusers-lora" in refused.err


def test_without_layout_it_is_exported_as_its_own_pipeline(family, scenes, tmp_path):
    assert_is_its_own_pipeline(family, scenes, tmp_path)


def test_grids_and_sampling_jobs_are_drawn(base, scenes, tmp_path):
    assert_grids_and_jobs_are_drawn(base, scenes, tmp_path, *LORA, "cache.latents=true")


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
