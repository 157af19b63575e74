"""Texts made longer by tokens that no cell sees: what is recorded or compiled for a length serves shorter texts too."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

MULTIPLE = 64  # what the number of prompt tokens is rounded up to


def tokens_of(inputs: dict[str, Any]) -> int | None:
    """S, the number of tokens in inputs of a network; None: there is no mask that would hide more of them."""
    embeds = inputs.get("encoder_hidden_states")
    regions = (inputs.get("cross_attention_kwargs") or {}).get("regions")
    if embeds is None or not regions or any(level.attend is None for level in regions):
        return None
    return int(embeds.shape[1])


def with_tokens(inputs: dict[str, Any], count: int) -> dict[str, Any]:
    """The same with ``count`` tokens, at least as many as there are, those at the end seen by no cell.

    For inputs of which :func:`tokens_of` knows the number.
    """
    embeds, told = inputs["encoder_hidden_states"], inputs["cross_attention_kwargs"]
    missing = count - embeds.shape[1]
    levels = tuple(level.with_more_tokens(missing) for level in told["regions"])
    return {
        **inputs,
        "encoder_hidden_states": F.pad(embeds, (0, 0, 0, missing)),
        "cross_attention_kwargs": {**told, "regions": levels},
    }


def rounded_up(tokens: int) -> int:
    """The next number of tokens that :data:`MULTIPLE` divides."""
    return tokens + -tokens % MULTIPLE
