"""A PixArt-Sigma base model made on the spot: its parts in diffusers layout, of a few thousand weights."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from small_models import small_autoencoder, small_pixart, trained
from small_text import byte_t5_tokenizer, small_t5

WIDTH = 24  # of text


def pixart_pipeline(kind: type = PixArtSigmaPipeline, **changes: Any) -> Any:
    """A pipeline of random weights; ``changes`` are the transformer's."""
    tokenizer = byte_t5_tokenizer()
    torch.manual_seed(3)
    vae = small_autoencoder(scaling_factor=0.13025)
    return kind(
        tokenizer=tokenizer,
        text_encoder=small_t5(tokenizer, WIDTH),
        vae=vae,
        transformer=small_pixart(**{"sample_size": 8, "caption_channels": WIDTH, **changes}),
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    )


def write_pixart_base(folder: Path) -> Path:
    pixart_pipeline().save_pretrained(folder)
    return folder


def write_alpha_base(folder: Path) -> Path:
    """PixArt-alpha's at 1024 pixels, which is told how large pictures are; written to ``folder``."""
    wide = {"num_attention_heads": 3, "cross_attention_dim": 24}  # a third for each of height, width and aspect ratio
    # The stock pipeline goes by this size.
    pipeline = pixart_pipeline(PixArtAlphaPipeline, sample_size=128, use_additional_conditions=True, **wide)
    trained(pipeline.transformer)  # sizes come in through a layer that starts at zero
    pipeline.save_pretrained(folder)
    return folder


def write_sentencepiece(folder: Path, sentences: Iterable[str]) -> SentencePieceProcessor:
    """Train T5's kind of vocabulary and write it to ``folder`` as its first publications have it."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    )
    for file in folder.iterdir():
        file.unlink()
    (folder / "spiece.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"extra_ids": 0, "model_max_length": 512}))
    return SentencePieceProcessor(model_proto=model.getvalue())
