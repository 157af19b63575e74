"""A Stable Diffusion 3 base model made on the spot: its parts in diffusers layout, of some thousand weights."""

import tempfile
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection

from small_models import small_autoencoder, small_sd3
from small_text import byte_config, byte_t5_tokenizer, byte_tokenizer, small_t5

WIDTH = 40  # of the text that the transformer reads, and T5's; CLIP's are 16 each
T5_WORDS = 64  # tokens of a prompt that T5 reads here, padding included
PLACES = 32  # cells a side


def sd3_pipeline(*, t5: bool = True, **sizes) -> StableDiffusion3Pipeline:
    words = byte_t5_tokenizer()
    words.model_max_length = T5_WORDS
    with tempfile.TemporaryDirectory() as folder:
        tokenizers = [byte_tokenizer(Path(folder)) for _ in range(2)]
    torch.manual_seed(3)
    clip = [CLIPTextModelWithProjection(_projecting(width)).eval() for width in (12, 20)]
    vae = small_autoencoder(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
    return StableDiffusion3Pipeline(
        tokenizer=tokenizers[0],
        text_encoder=clip[0],
        tokenizer_2=tokenizers[1],
        text_encoder_2=clip[1],
        tokenizer_3=words if t5 else None,
        text_encoder_3=small_t5(words, WIDTH) if t5 else None,
        vae=vae,
        transformer=small_sd3(
            joint_attention_dim=WIDTH, pooled_projection_dim=32, pos_embed_max_size=PLACES // 2, **sizes
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _projecting(width: int):
    config = byte_config(layers=2)
    config.projection_dim = width
    return config


def write_sd3_base(folder: Path, **options) -> Path:
    sd3_pipeline(**options).save_pretrained(folder)
    return folder
