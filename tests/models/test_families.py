"""The architectures that ship as JSON are the published ones: their sizes are known to the last weight."""

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mamoe.bases.pretrained import text_problems
from mamoe.bases.single_file import FAMILIES, Family
from mamoe.models.experts.moe import MoEFeedForward
from mamoe.models.unet.block import MaMoETransformerBlock
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.vocabulary.conditioning import LevelConditioning, level_grids

UNETS = {"sd15": 859_520_964, "sd21": 865_910_724, "sd21_base": 865_910_724, "sdxl": 2_567_463_684}
FIRST = {"sd15": 123_060_480, "sd21": 340_387_840, "sd21_base": 340_387_840, "sdxl": 123_060_480}
SECOND = 694_659_840
AUTOENCODER = 83_653_863


def size(network) -> int:
    return sum(weight.numel() for weight in network.parameters())


def of_family(kind, family: str, part: str):
    with torch.device("meta"):
        return kind.from_config(kind.load_config(str(FAMILIES / family), subfolder=part))


def text_of(kind, family: str, part: str):
    with torch.device("meta"):
        return kind(CLIPTextConfig.from_pretrained(str(FAMILIES / family), subfolder=part))


@pytest.mark.parametrize("family", list(Family))
def test_every_part_has_its_published_size(family):
    unet, vae = of_family(UNet2DConditionModel, family, "unet"), of_family(AutoencoderKL, family, "vae")
    encoders = [text_of(CLIPTextModel, family, "text_encoder")]
    if (FAMILIES / family / "text_encoder_2").is_dir():
        encoders.append(text_of(CLIPTextModelWithProjection, family, "text_encoder_2"))
        assert size(encoders[1]) == SECOND
    assert (size(unet), size(encoders[0]), size(vae)) == (UNETS[family], FIRST[family], AUTOENCODER)
    assert text_problems(unet.config, encoders) == []
    scheduler = DDPMScheduler.from_pretrained(FAMILIES / family, subfolder="scheduler")
    assert scheduler.config["prediction_type"] == ("v_prediction" if family == "sd21" else "epsilon")


def test_sdxl_gets_experts_where_it_has_transformer_blocks():
    stock = of_family(UNet2DConditionModel, Family.SDXL, "unet")
    model = MaMoEUNet2DConditionModel.from_unet(stock, num_experts=5)
    experts = {name: layer for name, layer in model.named_modules() if isinstance(layer, MoEFeedForward)}
    depths = {}  # of every attention: its transformer blocks
    for name in experts:
        depths[name.split(".transformer_blocks")[0]] = depths.get(name.split(".transformer_blocks")[0], 0) + 1
    assert depths == {
        **{f"down_blocks.1.attentions.{i}": 2 for i in range(2)},
        **{f"down_blocks.2.attentions.{i}": 10 for i in range(2)},
        "mid_block.attentions.0": 10,
        **{f"up_blocks.0.attentions.{i}": 10 for i in range(3)},
        **{f"up_blocks.1.attentions.{i}": 2 for i in range(3)},
    }
    levels = {m.level for m in model.modules() if isinstance(m, MaMoETransformerBlock)}
    assert levels == {1, 2}
    # A GEGLU feed-forward of width C: C x 8C + 8C, then 4C x C + C.
    one_of_each = sum(12 * layer.net[2].out_features ** 2 + 9 * layer.net[2].out_features for layer in experts.values())
    assert size(model) == UNETS["sdxl"] + 4 * one_of_each
    assert size(model.to_dense()) == UNETS["sdxl"]


@pytest.mark.slow
def test_sdxl_runs_at_its_real_size_without_memory():
    with torch.device("meta"):
        model = MaMoEUNet2DConditionModel.from_unet(of_family(UNet2DConditionModel, Family.SDXL, "unet")).eval()
        levels = tuple(
            LevelConditioning(grid=grid, attend=torch.ones(1, grid[0] * grid[1], 80, dtype=torch.bool), routing=None)
            for grid in level_grids((64, 128), 3)
        )
        output = model(
            torch.zeros(1, 4, 64, 128),
            torch.tensor([10]),
            torch.zeros(1, 80, 2048),
            cross_attention_kwargs={"regions": levels},
            added_cond_kwargs={"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)},
        )
    assert output.sample.shape == (1, 4, 64, 128)
