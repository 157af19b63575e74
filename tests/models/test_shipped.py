"""The base models that ship with the package: found by name, sharing what they have in common."""

import pytest
import torch
from diffusers import AutoencoderKL

from mamoe.bases.other_autoencoder import WithAutoencoder
from mamoe.bases.pretrained import load_base
from mamoe.bases.shipped import FOLDER, holder_of, resolved, shipped
from mamoe.bases.sources import parts_of
from mamoe.errors import ConfigError
from mamoe.runs.source import Source
from mamoe.sampling.pipeline import LayoutPipeline


def weights(network) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_a_name_nobody_knows_is_answered_with_those_there_are():
    assert shipped() == ["package:tiny", "package:tiny_dit"]
    with pytest.raises(ConfigError, match=r"there is package:tiny, package:tiny_dit"):
        resolved("package:tiny-dit")
    with pytest.raises(ConfigError, match="ships with the package"):
        resolved("package:../bases")


def test_what_two_models_share_is_stored_once():
    tiny, dit = resolved("package:tiny"), resolved("package:tiny_dit")
    assert [holder_of(dit, part) for part in ("vae", "text_encoder", "tokenizer", "transformer")] == [*[tiny] * 3, dit]
    assert holder_of("/somewhere/else", "vae") == "/somewhere/else"
    assert sum(path.stat().st_size for path in (FOLDER / "tiny_dit").rglob("*")) < 20 * 2**20


def test_the_tiny_transformer_is_whole_and_reads_what_the_tiny_text_encoder_gives():
    base, unet = load_base("package:tiny_dit"), load_base("package:tiny")
    assert weights(base.unet) == pytest.approx(9.1, abs=0.1) and weights(base.text_encoder) < 2
    assert base.unet.config["caption_channels"] == unet.unet.config["cross_attention_dim"]
    assert all((a == b).all() for a, b in zip(base.vae.parameters(), unet.vae.parameters(), strict=True))


def test_its_pipeline_saves_all_parts(tmp_path):
    LayoutPipeline.from_pretrained("package:tiny_dit").save_pretrained(tmp_path)
    again = LayoutPipeline.from_pretrained(tmp_path)
    assert again.scheduler.config["shift"] == 1.0 and (tmp_path / "vae/config.json").is_file()
    picture = again("a red car on a road", height=64, width=64, num_inference_steps=1).images[0]
    assert picture.size == (64, 64)


def test_its_autoencoder_can_stand_in_for_another():
    parts = parts_of(Source(path="package:tiny", vae="package:tiny_dit"))
    assert isinstance(parts, WithAutoencoder)
    assert parts.network(AutoencoderKL, "vae", torch.float32).config["latent_channels"] == 12
