"""Prompts of a base model with two text encoders: T5's reads the words, CLIP's the prompt as a whole.

FLUX.1's kind. Its network saw T5's padding in training, so a padded prompt is padded to the limit and all of it is
handed on; prompts keep their capitals.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from mamoe.conditioning.encoded import EmbeddingCache
from mamoe.conditioning.text import CHUNK, EncodedPrompt, PromptEncoder

T5_TOKENS = 512  # of a prompt, as FLUX.1's pipeline has them


class PooledPromptEncoder(PromptEncoder):
    """T5's features of the words, and for whole pictures CLIP's vector beside them.

    Args:
        tokenizer: CLIP's.
        text_encoder: CLIP's, of which the pooled vector is taken.
        cache: of both; None runs them every time.
        tokenizer_2: T5's.
        text_encoder_2: T5's.
        device: see :class:`PromptEncoder`.
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
        super().__init__(tokenizer_2, text_encoder_2, cache, device=device)
        of_words: Any = tokenizer_2  # whose types are only partly known
        self.limit: int = min(of_words.model_max_length, T5_TOKENS)
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

    def _tokenize(self, which: int, prompts: Sequence[str], padded: bool) -> dict[str, list[int]]:
        if not prompts:
            return {}
        tokenizer: Any = self.tokenizers[which]
        words: list[list[int]] = tokenizer(list(prompts), add_special_tokens=False, verbose=False).input_ids
        end, pad, room = tokenizer.eos_token_id, tokenizer.pad_token_id, self.limit - 1
        made: dict[str, list[int]] = {}
        for prompt, ids in zip(prompts, words, strict=True):
            self._warn_if_cut(prompt, ids[room:])
            ended = [*ids[:room], end]
            made[prompt] = ended + [pad] * (self.limit - len(ended)) if padded else ended
        return made
