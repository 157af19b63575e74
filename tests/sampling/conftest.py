"""A pipeline with all its parts, small enough to draw in a moment: random weights, one token per byte."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from mamoe.diffusion.sampler import ddim_scheduler
from mamoe.diffusion.schedules import make_scheduler
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy
from small_text import byte_config, byte_tokenizer


@pytest.fixture(scope="session")
def taxonomy() -> Taxonomy:
    return Taxonomy.load("cityscapes")


@pytest.fixture(scope="session")
def settings(taxonomy) -> LayoutSettings:
    return LayoutSettings(taxonomy=taxonomy, grouping="extreme_things")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> CLIPTokenizer:
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def parts(tokenizer) -> dict:
    """The networks of a base model: stock UNet, autoencoder (factor 8), text encoder, tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=4,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=8,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
        )
        text_encoder = CLIPTextModel(byte_config(layers=1))
    return {"unet": unet.eval(), "vae": vae.eval(), "text_encoder": text_encoder.eval(), "tokenizer": tokenizer}


@pytest.fixture(scope="session")
def layout_unet(parts, settings) -> MaMoEUNet2DConditionModel:
    """Experts that differ and cross-attention that matters, or no test could see where a cell was sent."""
    unet = MaMoEUNet2DConditionModel.from_unet(parts["unet"], num_experts=settings.num_experts)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for name, weight in unet.named_parameters():
            if ".experts." in name:
                weight += 0.3 * torch.randn_like(weight)
            if ".attn2." in name:
                weight *= 3
    return unet.eval()


@pytest.fixture
def make_pipe(parts, layout_unet, settings) -> Callable[..., LayoutPipeline]:
    """A fresh pipeline; ``layout=False`` is the base model."""

    def make(layout: bool = True, zero_snr: bool = True, **changes) -> LayoutPipeline:
        scheduler = ddim_scheduler(make_scheduler("v" if zero_snr else "epsilon", zero_snr=zero_snr).config)
        given = {**parts, "scheduler": scheduler}
        if layout:
            given |= {"unet": layout_unet, "layout": settings.to_dict()}
        pipe = LayoutPipeline(**{**given, **changes})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture
def pipe(make_pipe) -> LayoutPipeline:
    return make_pipe()


@pytest.fixture(scope="session")
def make_map() -> Callable[..., PanopticMap]:
    """Sky above road, with a car (segment 7) and a person (segment 300) at places ``seed`` chooses."""

    def make(seed: int = 0, height: int = 32, width: int = 48) -> PanopticMap:
        rng = np.random.default_rng(seed)
        segment = np.full((height, width), 1, dtype=np.int32)
        segment[height // 2 :] = 2
        y, x = int(rng.integers(0, height - 16)), int(rng.integers(0, width // 2 - 16))
        segment[y : y + 16, x : x + 16] = 7
        segment[y : y + 16, x + 24 : x + 32] = 300
        class_of = np.zeros(301, dtype=np.uint8)
        class_of[[1, 2, 7, 300]] = (10, 0, 13, 11)
        return PanopticMap(segment_id=segment, class_id=class_of[segment])

    return make
