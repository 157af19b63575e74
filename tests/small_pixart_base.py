"""A PixArt-Sigma base model made on the spot: its parts in diffusers layout, of a few thousand weights."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from small_models import small_pixart, trained

WIDTH = 24  # of text


def byte_t5_tokenizer() -> T5Tokenizer:
    """A token per printable character; ends with </s>, padded with <pad>."""
    letters = ["▁", *(chr(code) for code in range(33, 127))]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), *((letter, -1.0) for letter in letters)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def pixart_pipeline(kind: type = PixArtSigmaPipeline, **changes: Any) -> Any:
    """A pipeline of random weights; ``changes`` are the transformer's."""
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
    return kind(
        tokenizer=tokenizer,
        text_encoder=T5EncoderModel(config).eval(),
        vae=vae.eval(),
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
