"""Small UNets and random layouts. Fixtures hand out functions, so that every test says what it wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from torch import Tensor, nn

from mamoe.models.dit.pixart import MaMoEPixArtTransformer2DModel
from mamoe.models.flux.model import MaMoEFluxTransformer2DModel
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.vocabulary.conditioning import ExpertRouting, LevelConditioning, level_grids

TEXT_WIDTH = 24
POOLED_WIDTH = 20  # of a prompt as one vector, where a network is told one
SHAPES: dict[str, dict[str, Any]] = {
    "sd15": {"attention_head_dim": 2, "use_linear_projection": False},  # heads, in spite of its name
    "sd21": {"attention_head_dim": (2, 4, 4), "use_linear_projection": True},
    "sdxl": {
        "attention_head_dim": (2, 4, 4),
        "use_linear_projection": True,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
    },
}


def _made(kind: Callable[..., Any], config: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return kind(**config).eval()


def small_unet(shape: str = "sd15", **changes: Any) -> UNet2DConditionModel:
    config: dict[str, Any] = {
        "sample_size": 16,
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
        "norm_num_groups": 8,
    }
    return _made(UNet2DConditionModel, {**config, **SHAPES[shape], **changes})


def small_autoencoder(**changes: Any) -> AutoencoderKL:
    """Four halvings to latents of four channels."""
    config: dict[str, Any] = {
        "block_out_channels": (4, 4, 4, 4),
        "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        "sample_size": 64,
    }
    return AutoencoderKL(**{**config, **changes}).eval()


def small_pixart(**changes: Any) -> PixArtTransformer2DModel:
    """PixArt-Sigma in small: patches of 2x2, text of TEXT_WIDTH projected, a variance beside the prediction."""
    config: dict[str, Any] = {
        "sample_size": 16,
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": TEXT_WIDTH,
        "in_channels": 4,
        "out_channels": 8,
        "use_additional_conditions": False,
    }
    return _made(PixArtTransformer2DModel, {**config, **changes})


def small_flux(**changes: Any) -> FluxTransformer2DModel:
    """FLUX.1 in small: two double and two single blocks, guidance-distilled, latents of four channels."""
    config: dict[str, Any] = {
        "in_channels": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": TEXT_WIDTH,
        "pooled_projection_dim": POOLED_WIDTH,
        "guidance_embeds": True,
        "axes_dims_rope": (4, 6, 6),
    }
    return _made(FluxTransformer2DModel, {**config, **changes})


def small_sd3(**changes: Any) -> SD3Transformer2DModel:
    """Stable Diffusion 3.5-medium in small: three blocks, the first with a second attention."""
    config: dict[str, Any] = {
        "sample_size": 16,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": TEXT_WIDTH,
        "caption_projection_dim": 32,
        "pooled_projection_dim": POOLED_WIDTH,
        "pos_embed_max_size": 16,
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
    }
    return _made(SD3Transformer2DModel, {**config, **changes})


def small_flux2(**changes: Any) -> Flux2Transformer2DModel:
    """FLUX.2-klein in small: two double and two single blocks, latents of four channels."""
    config: dict[str, Any] = {
        "in_channels": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": TEXT_WIDTH,
        "timestep_guidance_channels": 32,
        "guidance_embeds": False,
        "axes_dims_rope": (4, 4, 4, 4),
    }
    return _made(Flux2Transformer2DModel, {**config, **changes})


def small_qwen(**changes: Any) -> QwenImageTransformer2DModel:
    """Qwen-Image in small: two blocks, latents of four channels."""
    config: dict[str, Any] = {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": TEXT_WIDTH,
        "axes_dims_rope": (4, 6, 6),
    }
    return _made(QwenImageTransformer2DModel, {**config, **changes})


def small_z_image(**changes: Any) -> ZImageTransformer2DModel:
    """Z-Image in small: a refiner each of picture and text, two joint layers, latents of four channels."""
    config: dict[str, Any] = {
        "in_channels": 4,
        "dim": 32,
        "n_layers": 2,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": TEXT_WIDTH,
        "axes_dims": [4, 6, 6],
        "axes_lens": [256, 64, 64],
    }
    return _made(ZImageTransformer2DModel, {**config, **changes})


def two_level_unet(text_width: int, dropout: float = 0.0) -> UNet2DConditionModel:
    """The smallest that trains: attention on its finer level alone."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=text_width,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        dropout=dropout,
    )


def trained(model: nn.Module) -> nn.Module:
    """The model after something happened to every weight, so that experts differ."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def small_mamoe(shape: str = "sd15", num_experts: int = 3, **options: Any) -> MaMoEUNet2DConditionModel:
    return trained(MaMoEUNet2DConditionModel.from_unet(small_unet(shape), num_experts=num_experts, **options))


def smallest_mamoe(**options: Any) -> MaMoEUNet2DConditionModel:
    """Two levels, attention on the finer one and in the middle: for torch.compile, which takes a second for a block."""
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    blocks |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    unet = small_unet(block_out_channels=(16, 32), **blocks)
    return trained(MaMoEUNet2DConditionModel.from_unet(unet, num_experts=3, **options))  # type: ignore[return-value]


def small_mamoe_pixart(num_experts: int = 3, **options: Any) -> MaMoEPixArtTransformer2DModel:
    model = MaMoEPixArtTransformer2DModel.from_transformer(small_pixart(), num_experts=num_experts, **options)
    return trained(model)  # type: ignore[return-value]


def small_mamoe_flux(num_experts: int = 3, rank: int | None = 4, **options: Any) -> MaMoEFluxTransformer2DModel:
    model = MaMoEFluxTransformer2DModel.from_transformer(small_flux(), num_experts=num_experts, **options)
    if rank is not None:
        model.add_experts(rank=rank, alpha=float(rank), generator=torch.Generator().manual_seed(4))
    return trained(model)  # type: ignore[return-value]


def hard_routing(expert: Tensor, num_experts: int) -> ExpertRouting:
    """The routing of an expert map i64[B N]."""
    flat = expert.flatten()
    ends = flat.bincount(minlength=num_experts).cumsum(0).int()
    return ExpertRouting(token=flat.argsort(stable=True), offsets=ends, weight=None)


def area_routing(share: Tensor) -> ExpertRouting:
    """The routing of shares f32[B N E] that sum to 1 per cell."""
    expert, token = share.flatten(0, 1).T.nonzero(as_tuple=True)
    ends = expert.bincount(minlength=share.shape[2]).cumsum(0).int()
    return ExpertRouting(token=token, offsets=ends, weight=share.flatten(0, 1)[token, expert])


def random_levels(
    batch: int,
    size: tuple[int, int],
    tokens: int,
    num_experts: int = 3,
    *,
    covering: bool = False,
    seed: int = 0,
    num_levels: int = 3,
) -> tuple[LevelConditioning, ...]:
    """A random layout for each image; ``covering`` = every region covers everything."""
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for grid in level_grids(size, num_levels):
        cells = grid[0] * grid[1]
        attend = torch.rand((batch, cells, tokens), generator=generator) < (2.0 if covering else 0.5)
        attend[:, :, 0] = True
        expert = torch.randint(num_experts, (batch, cells), generator=generator)
        levels.append(LevelConditioning(grid=grid, attend=attend, routing=hard_routing(expert, num_experts)))
    return tuple(levels)


def inputs(batch: int = 2, size: tuple[int, int] = (9, 14), tokens: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "sample": torch.randn((batch, 4, *size), generator=generator),
        "timestep": torch.randint(1000, (batch,), generator=generator),
        "encoder_hidden_states": torch.randn((batch, tokens, TEXT_WIDTH), generator=generator),
    }


class Models:
    """What tests build with."""

    shapes = tuple(SHAPES)
    unet = staticmethod(small_unet)
    mamoe = staticmethod(small_mamoe)
    smallest_mamoe = staticmethod(smallest_mamoe)
    pixart = staticmethod(small_pixart)
    flux = staticmethod(small_flux)
    sd3 = staticmethod(small_sd3)
    flux2 = staticmethod(small_flux2)
    qwen = staticmethod(small_qwen)
    z_image = staticmethod(small_z_image)
    mamoe_pixart = staticmethod(small_mamoe_pixart)
    mamoe_flux = staticmethod(small_mamoe_flux)
    trained = staticmethod(trained)
    levels = staticmethod(random_levels)
    inputs = staticmethod(inputs)
    hard: Callable[[Tensor, int], ExpertRouting] = staticmethod(hard_routing)
    area: Callable[[Tensor], ExpertRouting] = staticmethod(area_routing)


@pytest.fixture
def models() -> type[Models]:
    return Models
