"""Errors a user can cause, with the exit code of the command. Imports nothing, so that ``mamoe --help`` is instant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class MamoeError(ValueError):
    """A mistake the user can mend. The message says what was wanted, what came, where, and what to do."""

    exit_code = 2


class ConfigError(MamoeError):
    """The configuration asks for something that does not exist or does not fit."""


class DatasetError(MamoeError):
    """Files of a data set are missing, unreadable or contradict each other."""

    exit_code = 3


class NonFiniteLossError(MamoeError):
    """The loss became NaN or infinite; the weights were not changed by that step."""

    exit_code = 4


class CheckpointError(MamoeError):
    """A checkpoint is missing, damaged, or of another run."""


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word most like ``word``, if any is."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.5)), None)
