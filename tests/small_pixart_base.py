"""A PixArt-Sigma base model made on the spot: its parts in diffusers layout, of a few thousand weights."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtSigmaPipeline
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from small_models import small_pixart

WIDTH = 24  # of text


def byte_t5_tokenizer() -> T5Tokenizer:
    """A token per printable character; ends with </s>, padded with <pad>."""
    letters = ["▁", *(chr(code) for code in range(33, 127))]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), *((letter, -1.0) for letter in letters)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def pixart_pipeline() -> PixArtSigmaPipeline:
    tokenizer = byte_t5_tokenizer()
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=64,
        scaling_factor=0.13025,
    )
    return PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=T5EncoderModel(config).eval(),
        vae=vae.eval(),
        transformer=small_pixart(sample_size=8, caption_channels=WIDTH),
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    )


def write_pixart_base(folder: Path) -> Path:
    pixart_pipeline().save_pretrained(folder)
    return folder
