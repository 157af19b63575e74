"""Prompts to embeddings, each distinct prompt once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPTextModel, CLIPTokenizer

from mamoe.conditioning.cache import EmbeddingCache

CHUNK = 128  # prompts that run through the text encoder together


class PromptEncoder:
    """A CLIP-type text encoder with its tokenizer, and optionally a cache on disk.

    *Padded* prompts are what the encoder was trained on: begin token, words, end token, padding up to the limit.
    *Unpadded* ones are the words' tokens alone, put through the encoder as such, so that they take up few tokens.

    The limit is the tokenizer's ``model_max_length`` (77), or the encoder's number of positions if that is smaller. A
    longer prompt is cut, with a warning once per prompt that quotes the part cut off.
    """

    def __init__(
        self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, cache: EmbeddingCache | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.cache = cache
        self.limit = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
        self._warned: set[str] = set()

    def encode(self, prompts: Sequence[str], padded: bool) -> list[Float[Tensor, "_ D"]]:
        """The last hidden state f32[T D] of every prompt, T = limit if padded, else its number of words' tokens.

        Without a cache the embeddings are on the encoder's device and gradients flow as the caller's grad mode says;
        with a cache they come from the CPU, carry no gradients, and an encoder that learns must not use one.
        """
        distinct = list(dict.fromkeys(prompts))
        embeds = self._run(distinct, padded) if self.cache is None else self._look_up(distinct, padded, self.cache)
        return [embeds[prompt].float() for prompt in prompts]

    def num_tokens(self, prompt: str) -> int:
        """Tokens of a padded prompt before its padding begins: begin token, words, end token."""
        return min(self.limit, len(self.tokenizer(prompt).input_ids))

    def _look_up(self, prompts: Sequence[str], padded: bool, cache: EmbeddingCache) -> dict[str, Tensor]:
        found = {prompt: cache.get(prompt, padded) for prompt in prompts}
        missing = [prompt for prompt, embed in found.items() if embed is None]
        fresh: dict[str, Tensor] = {}
        if missing:
            with torch.no_grad():
                fresh = {prompt: embed.cpu() for prompt, embed in self._run(missing, padded).items()}
            cache.add(fresh, padded)
        return fresh | {prompt: embed for prompt, embed in found.items() if embed is not None}

    def _run(self, prompts: Sequence[str], padded: bool) -> dict[str, Tensor]:
        token_ids = self._tokenize(prompts, padded)
        # Neighbours in a chunk are of similar length; a prompt without tokens never reaches the encoder.
        shortest_first = sorted((p for p in prompts if token_ids[p]), key=lambda p: len(token_ids[p]))
        width, device = self.text_encoder.config.hidden_size, self.text_encoder.device
        embeds = {p: torch.zeros(0, width, device=device) for p in prompts if not token_ids[p]}
        for start in range(0, len(shortest_first), CHUNK):
            chunk = shortest_first[start : start + CHUNK]
            # Padding to the right is harmless: attention is causal, no token sees what follows it.
            ids = pad_sequence([torch.tensor(token_ids[p]) for p in chunk], batch_first=True)
            states = self.text_encoder(input_ids=ids.to(device)).last_hidden_state
            embeds |= {p: state[: len(token_ids[p])] for p, state in zip(chunk, states, strict=True)}
        return embeds

    def _tokenize(self, prompts: Sequence[str], padded: bool) -> dict[str, list[int]]:
        if not prompts:
            return {}
        words = self.tokenizer(list(prompts), add_special_tokens=False, verbose=False).input_ids
        room = self.limit - (self.tokenizer.num_special_tokens_to_add() if padded else 0)
        for prompt, ids in zip(prompts, words, strict=True):
            self._warn_if_cut(prompt, ids[room:])
        if not padded:
            return {prompt: ids[:room] for prompt, ids in zip(prompts, words, strict=True)}
        ids = self.tokenizer(list(prompts), padding="max_length", truncation=True, max_length=self.limit).input_ids
        return dict(zip(prompts, ids, strict=True))

    def _warn_if_cut(self, prompt: str, cut: list[int]) -> None:
        if cut and prompt not in self._warned:
            self._warned.add(prompt)
            lost = str(self.tokenizer.decode(cut)).strip()
            warnings.warn(
                f"A prompt is {len(cut)} tokens longer than the text encoder's limit of {self.limit}; "
                f"cut off: {lost!r}. The prompt: {prompt!r}",
                stacklevel=2,
            )
