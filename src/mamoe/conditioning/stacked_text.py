"""Prompts read by a language model, of which a network takes what some of its layers say.

    FLUX.2-klein   three layers of Qwen3, side by side; it saw the padding in training
    Z-Image        the second-last layer of Qwen3, without its head; padding is left out
    Qwen-Image     the last layer of Qwen2.5-VL, which is shown no picture; padding is left out

A prompt is a user's message, in a template whose words are read along. A padded prompt is padded to the limit where the
network saw that, and all of it is handed on; reading it, padding is masked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from mamoe.conditioning.encoded import EmbeddingCache, text_config_of
from mamoe.conditioning.text import CachedPrompts, PromptEncoder
from mamoe.errors import ConfigError

LanguageModel = Qwen3ForCausalLM | Qwen3Model | Qwen2_5_VLForConditionalGeneration


def _chat(tokenizer: Any, prompt: str, *, thinking: bool) -> str:
    """Up to where the model would answer, or think and answer."""
    message = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=thinking)


_DESCRIBE = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:"
)


def _described(tokenizer: Any, prompt: str) -> str:
    turns = (("system", _DESCRIBE), ("user", prompt))
    said = "".join(f"<|im_start|>{who}\n{words}<|im_end|>\n" for who, words in turns)
    return f"{said}<|im_start|>assistant\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How a language model reads prompts for a network, as the network's own pipeline has it."""

    message: Callable[[Any, str], str]  # (tokenizer, prompt) -> what the model is given
    layers: tuple[
        int, ...
    ]  # whose hidden states are handed on, side by side; 0 = what goes into the first, -1 = the last
    dropped: int = 0  # tokens at the beginning of the message that are not handed on
    tokens: int = 512  # that are, of a prompt and its template
    padded: bool = False  # whether padding is

    def ids_of(self, tokenizer: Any, prompt: str) -> list[int]:
        """All tokens of the message."""
        return tokenizer(self.message(tokenizer, prompt), verbose=False).input_ids

    def limit(self, tokenizer: Any) -> int:
        """How many tokens of a message are handed on at most."""
        return min(tokenizer.model_max_length - self.dropped, self.tokens)

    def num_tokens(self, tokenizer: Any, prompt: str) -> int:
        """How many of a prompt's message are, but for padding."""
        return min(len(self.ids_of(tokenizer, prompt)) - self.dropped, self.limit(tokenizer))


READINGS: Mapping[type[PreTrainedModel], Reading] = {
    Qwen3ForCausalLM: Reading(message=partial(_chat, thinking=False), layers=(9, 18, 27), padded=True),
    Qwen3Model: Reading(message=partial(_chat, thinking=True), layers=(-2,)),
    Qwen2_5_VLForConditionalGeneration: Reading(message=_described, layers=(-1,), dropped=34),
}


def width_of(text_encoder: Any) -> int:
    """D of what a network is given of an encoder, of any kind."""
    reading = next((one for kind, one in READINGS.items() if isinstance(text_encoder, kind)), None)
    return text_config_of(text_encoder).hidden_size * (1 if reading is None else len(reading.layers))


class StackedPromptEncoder(PromptEncoder):
    """What some layers of a language model say of every token, side by side.

    Args: see :class:`PromptEncoder`; the model's class is one of ``READINGS``.

    Raises:
        ConfigError: the model has fewer layers.
    """

    def __init__(
        self,
        tokenizer: Qwen2Tokenizer,
        text_encoder: LanguageModel,
        cache: EmbeddingCache | None = None,
        *,
        device: torch.device | None = None,
    ) -> None:
        of_words: Any = tokenizer  # whose types are only partly known
        model: Any = text_encoder
        super().__init__(of_words, model, cache, device=device)
        self._reading = READINGS[type(model)]
        self.limit: int = self._reading.limit(of_words)
        layers = text_config_of(model).num_hidden_layers
        if layers < self._reading.layers[-1]:
            raise ConfigError(
                f"The text encoder has {layers} layers, and those up to {self._reading.layers[-1]} are read."
            )

    def num_tokens(self, prompt: str) -> int:
        return self._reading.num_tokens(self.tokenizers[0], prompt)

    def from_cache(self) -> CachedPrompts:
        assert self.cache is not None, "only an encoder with a cache can do without itself"
        return _CachedMessages(self.tokenizers[0], self.cache, self._reading)

    def _tokenize(self, which: int, prompts: Sequence[str], padded: bool) -> dict[str, list[int]]:
        tokenizer: Any = self.tokenizers[which]
        most = self._reading.dropped + self.limit
        made: dict[str, list[int]] = {}
        for prompt in prompts:
            ids = self._reading.ids_of(tokenizer, prompt)
            self._warn_if_cut(prompt, ids[most:])
            ids = ids[:most]
            fill = most - len(ids) if padded and self._reading.padded else 0
            made[prompt] = ids + [tokenizer.pad_token_id] * fill
        return made

    def _kept(self, ids: Sequence[int], padded: bool) -> int:
        return len(ids) - self._reading.dropped

    def _features(
        self, ids: Sequence[Int64[Tensor, "b _"]], lengths: Int64[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b _ D"], None]:
        encoder: Any = self.text_encoders[0]
        tokenizer: Any = self.tokenizers[0]
        device, (own,) = self._device_of(encoder), ids
        seen = (torch.arange(own.shape[1]) < lengths[:, None]) & (own != tokenizer.pad_token_id)
        # The model within: what its head would say next is not asked.
        output = encoder.base_model(
            input_ids=own.to(device), attention_mask=seen.long().to(device), output_hidden_states=True, use_cache=False
        )
        states = torch.cat([output.hidden_states[layer] for layer in self._reading.layers], dim=2)
        return states[:, self._reading.dropped :], None


class _CachedMessages(CachedPrompts):
    def __init__(self, tokenizer: Any, cache: EmbeddingCache, reading: Reading) -> None:
        super().__init__(tokenizer, cache, limit=reading.limit(tokenizer), pools=False, zero_empty=False)
        self._reading = reading

    def num_tokens(self, prompt: str) -> int:
        return self._reading.num_tokens(self.tokenizer, prompt)
