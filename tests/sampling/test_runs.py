import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from mamoe.diffusion.schedules import make_scheduler
from mamoe.errors import ConfigError
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.runs.manifest import MANIFEST, manifest_of
from mamoe.sampling.folders import load_run
from mamoe.sampling.pipeline import LayoutPipeline


def close(folder):
    """Write the manifest, as training does when a checkpoint is whole."""
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / MANIFEST).write_text(manifest_of(folder, 0))


@pytest.fixture(scope="session")
def base(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "base"
    LayoutPipeline(**parts, scheduler=make_scheduler("v", zero_snr=True)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def finished_run(base, layout_unet, settings, tmp_path_factory):
    root = tmp_path_factory.mktemp("run") / "checkpoints"
    unet = MaMoEUNet2DConditionModel.from_config(layout_unet.config)
    unet.load_state_dict(layout_unet.state_dict())
    for step, marks in ((10, (1.0, 2.0)), (20, (3.0, 4.0))):
        folder = root / f"step-{step:08d}"
        for name, value in zip(("unet", "unet_ema"), marks, strict=True):
            with torch.no_grad():
                unet.conv_out.bias.fill_(value)
            unet.save_pretrained(folder / name)
        recipe = {
            "base": {"path": str(base), "revision": None, "variant": None},
            "scheduler": dict(make_scheduler("v", zero_snr=True).config),
            "layout": settings.to_dict(),
        }
        (folder / "recipe.json").write_text(json.dumps(recipe))
        close(folder)
    (root / "latest").symlink_to("step-00000020")
    (root / "best").symlink_to("step-00000010")
    return root.parent


@pytest.fixture
def run(finished_run, tmp_path):
    """Steps 10 (one weight is 1, its average 2) and 20 (3 and 4); best is 10."""
    return shutil.copytree(finished_run, tmp_path / "run", symlinks=True)


def mark(pipe) -> float:
    return pipe.unet.conv_out.bias[0].item()


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({}, 4.0),
        ({"ema": False}, 3.0),
        ({"checkpoint": "best"}, 2.0),
        ({"checkpoint": "step-00000010", "ema": False}, 1.0),
        ({"checkpoint": "10"}, 2.0),
    ],
)
def test_checkpoint_and_average(run, choice, wanted):
    assert mark(load_run(run, **choice)) == wanted


def test_pipeline_of_a_run_or_checkpoint_draws(run, make_map):
    for pipe in (LayoutPipeline.from_pretrained(run), LayoutPipeline.from_pretrained(run / "checkpoints" / "latest")):
        pipe.set_progress_bar_config(disable=True)
        asked = {"panoptic": make_map(), "num_inference_steps": 2, "output_type": "np"}
        image = pipe(**asked, generator=torch.Generator().manual_seed(0)).images
        assert image.shape == (1, 32, 48, 3) and np.isfinite(image).all()
        assert pipe.scheduler.config["timestep_spacing"] == "trailing"
        assert pipe.unet.dtype == pipe.text_encoder.dtype == pipe.vae.dtype == torch.float32


def test_half_precision_on_disk_is_read_as_float32(run, base, tmp_path):
    LayoutPipeline.from_pretrained(base, torch_dtype=torch.float16).save_pretrained(tmp_path / "half")
    pipe = load_run(run, base=tmp_path / "half")
    assert pipe.text_encoder.dtype == pipe.vae.dtype == torch.float32
    assert LayoutPipeline.from_pretrained(tmp_path / "half").text_encoder.dtype == torch.float32


def test_average_is_optional_and_links_may_be_text(run):
    shutil.rmtree(run / "checkpoints" / "step-00000020" / "unet_ema")
    close(run / "checkpoints" / "step-00000020")
    (run / "checkpoints" / "latest").unlink()
    (run / "checkpoints" / "latest").write_text("step-00000020\n")
    assert mark(load_run(run)) == 3.0


def test_trained_text_encoder_comes_from_the_checkpoint(run, base):
    trained = LayoutPipeline.from_pretrained(base).text_encoder
    with torch.no_grad():
        next(trained.parameters()).fill_(7.0)
    trained.save_pretrained(run / "checkpoints" / "latest" / "text_encoder")
    close(run / "checkpoints" / "latest")
    assert next(load_run(run).text_encoder.parameters()).flatten()[0].item() == 7.0


def test_stock_unet_of_an_ordinary_fine_tuning(run, parts, settings):
    folder = run / "checkpoints" / "step-00000020"
    shutil.rmtree(folder / "unet_ema")
    parts["unet"].save_pretrained(folder / "unet")
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["layout"] = {**settings.to_dict(), "moe": False, "region_attention": False}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    close(folder)
    assert type(load_run(run).unet) is UNet2DConditionModel


def test_moved_base(run, base, tmp_path):
    recipe = run / "checkpoints" / "latest" / "recipe.json"
    recipe.write_text(recipe.read_text().replace(str(base), str(tmp_path / "gone" / "for" / "good")))
    close(recipe.parent)
    with pytest.raises(ConfigError, match=r"If the base model has moved, give its place as base"):
        load_run(run)
    assert mark(load_run(run, base=base)) == 4.0


def test_missing_checkpoints_are_named(run, tmp_path):
    with pytest.raises(ConfigError, match=r"no checkpoint '30'. There are: best, latest, step-00000010, step-00000020"):
        load_run(run, checkpoint="30")
    with pytest.raises(ConfigError, match="It has none yet"):
        load_run(tmp_path / "none")
    (run / "checkpoints" / "step-00000020" / "recipe.json").write_text("{}")
    close(run / "checkpoints" / "step-00000020")
    with pytest.raises(ConfigError, match="lacks base, scheduler, layout"):
        load_run(run)


def test_a_damaged_checkpoint_is_refused_and_others_are_named(run):
    weights = run / "checkpoints/step-00000020/unet_ema/diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ConfigError, match=r"step-00000020 is damaged: .*unet_ema.*sha256.*--checkpoint: step-00000010"):
        load_run(run)
    assert mark(load_run(run, ema=False)) == 3.0  # reads other files
    assert mark(load_run(run, checkpoint="10")) == 2.0
    (run / "checkpoints/step-00000010" / MANIFEST).unlink()
    with pytest.raises(ConfigError, match=r"MANIFEST.json is missing"):
        load_run(run, checkpoint="10")
