"""Prompts of a base model with three text encoders, two of CLIP's and T5's: Stable Diffusion 3's kind.

    tokens   CLIPs' second-last hidden states side by side, filled up to T5's width with zeros │ T5's
    pooled   what both of CLIP's project the whole prompt to, side by side

A region's prompt, too, is both kinds of tokens, one after the other. They have no places in the network, so that the
order means nothing. Without T5 the network reads zeros in the places of a padded prompt's tokens, as it also did in
training (Esser et al. 2024, arXiv 2403.03206), and of an unpadded prompt CLIP's words alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from mamoe.conditioning.encoded import EmbeddingCache
from mamoe.conditioning.padded_text import PaddedPromptEncoder
from mamoe.conditioning.text import CachedPrompts, EncodedPrompt, PromptEncoder
from mamoe.errors import ConfigError

T5_TOKENS = 256  # of a prompt, as Stable Diffusion 3's pipeline has them


@dataclass(frozen=True, kw_only=True, slots=True)
class Halves:
    """How many tokens of a padded prompt are words, in either half of it."""

    first: Any  # CLIP's tokenizer
    limit: int  # of the first half
    second: Any  # T5's; None: the second half is zeros
    limit_2: int

    def counts(self, prompt: str) -> tuple[int, int]:
        """Tokens of either half before its padding begins."""
        own = 0 if self.second is None else len(self.second(prompt, verbose=False).input_ids)
        return min(self.limit, len(self.first(prompt, verbose=False).input_ids)), min(self.limit_2, own)

    def without_padding(self, prompt: str, tokens: Float[Tensor, "_ D"]) -> Float[Tensor, "_ D"]:
        """See :meth:`PromptEncoder.without_padding`."""
        first, second = self.counts(prompt)
        return torch.cat([tokens[:first], tokens[self.limit : self.limit + second]])


class JoinedPromptEncoder(PromptEncoder):
    """The features of two CLIP encoders and of T5's, one after the other, and for whole pictures both CLIPs' vectors.

    With T5 they are in its number format, which is what a cache keeps.

    Args:
        tokenizer: of CLIP's first encoder.
        text_encoder: CLIP's first encoder.
        cache: of all three; None runs them every time.
        tokenizer_2: of CLIP's second encoder; it must split prompts as the first does.
        text_encoder_2: CLIP's second encoder.
        tokenizer_3: T5's.
        text_encoder_3: T5's; None: zeros in its place.
        width: of the text that the network reads.
        device: see :class:`PromptEncoder`.

    Raises:
        ConfigError: T5 has no tokenizer.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModelWithProjection,
        cache: EmbeddingCache | None = None,
        *,
        tokenizer_2: CLIPTokenizer,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer_3: T5Tokenizer | None = None,
        text_encoder_3: T5EncoderModel | None = None,
        width: int,
        device: torch.device | None = None,
    ) -> None:
        first: Any = text_encoder  # PromptEncoder's own first encoder projects nothing
        super().__init__(tokenizer, first, cache, tokenizer_2=tokenizer_2, text_encoder_2=text_encoder_2, device=device)
        self.width = width
        self._words = None
        if text_encoder_3 is not None:
            if tokenizer_3 is None:
                raise ConfigError("A third text encoder needs its tokenizer: give both, or none of them.")
            self._words = PaddedPromptEncoder(tokenizer_3, text_encoder_3, most=T5_TOKENS, device=device)
            self._reads_on = f" T5 reads up to {self._words.limit} tokens of it."
        second, limit_2 = (None, T5_TOKENS) if self._words is None else (tokenizer_3, self._words.limit)
        self._halves = Halves(first=tokenizer, limit=self.limit, second=second, limit_2=limit_2)

    def num_tokens(self, prompt: str) -> int:
        return sum(self._halves.counts(prompt))

    def without_padding(self, prompt: str, tokens: Float[Tensor, "_ D"]) -> Float[Tensor, "_ D"]:
        return self._halves.without_padding(prompt, tokens)

    def from_cache(self) -> CachedPrompts:
        assert self.cache is not None, "only an encoder with a cache can do without itself"
        return _CachedHalves(self.cache, self._halves)

    def _whole(self, outputs: Sequence[Any]) -> Float[Tensor, "b P"]:
        return torch.cat([output.text_embeds for output in outputs], dim=1)

    def _run(self, prompts: Sequence[str], padded: bool) -> dict[str, EncodedPrompt]:
        encoded = super()._run(prompts, padded)
        words = {} if self._words is None else self._words._run(prompts, padded)
        return {
            prompt: EncodedPrompt(
                tokens=self._joined(one.tokens, words[prompt].tokens if words else None, padded), pooled=one.pooled
            )
            for prompt, one in encoded.items()
        }

    def _joined(self, clip: Float[Tensor, "_ C"], t5: Float[Tensor, "_ D"] | None, padded: bool) -> Tensor:
        if t5 is None:
            t5 = clip.new_zeros(T5_TOKENS if padded else 0, self.width)
        return torch.cat([F.pad(clip, (0, t5.shape[1] - clip.shape[1])).to(t5), t5])


class _CachedHalves(CachedPrompts):
    def __init__(self, cache: EmbeddingCache, halves: Halves) -> None:
        super().__init__(halves.first, cache, limit=halves.limit, pools=True, zero_empty=False)
        self._halves = halves

    def num_tokens(self, prompt: str) -> int:
        return sum(self._halves.counts(prompt))

    def without_padding(self, prompt: str, tokens: Float[Tensor, "_ D"]) -> Float[Tensor, "_ D"]:
        return self._halves.without_padding(prompt, tokens)
