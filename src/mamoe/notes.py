"""A word to the user about what was guessed, ignored or looks odd."""

from __future__ import annotations

import os
import sys


def note(text: str) -> None:
    """Print it on standard error; of several processes only the first does."""
    if os.environ.get("RANK", "0") == "0":
        print(f"Note: {text}", file=sys.stderr)
