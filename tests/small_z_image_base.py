"""A Z-Image base model made on the spot: its parts in diffusers layout, of some thousand weights."""

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline
from transformers import Qwen3Model

from small_klein_base import WIDTH, byte_qwen_tokenizer, small_qwen
from small_models import small_autoencoder, small_z_image


def z_image_pipeline() -> ZImagePipeline:
    tokenizer = byte_qwen_tokenizer()
    torch.manual_seed(3)
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=small_autoencoder(scaling_factor=0.36, shift_factor=0.12, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=Qwen3Model(small_qwen(tokenizer, layers=3)).eval(),
        tokenizer=tokenizer,
        transformer=small_z_image(cap_feat_dim=WIDTH),
    )


def write_z_image_base(folder: Path) -> Path:
    z_image_pipeline().save_pretrained(folder)
    return folder
