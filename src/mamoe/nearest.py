"""What a misspelt word was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word most like ``word``, if any is."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.5)), None)
