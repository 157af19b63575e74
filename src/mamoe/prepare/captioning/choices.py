"""What may be chosen, by the words of the command line. Imports nothing, so that ``--help`` is instant."""

from __future__ import annotations

from enum import StrEnum

OPENAI = "https://api.openai.com/v1"


class Kind(StrEnum):
    """What is captioned."""

    PICTURES = "pictures"
    OBJECTS = "objects"

    @property
    def key(self) -> str:
        """Of ``data.yaml``, for the text file."""
        return "prompts" if self is Kind.PICTURES else "instance_prompts"


class Via(StrEnum):
    """Who answers."""

    LIVE = "live"  # a server, one request after the other
    BATCH = "batch"  # a server, by its Batch API
    LOCAL = "local"  # a model on this machine


class Only(StrEnum):
    """Which items are asked about."""

    MISSING = "missing"
    FAILED = "failed"
    ALL = "all"


class Mode(StrEnum):
    """What becomes of a text that is there."""

    OVERWRITE = "overwrite"
    APPEND = "append"
    PREPEND = "prepend"
