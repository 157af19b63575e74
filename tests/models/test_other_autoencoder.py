"""model.vae: another autoencoder in the base's place, in the training, its checkpoints and its exports."""

import json

import pytest
import torch
from diffusers import AutoencoderKL

from factories import mamoe, only_run, short_run
from mamoe import LayoutPipeline
from mamoe.bases.pretrained import load_base
from mamoe.errors import ConfigError
from wholeruns import trained


def other(base_model, folder, **changes):
    """The base's own autoencoder, a little different."""
    own = AutoencoderKL.from_pretrained(base_model, subfolder="vae")
    torch.manual_seed(1)
    vae = AutoencoderKL.from_config({**own.config, **changes})
    vae.save_pretrained(folder)
    return vae


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.slow
def test_a_run_and_its_export_keep_it(base_model, scenes, tmp_path):
    wanted = other(base_model, tmp_path / "vae")
    words = [f"model.vae={tmp_path / 'vae'}", "callbacks.samples=null", "callbacks.validation=null"]
    trained(*short_run(base_model, scenes, tmp_path / "runs"), *words)
    run = only_run(tmp_path / "runs")
    recipe = json.loads((run / "checkpoints/latest/recipe.json").read_text())
    assert recipe["base"]["vae"] == str((tmp_path / "vae").resolve())
    assert same(LayoutPipeline.from_pretrained(run).vae, wanted)
    assert mamoe("export", run, tmp_path / "out", "--weights", "fp32").code == 0
    assert same(AutoencoderKL.from_pretrained(tmp_path / "out", subfolder="vae"), wanted)
    card = (tmp_path / "out/README.md").read_text()
    assert "with the autoencoder vae" in card and str(tmp_path) not in card
    assert same(load_base(str(run)).vae, wanted)  # a training from there goes on with it
    assert not same(load_base(str(base_model)).vae, wanted)


def test_of_a_model_that_has_one(base_model, tmp_path):
    assert same(load_base(str(base_model), vae=str(base_model)).vae, load_base(str(base_model)).vae)


def test_what_makes_other_latents_is_refused(base_model, tmp_path):
    for name, changes, message in (
        ("more", {"latent_channels": 8}, "it makes 8 channels, the model's own 4"),
        ("scaled", {"scaling_factor": 0.5}, r"scaling_factor is 0\.5"),
        (
            "coarse",
            {
                "block_out_channels": [8, 8, 8],
                "down_block_types": ["DownEncoderBlock2D"] * 3,
                "up_block_types": ["UpDecoderBlock2D"] * 3,
            },
            "cell is 4 pixels wide, that of the model's own 8",
        ),
    ):
        other(base_model, tmp_path / name, **changes)
        with pytest.raises(ConfigError, match=message):
            load_base(str(base_model), vae=str(tmp_path / name))
    with pytest.raises(ConfigError, match="no autoencoder can be read there"):
        load_base(str(base_model), vae=str(tmp_path))
    (tmp_path / "vae.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="is a file; wanted a folder"):
        load_base(str(base_model), vae=str(tmp_path / "vae.safetensors"))
