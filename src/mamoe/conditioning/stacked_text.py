"""Prompts read by a language model, of which a network takes what three of its layers say: FLUX.2-klein's kind.

A prompt is a user's message in the model's own chat template, whose words are read along. The network saw the padding
in training, so a padded prompt is padded to the limit and all of it is handed on; reading it, padding is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

from mamoe.conditioning.encoded import EmbeddingCache
from mamoe.conditioning.text import CachedPrompts, PromptEncoder
from mamoe.errors import ConfigError

LAYERS = (9, 18, 27)  # whose hidden states FLUX.2-klein reads side by side
TOKENS = 512  # of a prompt and its template, as its pipeline has them


class StackedPromptEncoder(PromptEncoder):
    """What three layers of Qwen3 say of every token, side by side.

    Args: see :class:`PromptEncoder`.

    Raises:
        ConfigError: the model has fewer layers.
    """

    def __init__(
        self,
        tokenizer: Qwen2Tokenizer,
        text_encoder: Qwen3ForCausalLM,
        cache: EmbeddingCache | None = None,
        *,
        device: torch.device | None = None,
    ) -> None:
        of_words: Any = tokenizer  # whose types are only partly known
        model: Any = text_encoder
        super().__init__(of_words, model, cache, device=device)
        self.limit: int = min(of_words.model_max_length, TOKENS)
        layers = text_encoder.config.num_hidden_layers
        if layers < LAYERS[-1]:
            raise ConfigError(f"The text encoder has {layers} layers, and those up to {LAYERS[-1]} are read.")

    def num_tokens(self, prompt: str) -> int:
        return len(_ids_of(self.tokenizers[0], prompt)[: self.limit])

    def from_cache(self) -> CachedPrompts:
        assert self.cache is not None, "only an encoder with a cache can do without itself"
        return _CachedMessages(self.tokenizers[0], self.cache, limit=self.limit, pools=False, zero_empty=False)

    def _tokenize(self, which: int, prompts: Sequence[str], padded: bool) -> dict[str, list[int]]:
        tokenizer: Any = self.tokenizers[which]
        made: dict[str, list[int]] = {}
        for prompt in prompts:
            ids = _ids_of(tokenizer, prompt)
            self._warn_if_cut(prompt, ids[self.limit :])
            ids = ids[: self.limit]
            made[prompt] = ids + [tokenizer.pad_token_id] * (self.limit - len(ids)) if padded else ids
        return made

    def _features(
        self, ids: Sequence[Int64[Tensor, "b T"]], lengths: Int64[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b T D"], None]:
        encoder: Any = self.text_encoders[0]
        tokenizer: Any = self.tokenizers[0]
        device, (own,) = self._device_of(encoder), ids
        seen = (torch.arange(own.shape[1]) < lengths[:, None]) & (own != tokenizer.pad_token_id)
        # The model within: what its head would say next is not asked.
        output = encoder.model(
            input_ids=own.to(device), attention_mask=seen.long().to(device), output_hidden_states=True, use_cache=False
        )
        return torch.cat([output.hidden_states[layer] for layer in LAYERS], dim=2), None


def room_for_words(tokenizer: Qwen2Tokenizer) -> int:
    """How many tokens of a prompt are read beside those of the template."""
    of_words: Any = tokenizer
    return min(of_words.model_max_length, TOKENS) - len(_ids_of(tokenizer, ""))


class _CachedMessages(CachedPrompts):
    def num_tokens(self, prompt: str) -> int:
        return len(_ids_of(self.tokenizer, prompt)[: self.limit])


def _ids_of(tokenizer: Any, prompt: str) -> list[int]:
    """A prompt as a user's message, up to where the model would answer without thinking."""
    message = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    return tokenizer(text, verbose=False).input_ids
