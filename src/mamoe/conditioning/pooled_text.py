"""Prompts of a base model with two text encoders: T5's reads the words, CLIP's the prompt as a whole. FLUX.1's kind."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from mamoe.conditioning.encoded import EmbeddingCache
from mamoe.conditioning.padded_text import PaddedPromptEncoder
from mamoe.conditioning.text import CHUNK, EncodedPrompt

T5_TOKENS = 512  # of a prompt, as FLUX.1's pipeline has them


class PooledPromptEncoder(PaddedPromptEncoder):
    """T5's features of the words, and for whole pictures CLIP's vector beside them.

    Args:
        tokenizer: CLIP's.
        text_encoder: CLIP's, of which the pooled vector is taken.
        cache: of both; None runs them every time.
        tokenizer_2: T5's.
        text_encoder_2: T5's.
        device: see :class:`~mamoe.conditioning.text.PromptEncoder`.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        cache: EmbeddingCache | None = None,
        *,
        tokenizer_2: T5Tokenizer,
        text_encoder_2: T5EncoderModel,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(tokenizer_2, text_encoder_2, cache, most=T5_TOKENS, device=device)
        self._clip, self._clip_tokenizer = text_encoder, tokenizer
        self._said_long = False

    @property
    def pools(self) -> bool:
        return True

    def _run(self, prompts: Sequence[str], padded: bool) -> dict[str, EncodedPrompt]:
        encoded = super()._run(prompts, padded)
        if not padded:
            return encoded
        pooled = self._pooled(list(encoded))
        return {
            prompt: dataclasses.replace(one, pooled=vector)
            for (prompt, one), vector in zip(encoded.items(), pooled, strict=True)
        }

    def _pooled(self, prompts: Sequence[str]) -> list[Tensor]:
        tokenizer: Any = self._clip_tokenizer
        limit: int = tokenizer.model_max_length
        found: list[Tensor] = []
        device = self._device_of(self._clip)
        for start in range(0, len(prompts), CHUNK):
            chunk = list(prompts[start : start + CHUNK])
            self._say_long([ids for ids in tokenizer(chunk, verbose=False).input_ids if len(ids) > limit], limit)
            ids = tokenizer(chunk, padding="max_length", truncation=True, max_length=limit, return_tensors="pt")
            output: Any = self._clip(input_ids=ids.input_ids.to(device))
            found += list(output.pooler_output)
        return found

    def _say_long(self, longer: Sequence[Sequence[int]], limit: int) -> None:
        if longer and not self._said_long:
            self._said_long = True
            warnings.warn(
                f"Some prompts have more than {limit} tokens: their words are read in full, but the vector for the "
                "picture as a whole is of their beginning.",
                stacklevel=2,
            )
