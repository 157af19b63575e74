"""Prompts to embeddings, each distinct prompt once.

A base model has one text encoder or two. Of one the UNet reads the last hidden state; of two (the SDXL kind) it reads
the second-last hidden states side by side, and as one vector per picture what the second encoder projects the whole
prompt to (Podell et al. 2023, section 2.1). An encoder is CLIP's, which reads from left to right, or T5's, whose tokens
all see each other: its padding is masked and never handed on, and its prompts lose their capitals, as PixArt saw them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedModel,
    T5EncoderModel,
    T5Tokenizer,
)

from mamoe.conditioning.encoded import EmbeddingCache, text_config_of
from mamoe.errors import ConfigError
from mamoe.storage.shards import CacheError

CHUNK = 128  # prompts that run through the text encoder together
SHARD = 512  # prompts per shard of a cache that is filled
T5_TOKENS = 300  # of a prompt, as PixArt-Sigma was trained (Chen et al. 2024, arXiv 2403.04692)
_POOLED = "\0pooled\0"  # before a prompt: the name of its pooled vector in the cache; no prompt in a file has a NUL


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedPrompt:
    """A prompt as the UNet gets it."""

    tokens: Float[Tensor, "T D"]
    pooled: Float[Tensor, "P"] | None  # of a padded prompt where there are two encoders


class Prompts(Protocol):
    """Gives the embeddings of prompts; see :class:`PromptEncoder`."""

    def encode(self, prompts: Sequence[str], padded: bool) -> list[Float[Tensor, "_ D"]]: ...

    def encode_whole(self, prompts: Sequence[str]) -> list[EncodedPrompt]: ...

    def num_tokens(self, prompt: str) -> int: ...

    def without_padding(self, prompt: str, tokens: Float[Tensor, "_ D"]) -> Float[Tensor, "_ D"]: ...

    @property
    def words_end(self) -> int | None: ...


class CachedPrompts:
    """Prompts that have all been encoded: what a training holds in place of the text encoders.

    Args: those of the :class:`PromptEncoder` that filled ``cache``, see :meth:`PromptEncoder.from_cache`.

    Its methods answer as the encoder's do, on the CPU, and raise a CacheError where a prompt is not in the cache.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer | T5Tokenizer,
        cache: EmbeddingCache,
        *,
        limit: int,
        pools: bool,
        zero_empty: bool,
    ) -> None:
        self.tokenizer, self.cache, self.limit, self.pools, self.zero_empty = tokenizer, cache, limit, pools, zero_empty

    def encode(self, prompts: Sequence[str], padded: bool) -> list[Float[Tensor, "_ D"]]:
        return [encoded.tokens for encoded in self._encode(prompts, padded)]

    def encode_whole(self, prompts: Sequence[str]) -> list[EncodedPrompt]:
        return self._encode(prompts, padded=True)

    def num_tokens(self, prompt: str) -> int:
        return _num_tokens(self.tokenizer, prompt, self.limit)

    def without_padding(self, prompt: str, tokens: Float[Tensor, "_ D"]) -> Float[Tensor, "_ D"]:
        return tokens[: self.num_tokens(prompt)]

    @property
    def words_end(self) -> int | None:
        return None

    def _encode(self, prompts: Sequence[str], padded: bool) -> list[EncodedPrompt]:
        found = {prompt: _cached(self.cache, prompt, padded, self.pools) for prompt in prompts}
        there = {prompt: encoded for prompt, encoded in found.items() if encoded is not None}
        if missing := sorted(found.keys() - there.keys()):
            raise CacheError(
                f"{self.cache.folder} lacks {len(missing)} prompts, {missing[0]!r} among them, and the text encoder is "
                "not in memory any more. Start again to fill the gap."
            )
        return _as_read(there, prompts, padded, self.zero_empty)


class PromptEncoder:
    """The text encoders of a base model, of CLIP's kind or T5's, with their tokenizers, and optionally a cache.

    *Padded* prompts are what the encoders were trained on: begin token, words, end token, padding up to the limit.
    *Unpadded* ones are the words' tokens alone, put through the encoders as such, so that they take up few tokens.

    T5's have no padding in either form: padded ones end with the end token, unpadded ones are read with it and lose it.

    The limit is the tokenizers' ``model_max_length`` (77), or the encoders' number of positions if that is smaller (of
    T5, which has none, 300). A
    longer prompt is cut, with a warning once per prompt that quotes the part cut off.

    Args:
        tokenizer: of the first encoder.
        text_encoder: the only encoder, or the first of two.
        cache: of these encoders; None runs them every time.
        tokenizer_2: of the second encoder; it must split prompts as the first does.
        text_encoder_2: the second encoder; None: there is one.
        zero_empty: the padded empty prompt is all zeros, as such a base model saw it in its own training.
        device: where encoders compute whose weights are kept elsewhere and fetched layer by layer (offloading).

    Raises:
        ConfigError: of the second tokenizer and the second encoder only one is given.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer | T5Tokenizer,
        text_encoder: CLIPTextModel | T5EncoderModel,
        cache: EmbeddingCache | None = None,
        *,
        tokenizer_2: CLIPTokenizer | None = None,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        zero_empty: bool = False,
        device: torch.device | None = None,
    ) -> None:
        if (tokenizer_2 is None) != (text_encoder_2 is None):
            raise ConfigError("A second text encoder needs its tokenizer and the other way round: give both or none.")
        self.tokenizers = (tokenizer,) if tokenizer_2 is None else (tokenizer, tokenizer_2)
        self.text_encoders = (text_encoder,) if text_encoder_2 is None else (text_encoder, text_encoder_2)
        self.cache = cache
        self.zero_empty = zero_empty
        self.device = device
        lengths = [_limit_of(one) for one in self.tokenizers]
        self.sees_all = text_encoder.config.model_type in _SEE_ALL
        positions = [getattr(one.config, "max_position_embeddings", T5_TOKENS) for one in self.text_encoders]
        self.limit = min(*lengths, *positions)
        self._warned: set[str] = set()

    at_once = CHUNK
    _reads_on = ""  # what is said of the rest of a prompt that is cut

    @property
    def pools(self) -> bool:
        """Whether padded prompts come with a pooled vector."""
        return len(self.text_encoders) > 1

    def encode(self, prompts: Sequence[str], padded: bool) -> list[Float[Tensor, "_ D"]]:
        """The features f32[T D] of every prompt, T = limit if padded, else its number of words' tokens.

        Without a cache the embeddings are on the encoders' device and gradients flow as the caller's grad mode says;
        with a cache they come from the CPU, carry no gradients, and an encoder that learns must not use one.

        Raises:
            ConfigError: the two tokenizers split a prompt differently.
        """
        return [encoded.tokens for encoded in self._encode(prompts, padded)]

    def encode_whole(self, prompts: Sequence[str]) -> list[EncodedPrompt]:
        """Prompts for whole pictures: padded, with the pooled vector f32[P] if there is one; else as :meth:`encode`."""
        return self._encode(prompts, padded=True)

    def num_tokens(self, prompt: str) -> int:
        """Tokens of a padded prompt before its padding begins: begin token, words, end token."""
        return _num_tokens(self.tokenizers[0], prompt, self.limit)

    def without_padding(self, prompt: str, tokens: Float[Tensor, "_ D"]) -> Float[Tensor, "_ D"]:
        """Of the tokens of the padded ``prompt`` those that are no padding."""
        return tokens[: self.num_tokens(prompt)]

    @property
    def words_end(self) -> int | None:
        """The place behind every prompt's last word, where padding stands before the words; None: they begin at 0."""
        return None

    def fill(self, prompts: Sequence[str], padded: bool, progress: Callable[[int, int], None] | None = None) -> int:
        """Encode the prompts that the cache lacks, a shard at a time; returns how many that were.

        Other processes may do the same at the same time: what they have finished is not encoded again.

        Args:
            progress: called with (prompts done, prompts in all).
        """
        cache = self.cache
        assert cache is not None, "only an encoder with a cache can fill it"
        missing = self.missing(list(dict.fromkeys(prompts)), padded)
        made = 0
        for start in range(0, len(missing), SHARD):
            chunk = missing[start : start + SHARD]
            cache.shards.refresh()
            todo = self.missing(chunk, padded)
            self._look_up(todo, padded, cache)
            made += len(todo)
            if progress is not None:
                progress(start + len(chunk), len(missing))
        return made

    def missing(self, prompts: Sequence[str], padded: bool) -> list[str]:
        """Those of ``prompts`` that the cache lacks."""
        assert self.cache is not None, "only an encoder with a cache can lack something in it"
        return [prompt for prompt in prompts if _cached(self.cache, prompt, padded, self.pools) is None]

    def from_cache(self) -> CachedPrompts:
        """The same prompts without the encoders, for those that the cache holds by now."""
        assert self.cache is not None, "only an encoder with a cache can do without itself"
        return CachedPrompts(
            self.tokenizers[0], self.cache, limit=self.limit, pools=self.pools, zero_empty=self.zero_empty
        )

    def _encode(self, prompts: Sequence[str], padded: bool) -> list[EncodedPrompt]:
        distinct = list(dict.fromkeys(prompts))
        found = self._run(distinct, padded) if self.cache is None else self._look_up(distinct, padded, self.cache)
        return _as_read(found, prompts, padded, self.zero_empty)

    def _look_up(self, prompts: Sequence[str], padded: bool, cache: EmbeddingCache) -> Mapping[str, EncodedPrompt]:
        found = {prompt: _cached(cache, prompt, padded, self.pools) for prompt in prompts}
        missing = [prompt for prompt, encoded in found.items() if encoded is None]
        fresh: dict[str, EncodedPrompt] = {}
        if missing:
            with torch.no_grad():
                fresh = {prompt: _on_cpu(encoded) for prompt, encoded in self._run(missing, padded).items()}
            tokens = {prompt: encoded.tokens for prompt, encoded in fresh.items()}
            pooled = {_POOLED + p: e.pooled[None] for p, e in fresh.items() if e.pooled is not None}
            cache.add(tokens | pooled, padded)
        return fresh | {prompt: encoded for prompt, encoded in found.items() if encoded is not None}

    def _run(self, prompts: Sequence[str], padded: bool) -> dict[str, EncodedPrompt]:
        ids_of = [self._tokenize(i, prompts, padded) for i in range(len(self.tokenizers))]
        _check_counts(prompts, ids_of)
        kept = {prompt: self._kept(ids, padded) for prompt, ids in ids_of[0].items()}
        # Neighbours in a chunk are of similar length; a prompt without tokens never reaches the encoders.
        shortest_first = sorted((p for p in prompts if kept[p]), key=lambda p: kept[p])
        width = sum(text_config_of(one).hidden_size for one in self.text_encoders)
        device = self._device_of(self.text_encoders[0])
        nothing = EncodedPrompt(tokens=torch.zeros(0, width, device=device), pooled=None)
        encoded = {p: nothing for p in prompts if not kept[p]}
        for start in range(0, len(shortest_first), self.at_once):
            chunk = shortest_first[start : start + self.at_once]
            # Padding to the right is harmless: CLIP's tokens do not see what follows them, and for T5 it is masked.
            ids = [pad_sequence([torch.tensor(ids[p]) for p in chunk], batch_first=True) for ids in ids_of]
            states, pooled = self._features(ids, torch.tensor([len(ids_of[0][p]) for p in chunk]))
            for i, prompt in enumerate(chunk):
                own = pooled[i] if padded and pooled is not None else None
                encoded[prompt] = EncodedPrompt(tokens=states[i, : kept[prompt]], pooled=own)
        return encoded

    def _kept(self, ids: Sequence[int], padded: bool) -> int:
        """How many features of a prompt of these tokens are handed on, the first ones."""
        return len(ids) - (self.sees_all and not padded)

    def _features(
        self, ids: Sequence[Int64[Tensor, "b T"]], lengths: Int64[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b T D"], Float[Tensor, "b P"] | None]:
        if len(self.text_encoders) == 1:
            (encoder,) = self.text_encoders
            device = self._device_of(encoder)
            mask = torch.arange(ids[0].shape[1]) < lengths[:, None] if self.sees_all else None
            told = {} if mask is None else {"attention_mask": mask.to(device)}
            return encoder(input_ids=ids[0].to(device), **told).last_hidden_state, None
        outputs: list[Any] = [
            encoder(input_ids=own.to(self._device_of(encoder)), output_hidden_states=True)
            for encoder, own in zip(self.text_encoders, ids, strict=True)
        ]
        return torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), self._whole(outputs)

    def _whole(self, outputs: Sequence[Any]) -> Float[Tensor, "b P"]:
        """The vectors of whole prompts, of what two encoders say."""
        return outputs[-1].text_embeds

    def _device_of(self, encoder: PreTrainedModel) -> torch.device:
        return self.device if self.device is not None and encoder.device.type == "meta" else encoder.device

    def _tokenize(self, which: int, prompts: Sequence[str], padded: bool) -> dict[str, list[int]]:
        if not prompts:
            return {}
        tokenizer = self.tokenizers[which]
        if self.sees_all:
            return self._with_ends(tokenizer, prompts)
        words = _ids(tokenizer, prompts, add_special_tokens=False, verbose=False)
        room = self.limit - (tokenizer.num_special_tokens_to_add() if padded else 0)
        for prompt, ids in zip(prompts, words, strict=True):
            self._warn_if_cut(prompt, ids[room:])
        if not padded:
            return {prompt: ids[:room] for prompt, ids in zip(prompts, words, strict=True)}
        cut = _ids(tokenizer, prompts, padding="max_length", truncation=True, max_length=self.limit)
        return dict(zip(prompts, cut, strict=True))

    def _with_ends(self, tokenizer: Any, prompts: Sequence[str]) -> dict[str, list[int]]:
        """Every prompt with its end token, without padding."""
        words = _ids(tokenizer, [prompt.lower().strip() for prompt in prompts], add_special_tokens=False, verbose=False)
        room = self.limit - 1
        for prompt, ids in zip(prompts, words, strict=True):
            self._warn_if_cut(prompt, ids[room:])
        return {prompt: [*ids[:room], tokenizer.eos_token_id] for prompt, ids in zip(prompts, words, strict=True)}

    def _warn_if_cut(self, prompt: str, cut: list[int]) -> None:
        if cut and prompt not in self._warned:
            self._warned.add(prompt)
            lost = _text_of(self.tokenizers[0], cut).strip()
            warnings.warn(
                f"A prompt is {len(cut)} tokens longer than the text encoder's limit of {self.limit}; "
                f"cut off: {lost!r}.{self._reads_on} The prompt: {prompt!r}",
                stacklevel=2,
            )


_SEE_ALL = ("t5", "umt5")  # whose tokens see what follows them

# What is asked of tokenizers, whose types are only partly known.


def _ids(tokenizer: Any, prompts: Sequence[str], **options: Any) -> list[list[int]]:
    return tokenizer(list(prompts), **options).input_ids


def _text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids)


def _limit_of(tokenizer: Any) -> int:
    return tokenizer.model_max_length


def _cached(cache: EmbeddingCache, prompt: str, padded: bool, pools: bool) -> EncodedPrompt | None:
    tokens = cache.get(prompt, padded)
    pooled = cache.get(_POOLED + prompt, padded) if padded and pools else None
    if tokens is None or (padded and pools and pooled is None):
        return None
    return EncodedPrompt(tokens=tokens, pooled=None if pooled is None else pooled[0])


def _as_read(
    found: Mapping[str, EncodedPrompt], prompts: Sequence[str], padded: bool, zero_empty: bool
) -> list[EncodedPrompt]:
    """The prompts in their order, as the UNet reads them."""
    encoded = {prompt: _in_float32(one) for prompt, one in found.items()}
    if padded and zero_empty and "" in encoded:
        encoded[""] = _zeros_like(encoded[""])
    return [encoded[prompt] for prompt in prompts]


def _num_tokens(tokenizer: Any, prompt: str, limit: int) -> int:
    return min(limit, len(_ids(tokenizer, [prompt])[0]))


def _check_counts(prompts: Sequence[str], ids_of: Sequence[Mapping[str, list[int]]]) -> None:
    for prompt in prompts:
        counts = [len(ids[prompt]) for ids in ids_of]
        if len(set(counts)) > 1:
            raise ConfigError(
                f"The base model's two tokenizers split {prompt!r} into {counts[0]} and {counts[1]} tokens, but their "
                "features are laid side by side, token by token. Wanted two tokenizers of one vocabulary: check "
                "tokenizer/ and tokenizer_2/ of the base model."
            )


def _in_float32(encoded: EncodedPrompt) -> EncodedPrompt:
    return EncodedPrompt(
        tokens=encoded.tokens.float(), pooled=None if encoded.pooled is None else encoded.pooled.float()
    )


def _on_cpu(encoded: EncodedPrompt) -> EncodedPrompt:
    return EncodedPrompt(tokens=encoded.tokens.cpu(), pooled=None if encoded.pooled is None else encoded.pooled.cpu())


def _zeros_like(encoded: EncodedPrompt) -> EncodedPrompt:
    pooled = None if encoded.pooled is None else torch.zeros_like(encoded.pooled)
    return EncodedPrompt(tokens=torch.zeros_like(encoded.tokens), pooled=pooled)
