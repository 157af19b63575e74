"""What a user wrote about a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionPrompts:
    """What the user wrote about one picture."""

    global_prompt: str = ""
    by_segment: Mapping[int, str] = field(default_factory=dict[int, str])  # segment id -> instance prompt


def is_text(value: Any) -> bool:
    """Whether it is text that a tokenizer can read: halves of surrogate pairs, which JSON may hold, are none."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
