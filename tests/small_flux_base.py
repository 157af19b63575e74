"""A FLUX.1 base model made on the spot: its parts in diffusers layout, of some thousand weights."""

import tempfile
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

from small_models import TEXT_WIDTH, small_autoencoder, small_flux
from small_text import byte_encoder, byte_t5_tokenizer, byte_tokenizer, small_t5

POOLED = 16  # of CLIP's vector
PROMPT_TOKENS = 128  # T5's limit here, padding included
# As FLUX.1-dev's, but that its line of shifts lies where these small pictures are.
SCHEDULE = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64, "shift": 3.0}


def flux_pipeline(*, distilled: bool = True, schedule: dict | None = None, **sizes) -> FluxPipeline:
    words = byte_t5_tokenizer()
    words.model_max_length = PROMPT_TOKENS
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = byte_tokenizer(Path(folder))
    torch.manual_seed(3)
    vae = small_autoencoder(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
    return FluxPipeline(
        tokenizer=tokenizer,
        text_encoder=byte_encoder(seed=4),
        tokenizer_2=words,
        text_encoder_2=small_t5(words, TEXT_WIDTH),
        vae=vae,
        transformer=small_flux(pooled_projection_dim=POOLED, guidance_embeds=distilled, **sizes),
        scheduler=FlowMatchEulerDiscreteScheduler(**{**SCHEDULE, **(schedule or {})}),
    )


def write_flux_base(folder: Path, **options) -> Path:
    flux_pipeline(**options).save_pretrained(folder)
    return folder
