"""T5's words for a network that saw T5's padding in training: FLUX.1's and Stable Diffusion 3's kind.

A padded prompt is padded to the limit and all of it is handed on; prompts keep their capitals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import T5EncoderModel, T5Tokenizer

from mamoe.conditioning.encoded import EmbeddingCache
from mamoe.conditioning.text import PromptEncoder


class PaddedPromptEncoder(PromptEncoder):
    """T5's features of the words, and of the padding in padded prompts.

    Args:
        tokenizer: T5's.
        text_encoder: T5's.
        cache: of it; None runs it every time.
        most: tokens of a prompt, padding and end token included.
        device: see :class:`PromptEncoder`.
    """

    def __init__(
        self,
        tokenizer: T5Tokenizer,
        text_encoder: T5EncoderModel,
        cache: EmbeddingCache | None = None,
        *,
        most: int,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(tokenizer, text_encoder, cache, device=device)
        of_words: Any = tokenizer  # whose types are only partly known
        self.limit: int = min(of_words.model_max_length, most)

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
