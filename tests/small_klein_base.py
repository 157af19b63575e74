"""A FLUX.2-klein base model made on the spot: its parts in diffusers layout, of some thousand weights."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from small_models import small_flux2

WIDTH = 8  # of a layer of the language model
PROMPT_TOKENS = 160  # its limit here, template and padding included
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    "{% if enable_thinking is false %}<think>{% endif %}"
)


def byte_qwen_tokenizer() -> Qwen2Tokenizer:
    """A token per byte, and a chat template."""
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=PROMPT_TOKENS
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def flux2_autoencoder() -> AutoencoderKLFlux2:
    """Random, with statistics of its patches."""
    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=4, latent_channels=4, layers_per_block=1, sample_size=64
    )
    vae.bn.running_mean.copy_(torch.randn(16) * 0.1)
    vae.bn.running_var.copy_(torch.rand(16) + 0.5)
    return vae.eval()


def small_qwen(tokenizer: Qwen2Tokenizer, layers: int) -> Qwen3Config:
    """Of a language model that knows the tokenizer's words."""
    return Qwen3Config(
        vocab_size=len(tokenizer) + 5,
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        max_position_embeddings=512,
    )


def klein_pipeline() -> Flux2KleinPipeline:
    tokenizer = byte_qwen_tokenizer()
    torch.manual_seed(3)
    vae = flux2_autoencoder()
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(small_qwen(tokenizer, layers=28)).eval(),
        tokenizer=tokenizer,
        transformer=small_flux2(joint_attention_dim=3 * WIDTH),
    )


def write_klein_base(folder: Path) -> Path:
    klein_pipeline().save_pretrained(folder)
    return folder
