"""Which kind of encoder the text encoders of a base model make together."""

from __future__ import annotations

from typing import Any

import torch
from transformers import T5EncoderModel, T5Tokenizer

from mamoe.conditioning.encoded import EmbeddingCache
from mamoe.conditioning.pooled_text import T5_TOKENS as WITH_POOLED
from mamoe.conditioning.pooled_text import PooledPromptEncoder
from mamoe.conditioning.stacked_text import READINGS, StackedPromptEncoder
from mamoe.conditioning.text import T5_TOKENS, PromptEncoder


def reader_of(tokenizer: Any, tokenizer_2: Any = None, *, encoder: str | None = None) -> tuple[Any, int]:
    """The tokenizer of the encoder whose words the network reads, and how many tokens of a prompt it takes at most.

    ``encoder`` is the name of the first encoder's class, where it is known.
    """
    words = tokenizer_2 if isinstance(tokenizer_2, T5Tokenizer) else tokenizer
    limit: int = getattr(words, "model_max_length")  # noqa: B009 - of a type that is only partly known
    if isinstance(words, T5Tokenizer):
        limit = min(limit, T5_TOKENS if words is tokenizer else WITH_POOLED)
    if reading := next((reading for kind, reading in READINGS.items() if kind.__name__ == encoder), None):
        limit = reading.limit(words) - reading.num_tokens(words, "")  # beside the template
    return words, limit


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
    if type(text_encoder) in READINGS:
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
