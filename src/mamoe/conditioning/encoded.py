"""Encoded prompts on disk, in ``<folder>/<encoder id>``: tensors [T D], each named by a hash of (prompt, padded)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from mamoe.storage.fingerprints import fingerprint_of
from mamoe.storage.hashing import short_hash
from mamoe.storage.shards import EncoderCache

_ARCHITECTURE = ("model_type", "num_attention_heads", "hidden_act", "layer_norm_eps")  # what no weight's shape tells
_OF_LANGUAGE = ("rms_norm_eps", "rope_parameters")  # likewise, of language models


class EmbeddingCache(EncoderCache):
    """Embeddings of one text encoder, see :func:`fingerprint`, by (prompt, padded)."""

    def has(self, prompt: str, padded: bool) -> bool:
        return _name(prompt, padded) in self.shards

    def get(self, prompt: str, padded: bool) -> Float[Tensor, "T D"] | None:
        """The embedding on the CPU, in the type it was added in, mapped from disk: do not write to it."""
        return self.shards.get(_name(prompt, padded))

    def add(self, embeds: Mapping[str, Float[Tensor, "_ D"]], padded: bool) -> None:
        """Write the embeddings of some prompts as one new shard."""
        self.shards.add({_name(prompt, padded): embed for prompt, embed in embeds.items()})


def text_config_of(text_encoder: Any) -> Any:
    """What says how large a text encoder is: its configuration, or of one that knows pictures too that of its text."""
    return text_encoder.config.get_text_config()


def words_of(tokenizer: Any) -> Any:
    """The tokenizer itself, where it is within a processor of texts and pictures."""
    return tokenizer.tokenizer if isinstance(tokenizer, ProcessorMixin) else tokenizer


def fingerprint(text_encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | ProcessorMixin) -> str:
    """A short name for what decides an embedding.

    That is architecture, weights (a sample of each tensor), tokenizer and chat template.
    """
    whole, of_text = text_encoder.config, text_config_of(text_encoder)
    architecture = [getattr(whole, key, getattr(of_text, key, None)) for key in _ARCHITECTURE]
    its = words_of(tokenizer)
    words = [its.model_max_length, its.special_tokens_map, sorted(its.get_vocab().items())]
    # Of language models alone, so that what other encoders have in caches keeps its name.
    words += [one for key in _OF_LANGUAGE if (one := getattr(of_text, key, None)) is not None]
    template = getattr(tokenizer, "chat_template", None)
    words += [template] if template else []
    return fingerprint_of(json.dumps([architecture, words], default=str, sort_keys=True), text_encoder.state_dict())


def _name(prompt: str, padded: bool) -> str:
    return short_hash(f"{int(padded)}{prompt}", 16)
