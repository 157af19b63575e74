"""Which kind of encoder the text encoders of a base model make together."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3ForCausalLM, T5EncoderModel

from mamoe.conditioning.encoded import EmbeddingCache
from mamoe.conditioning.pooled_text import PooledPromptEncoder
from mamoe.conditioning.stacked_text import StackedPromptEncoder
from mamoe.conditioning.text import PromptEncoder


def encoder_for(
    tokenizer: Any,
    text_encoder: Any,
    cache: EmbeddingCache | None = None,
    *,
    tokenizer_2: Any = None,
    text_encoder_2: Any = None,
    zero_empty: bool = False,
    device: torch.device | None = None,
) -> PromptEncoder:
    """What encodes prompts as the base model's network reads them; arguments as of :class:`PromptEncoder`."""
    if isinstance(text_encoder_2, T5EncoderModel):
        return PooledPromptEncoder(
            tokenizer, text_encoder, cache, tokenizer_2=tokenizer_2, text_encoder_2=text_encoder_2, device=device
        )
    if isinstance(text_encoder, Qwen3ForCausalLM):
        return StackedPromptEncoder(tokenizer, text_encoder, cache, device=device)
    return PromptEncoder(
        tokenizer,
        text_encoder,
        cache,
        tokenizer_2=tokenizer_2,
        text_encoder_2=text_encoder_2,
        zero_empty=zero_empty,
        device=device,
    )
