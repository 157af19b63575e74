"""The untrained parts of the tiny base models: tokenizer, text encoder, UNet or transformer, scheduler."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, PixArtTransformer2DModel, UNet2DConditionModel
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TEXT_WIDTH = 192
TEXT_LAYERS = 4
PROMPT_TOKENS = 77
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
WORD = re.compile(r"[a-z]+")


def write_untrained_base(
    folder: Path, *, autoencoder: AutoencoderKL, scheduler: DDPMScheduler, texts: Iterable[str], seed: int
) -> None:
    """Write a Stable-Diffusion-like folder whose autoencoder is trained and whose other parts are not.

    Args:
        folder: is made; its parts are loadable with ``from_pretrained``.
        autoencoder: the trained f8 autoencoder.
        scheduler: says which prediction the UNet is to learn.
        texts: captions and class prompts; each of their words becomes one token.
        seed: of the random weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = new_tokenizer(texts)
    torch.manual_seed(seed)  # diffusers and transformers initialise from the global generator
    parts = {
        "unet": new_unet(autoencoder.config["latent_channels"]),
        "vae": autoencoder,
        "text_encoder": new_text_encoder(tokenizer),
        "tokenizer": tokenizer,
        "scheduler": scheduler,
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {name: _origin(part) for name, part in parts.items()}
    text = json.dumps({"_class_name": "StableDiffusionPipeline", **index, **NO_EXTRAS}, indent=2)
    (folder / "model_index.json").write_text(text + "\n")


NO_EXTRAS = {
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
}


def _origin(part: object) -> list[str]:
    return [type(part).__module__.split(".")[0], type(part).__name__]


def new_tokenizer(texts: Iterable[str]) -> CLIPTokenizer:
    """CLIP's byte-pair encoding with one token for every word of ``texts``; other words fall apart into pieces."""
    words = sorted({word for text in texts for word in WORD.findall(text.lower())})
    trained = Tokenizer(BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = ByteLevel(add_prefix_space=False)
    alphabet = sorted(ByteLevel.alphabet())
    # Merging goes on until no pair is left: every word ends up whole. Among equally frequent pairs the numbers of
    # their symbols decide, which are fixed beforehand: as they turn up they would differ from call to call.
    trainer = BpeTrainer(
        vocab_size=1_000_000,
        special_tokens=[*alphabet, *(symbol + "</w>" for symbol in alphabet)],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trained.train_from_iterator(words, trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    tokens = dict.fromkeys([*alphabet, *(symbol + "</w>" for symbol in alphabet), *("".join(pair) for pair in merges)])
    vocabulary = {token: i for i, token in enumerate([*tokens, BEGIN, END])}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # pyright: ignore[reportArgumentType]  # declared as strings, read as pairs
        model_max_length=PROMPT_TOKENS,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text transformer of 4 layers, width 192."""
    begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    assert isinstance(begin, int) and isinstance(end, int) and isinstance(pad, int)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=TEXT_WIDTH // 32,
            max_position_embeddings=PROMPT_TOKENS,
            bos_token_id=begin,
            eos_token_id=end,
            pad_token_id=pad,
        )
    )


def new_unet(latent_channels: int) -> UNet2DConditionModel:
    """A UNet of 12.5 M parameters for 128x256 pictures, with cross-attention on every level."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(96, 128, 192),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        # Heads of 32 channels; diffusers calls their number by this name, and declares one for all levels.
        attention_head_dim=(3, 4, 6),  # pyright: ignore[reportArgumentType]
        norm_num_groups=32,
        use_linear_projection=True,
    )


def new_transformer(latent_channels: int, text_width: int = TEXT_WIDTH) -> PixArtTransformer2DModel:
    """PixArt's transformer, 9.1 M parameters, for 128x256 pictures; its blocks begin by changing little.

    Eight blocks of width 256 on patches of 2x2 latent cells, which predict no variance and are told no picture size.
    As in DiT (Peebles & Xie 2023, section 3.2) what modulates the blocks starts at nothing, and so do the output and
    what cross-attention adds; the gates start a little open, which makes so short a network begin sooner.
    """
    network = PixArtTransformer2DModel(
        num_attention_heads=8,
        attention_head_dim=32,
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_layers=8,
        cross_attention_dim=256,
        sample_size=32,
        patch_size=2,
        caption_channels=text_width,
        use_additional_conditions=False,
    )
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nothing = [network.adaln_single.linear.weight, network.scale_shift_table, network.proj_out.weight]
    blocks: Any = network.transformer_blocks
    for block in blocks:
        nothing += [block.attn2.to_out[0].weight, block.scale_shift_table]
    for weight in nothing:
        nn.init.zeros_(weight)
    with torch.no_grad():
        for block in blocks:
            block.scale_shift_table[[2, 5]] = 0.2  # the gates of attention and feed-forward
    return network
