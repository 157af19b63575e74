"""Prompts read by a language model, of which a network takes what some of its layers say.

    FLUX.2-klein   three layers of Qwen3, side by side; the network saw the padding in training
    FLUX.2-dev     three layers of Mistral 3, which is shown no picture; likewise, padding stands before the words
    Z-Image        the second-last layer of Qwen3, without its head; padding is left out
    Qwen-Image     the last layer of Qwen2.5-VL, which is shown no picture; padding is left out

A prompt is a user's message, in a template whose words are read along. A padded prompt is padded to the limit where the
network saw that, and all of it is handed on; reading it, padding is masked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from jaxtyping import Float, Int64
from jinja2 import TemplateError
from torch import Tensor
from transformers import (
    Mistral3ForConditionalGeneration,
    PixtralProcessor,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from mamoe.conditioning.encoded import EmbeddingCache, text_config_of, words_of
from mamoe.conditioning.text import CachedPrompts, EncodedPrompt, PromptEncoder
from mamoe.errors import ConfigError

_MARK = "\u2603"  # in no template
LanguageModel = Qwen3ForCausalLM | Qwen3Model | Qwen2_5_VLForConditionalGeneration | Mistral3ForConditionalGeneration


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


def _reasoned(processor: Any, prompt: str) -> str:
    """After its pipeline's system message; the mark of a picture is dropped, as there, because there is none."""
    turns = (("system", SYSTEM_MESSAGE), ("user", prompt.replace(processor.image_token, "")))
    messages = [{"role": who, "content": [{"type": "text", "text": words}]} for who, words in turns]
    return processor.apply_chat_template(messages, tokenize=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How a language model reads prompts for a network, as the network's own pipeline has it.

    Its methods take the model's tokenizer, or the processor around it.
    """

    message: Callable[[Any, str], str]  # (tokenizer or processor, prompt) -> what the model is given
    layers: tuple[int, ...]  # whose hidden states are handed on, side by side; 0 = what the first gets, -1 = the last
    words: str = "Qwen2"  # how the name of its tokenizer's class begins
    dropped: int = 0  # tokens at the beginning of the message that are not handed on
    tokens: int = 512  # that are, of a prompt and its template
    padded: bool = False  # whether padding is
    bare: bool = False  # whether unpadded prompts are handed on without what stands before every prompt

    def ids_of(self, tokenizer: Any, prompt: str) -> list[int]:
        """All tokens of the message.

        Raises:
            ConfigError: the tokenizer has no chat template to make it with, or one that cannot be read.
        """
        return _tokens_of(tokenizer, self._said(tokenizer, prompt))

    def check(self, tokenizer: Any) -> None:
        """Refuse a tokenizer that does not make such messages.

        Raises:
            ConfigError: see :meth:`ids_of`; or a prompt is not in its message, or does not begin behind ``dropped``
                tokens.
        """
        before, found, _ = self._said(tokenizer, _MARK).partition(_MARK)
        if not found:
            raise ConfigError(
                "The chat template of the base model's tokenizer leaves out what a user says, so that no prompt would "
                "be read. Take tokenizer/ as it was published."
            )
        begins = len(_tokens_of(tokenizer, before))
        if self.dropped and begins != self.dropped:
            raise ConfigError(
                f"The base model's tokenizer makes {begins} tokens of what is said before a prompt, which are not "
                f"handed on, and {self.dropped} were in the model's training: tokenizer/ is of another model."
            )

    def _said(self, tokenizer: Any, prompt: str) -> str:
        try:
            return self.message(tokenizer, prompt)
        except (ValueError, TemplateError) as error:
            raise ConfigError(
                "This base model reads prompts as messages in its tokenizer's chat template, and there is none in "
                f"tokenizer/ that can be read ({str(error).splitlines()[0]:.100}). Wanted tokenizer/ as it was "
                "published, with chat_template.jinja or chat_template in its tokenizer_config.json."
            ) from None

    def limit(self, tokenizer: Any) -> int:
        """How many tokens of a message are handed on at most."""
        return min(words_of(tokenizer).model_max_length - self.dropped, self.tokens)

    def num_tokens(self, tokenizer: Any, prompt: str) -> int:
        """How many of a prompt's message are, but for padding."""
        return min(len(self.ids_of(tokenizer, prompt)) - self.dropped, self.limit(tokenizer))

    def words_end(self, tokenizer: Any) -> int | None:
        """The place behind a padded prompt's last word, where padding stands before the words; None: behind them."""
        return self.limit(tokenizer) if self.padded and words_of(tokenizer).padding_side == "left" else None

    def without_padding(self, tokenizer: Any, prompt: str, tokens: Float[Tensor, "_ D"]) -> Float[Tensor, "_ D"]:
        """See :meth:`PromptEncoder.without_padding`."""
        count = self.num_tokens(tokenizer, prompt)
        return tokens[:count] if self.words_end(tokenizer) is None else tokens[len(tokens) - count :]

    def lead(self, tokenizer: Any) -> int:
        """How many tokens of every message stand before the prompt, if unpadded ones are handed on without them.

        Nothing sees what follows it, so that they say the same in all: the whole picture's prompt has them.
        """
        if not self.bare:
            return 0
        one, other = self.ids_of(tokenizer, "a"), self.ids_of(tokenizer, "")
        return next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


def _tokens_of(tokenizer: Any, text: str) -> list[int]:
    words = words_of(tokenizer)
    begun = bool(words.bos_token) and text.startswith(words.bos_token)
    return words(text, add_special_tokens=not begun, verbose=False).input_ids


READINGS: Mapping[type[PreTrainedModel], Reading] = {
    Qwen3ForCausalLM: Reading(message=partial(_chat, thinking=False), layers=(9, 18, 27), padded=True),
    Qwen3Model: Reading(message=partial(_chat, thinking=True), layers=(-2,)),
    Qwen2_5_VLForConditionalGeneration: Reading(message=_described, layers=(-1,), dropped=34),
    Mistral3ForConditionalGeneration: Reading(
        message=_reasoned, layers=(10, 20, 30), words="Pixtral", padded=True, bare=True
    ),
}


def width_of(text_encoder: Any) -> int:
    """D of what a network is given of an encoder, of any kind."""
    reading = next((one for kind, one in READINGS.items() if isinstance(text_encoder, kind)), None)
    return text_config_of(text_encoder).hidden_size * (1 if reading is None else len(reading.layers))


class StackedPromptEncoder(PromptEncoder):
    """What some layers of a language model say of every token, side by side.

    Args:
        tokenizer: the model's, or the processor around it.
        text_encoder: its class is one of ``READINGS``.
        cache, device: see :class:`PromptEncoder`.

    Raises:
        ConfigError: the model has fewer layers.
    """

    at_once = 16  # a language model hands on what each of its layers says

    def __init__(
        self,
        tokenizer: Qwen2Tokenizer | PixtralProcessor,
        text_encoder: LanguageModel,
        cache: EmbeddingCache | None = None,
        *,
        device: torch.device | None = None,
    ) -> None:
        model: Any = text_encoder
        super().__init__(words_of(tokenizer), model, cache, device=device)
        self._reading, self._asked = READINGS[type(model)], tokenizer
        self.limit: int = self._reading.limit(tokenizer)
        layers = text_config_of(model).num_hidden_layers
        if layers < self._reading.layers[-1]:
            raise ConfigError(
                f"The text encoder has {layers} layers, and those up to {self._reading.layers[-1]} are read."
            )

    @property
    def words_end(self) -> int | None:
        return self._reading.words_end(self._asked)

    def num_tokens(self, prompt: str) -> int:
        return self._reading.num_tokens(self._asked, prompt)

    def without_padding(self, prompt: str, tokens: Float[Tensor, "_ D"]) -> Float[Tensor, "_ D"]:
        return self._reading.without_padding(self._asked, prompt, tokens)

    def from_cache(self) -> CachedPrompts:
        assert self.cache is not None, "only an encoder with a cache can do without itself"
        return _CachedMessages(self._asked, self.cache, self._reading)

    def _run(self, prompts: Sequence[str], padded: bool) -> dict[str, EncodedPrompt]:
        encoded = super()._run(prompts, padded)
        lead = 0 if padded else self._reading.lead(self._asked)
        return {prompt: replace(one, tokens=one.tokens[lead:]) for prompt, one in encoded.items()} if lead else encoded

    def _tokenize(self, which: int, prompts: Sequence[str], padded: bool) -> dict[str, list[int]]:
        tokenizer: Any = self.tokenizers[which]
        most = self._reading.dropped + self.limit
        made: dict[str, list[int]] = {}
        for prompt in prompts:
            ids = self._reading.ids_of(self._asked, prompt)
            self._warn_if_cut(prompt, ids[most:])
            ids = ids[:most]
            padding = [tokenizer.pad_token_id] * (most - len(ids) if padded and self._reading.padded else 0)
            made[prompt] = ids + padding if self.words_end is None else padding + ids
        return made

    def _kept(self, ids: Sequence[int], padded: bool) -> int:
        return len(ids) - self._reading.dropped

    def _features(
        self, ids: Sequence[Int64[Tensor, "b _"]], lengths: Int64[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b _ D"], None]:
        encoder: Any = self.text_encoders[0]
        tokenizer: Any = self.tokenizers[0]
        device, (own,) = self._device_of(encoder), ids
        # From the first word to the last: the padding token is one that a prompt may name.
        words = (own != tokenizer.pad_token_id) & (torch.arange(own.shape[1]) < lengths[:, None])
        seen = (words.cumsum(1) > 0) & (words.flip(1).cumsum(1).flip(1) > 0)
        # The model within: what its head would say next is not asked.
        output = encoder.base_model(
            input_ids=own.to(device), attention_mask=seen.long().to(device), output_hidden_states=True, use_cache=False
        )
        states = torch.cat([output.hidden_states[layer] for layer in self._reading.layers], dim=2)
        return states[:, self._reading.dropped :], None


class _CachedMessages(CachedPrompts):
    def __init__(self, tokenizer: Any, cache: EmbeddingCache, reading: Reading) -> None:
        limit = reading.limit(tokenizer)
        super().__init__(words_of(tokenizer), cache, limit=limit, pools=False, zero_empty=False)
        self._reading, self._asked = reading, tokenizer

    @property
    def words_end(self) -> int | None:
        return self._reading.words_end(self._asked)

    def num_tokens(self, prompt: str) -> int:
        return self._reading.num_tokens(self._asked, prompt)

    def without_padding(self, prompt: str, tokens: Float[Tensor, "_ D"]) -> Float[Tensor, "_ D"]:
        return self._reading.without_padding(self._asked, prompt, tokens)
