"""Which kind of encoder the text encoders of a base model make together."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPTextModelWithProjection, T5EncoderModel, T5Tokenizer

from mamoe.conditioning.encoded import EmbeddingCache, words_of
from mamoe.conditioning.joined_text import T5_TOKENS as BESIDE_CLIP
from mamoe.conditioning.joined_text import JoinedPromptEncoder
from mamoe.conditioning.pooled_text import T5_TOKENS as WITH_POOLED
from mamoe.conditioning.pooled_text import PooledPromptEncoder
from mamoe.conditioning.stacked_text import READINGS, StackedPromptEncoder
from mamoe.conditioning.text import T5_TOKENS, PromptEncoder


def reader_of(tokenizer: Any, *further: Any, encoder: str | None = None) -> tuple[Any, int]:
    """The tokenizer of the encoder whose words the network reads, and how many tokens of a prompt it takes at most.

    Of Stable Diffusion 3's kind that is T5's, which reads on where CLIP's ends.

    Args:
        tokenizer: of the first encoder.
        further: of the others, in their order.
        encoder: the name of the first encoder's class, where it is known.
    """
    words = next((one for one in further if isinstance(one, T5Tokenizer)), tokenizer)
    if reading := next((reading for kind, reading in READINGS.items() if kind.__name__ == encoder), None):
        return words_of(words), reading.limit(words) - reading.num_tokens(words, "")  # beside the template
    limit: int = getattr(words, "model_max_length")  # noqa: B009 - of a type that is only partly known
    if isinstance(words, T5Tokenizer):
        limit = min(limit, (T5_TOKENS, WITH_POOLED, BESIDE_CLIP)[len(further)])
    return words, limit


def encoder_for(
    tokenizer: Any,
    text_encoder: Any,
    cache: EmbeddingCache | None = None,
    *,
    tokenizer_2: Any = None,
    text_encoder_2: Any = None,
    tokenizer_3: Any = None,
    text_encoder_3: Any = None,
    width: Any = None,
    zero_empty: bool = False,
    device: torch.device | None = None,
) -> PromptEncoder:
    """What encodes prompts as the base model's network reads them; arguments as of :class:`PromptEncoder`.

    ``width`` is that of the text which the network reads, where its encoders may not say it: Stable Diffusion 3's kind.
    """
    if isinstance(text_encoder_2, T5EncoderModel):
        return PooledPromptEncoder(
            tokenizer, text_encoder, cache, tokenizer_2=tokenizer_2, text_encoder_2=text_encoder_2, device=device
        )
    if type(text_encoder) in READINGS:
        return StackedPromptEncoder(tokenizer, text_encoder, cache, device=device)
    if all(isinstance(one, CLIPTextModelWithProjection) for one in (text_encoder, text_encoder_2)):
        return JoinedPromptEncoder(
            tokenizer,
            text_encoder,
            cache,
            tokenizer_2=tokenizer_2,
            text_encoder_2=text_encoder_2,
            tokenizer_3=tokenizer_3,
            text_encoder_3=text_encoder_3,
            width=width,
            device=device,
        )
    return PromptEncoder(
        tokenizer,
        text_encoder,
        cache,
        tokenizer_2=tokenizer_2,
        text_encoder_2=text_encoder_2,
        zero_empty=zero_empty,
        device=device,
    )
