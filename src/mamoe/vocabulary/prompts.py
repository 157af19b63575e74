"""What a user wrote about a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionPrompts:
    """What the user wrote about one picture."""

    global_prompt: str = ""
    by_segment: Mapping[int, str] = field(default_factory=dict[int, str])  # segment id -> instance prompt
