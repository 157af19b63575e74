"""A tokenizer of bytes and text encoders of it, made on the spot."""

import json
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

LIMIT = 24  # tokens of a prompt


def byte_tokenizer(folder: Path) -> CLIPTokenizer:
    """One token per byte; begin 512, end 513, padded with '!'. 24 tokens at most. Written to ``folder``."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": LIMIT, "pad_token": "!"}))
    return CLIPTokenizer.from_pretrained(folder)


def byte_config(layers: int) -> CLIPTextConfig:
    """A text transformer of width 16 for the tokens of :func:`byte_tokenizer`."""
    return CLIPTextConfig(
        vocab_size=514,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=LIMIT,
        bos_token_id=512,
        eos_token_id=513,
    )


def byte_encoder(seed: int, layers: int = 2) -> CLIPTextModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIPTextModel(byte_config(layers)).eval()


def byte_t5_tokenizer() -> T5Tokenizer:
    """A token per printable character; ends with </s>, padded with <pad>."""
    letters = ["▁", *(chr(code) for code in range(33, 127))]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), *((letter, -1.0) for letter in letters)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def small_t5(tokenizer: T5Tokenizer, width: int) -> T5EncoderModel:
    """An encoder of text of this width, of random weights."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config).eval()
