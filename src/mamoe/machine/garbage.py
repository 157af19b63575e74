"""How often Python looks for garbage that only refers to itself; all other goes by itself."""

from __future__ import annotations

import gc

OBJECTS = 50_000  # Python's own 700 are a thousand looks while libraries are imported, through ever more that stays


def look_rarely() -> None:
    """Look when many objects are new. At Python's own pace a sixth of a command's start is looking for garbage."""
    gc.set_threshold(OBJECTS)
