"""A transformer from the base model's folder to pictures and back into its own pipeline, through the commands."""

import json

import numpy as np
import pytest
import torch
from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline
from PIL import Image

from factories import drawn_data, mamoe, only_run, short_run
from mamoe import LayoutPipeline
from mamoe.models.dit.pixart import MaMoEPixArtTransformer2DModel
from small_pixart_base import write_alpha_base, write_pixart_base
from wholeruns import SMALL, assert_equal, cut_back, draw, tensors, trained


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_pixart_base(tmp_path_factory.mktemp("pixart"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_trains_resumes_to_the_bit_draws_and_is_exported(base, scenes, tmp_path, method):
    words = short_run(base, scenes, tmp_path / "runs")
    words += ["method=lora", "method.rank=4", "method.conv=false"] if method == "lora" else []
    trained(*words, "callbacks.samples=null")
    run = only_run(tmp_path / "runs")
    copy = cut_back(run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
    pipe = LayoutPipeline.from_pretrained(run)
    assert isinstance(pipe.unet, MaMoEPixArtTransformer2DModel) and pipe.unet.config["num_experts"] > 1
    drawn = draw(pipe, scenes)
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    again = LayoutPipeline.from_pretrained(tmp_path / "out")
    np.testing.assert_array_equal(draw(again, scenes), drawn)
    trained(*short_run(tmp_path / "out", scenes, tmp_path / "more"), *SMALL, "trainer.max_steps=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["method=dora", "method.rank=4", "method.conv=false"], id="dora"),
        pytest.param(["method=lora_experts"], id="lora_experts"),
        pytest.param(["method=shared_expert"], id="shared_expert"),
        pytest.param(["cache.latents=false"], id="pictures"),
        pytest.param(["objective.prediction=flow", "objective.shift=3"], id="flow"),
        pytest.param(["regions.strength=learned"], id="learned"),
    ],
)
def test_it_goes_on_to_the_bit_however_it_is_trained(base, scenes, tmp_path, words):
    trained(*short_run(base, scenes, tmp_path / "runs"), *words, "callbacks.samples=null")
    run = only_run(tmp_path / "runs")
    copy = cut_back(run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    np.testing.assert_array_equal(
        draw(LayoutPipeline.from_pretrained(tmp_path / "out"), scenes),
        draw(LayoutPipeline.from_pretrained(run), scenes),
    )


@pytest.mark.slow
def test_pictures_of_any_aspect_train_in_buckets_of_whole_patches(base, tmp_path):
    data = drawn_data(tmp_path / "data", {"train": 6, "val": 2}, height=64, width=64)
    for file in sorted((data / "images/train").iterdir())[:3]:  # half of them are wide
        for path in (file, data / "panoptic/train" / file.name):
            with Image.open(path) as picture:
                wide = picture.crop((0, 0, 64, 44))
            wide.save(path)
    words = [*short_run(base, data, tmp_path / "runs"), "data.buckets=true", "data.crop=null", *SMALL]
    said = trained(*words, code=2).err
    assert "multiples of 16 pixels" in said and "data.multiple=16" in said
    trained(*words, "data.multiple=16", "callbacks.checkpoints.every=2")
    run = only_run(tmp_path / "runs")
    copy = cut_back(run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))


@pytest.mark.slow
def test_alpha_is_told_sizes_and_exported_as_its_own_pipeline(scenes, tmp_path):
    base = write_alpha_base(tmp_path / "alpha")
    trained(*short_run(base, scenes, tmp_path / "steered"), "callbacks.samples=null")
    run = only_run(tmp_path / "steered")
    copy = cut_back(run, tmp_path / "copy", 2)
    trained(f"resume={copy}")
    assert_equal(tensors(run, 4), tensors(copy, 4))
    plain = ["layout.moe=false", "layout.region_attention=false", "layout.global_prompt=true"]
    trained(*short_run(base, scenes, tmp_path / "runs"), *SMALL, *plain)
    assert mamoe("export", str(only_run(tmp_path / "runs")), str(tmp_path / "out"), "--weights", "fp32").code == 0
    stock = PixArtAlphaPipeline.from_pretrained(tmp_path / "out")
    ours = LayoutPipeline.from_pretrained(only_run(tmp_path / "runs"))
    for pipe in (stock, ours):
        pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "output_type": "np", "height": 64, "width": 64, "guidance_scale": 4.5}
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    wanted = stock("a street", latents=noise, use_resolution_binning=False, **options).images
    got = ours("a street", generator=torch.Generator().manual_seed(1), **options).images
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_without_layout_it_is_exported_as_its_own_pipeline(base, scenes, tmp_path):
    plain = ["layout.moe=false", "layout.region_attention=false", "layout.global_prompt=true"]
    trained(*short_run(base, scenes, tmp_path / "runs"), *SMALL, *plain, "callbacks.samples=null")
    run = only_run(tmp_path / "runs")
    assert mamoe("export", str(run), str(tmp_path / "out"), "--weights", "fp32").code == 0
    assert json.loads((tmp_path / "out/model_index.json").read_text())["_class_name"] == "PixArtSigmaPipeline"
    stock, ours = PixArtSigmaPipeline.from_pretrained(tmp_path / "out"), LayoutPipeline.from_pretrained(run)
    for pipe in (stock, ours):
        pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "output_type": "np", "height": 64, "width": 64}
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    wanted = stock("a street", latents=noise, use_resolution_binning=False, guidance_scale=4.5, **options).images
    got = ours("a street", generator=torch.Generator().manual_seed(1), guidance_scale=4.5, **options).images
    np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.size=[72,64]"], "multiples of 16 pixels"),
        (["method=decoder"], "no such part"),
        (["method=controlnet_xs", "data.condition=classes"], "condition picture"),
        (["loss=perceptual"], "choose another loss"),
    ],
)
def test_what_does_not_go_with_a_transformer_is_refused(base, scenes, tmp_path, words, said):
    assert said in trained(*short_run(base, scenes, tmp_path), *words, code=2).err
