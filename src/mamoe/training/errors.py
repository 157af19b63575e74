"""What can end a training besides its last step, as errors the command line turns into messages and exit codes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mamoe.types import MamoeError


class CheckpointError(MamoeError):
    """A checkpoint is missing, damaged, or of another run."""


class OutOfMemoryError(MamoeError):
    """The device or the machine ran out of memory."""

    exit_code = 5


class DiskFullError(MamoeError):
    """No space is left where the run writes."""

    exit_code = 6


_MEMORY_WORDS = ("not enough memory", "out of memory", "cannot allocate memory")
_DISK_WORDS = ("no space left", "disk quota exceeded", "os error 28", "os error 122")


@contextmanager
def explained(run_dir: Path) -> Iterator[None]:
    """Turns the errors of a full memory or disk, and those data workers wrap, into messages that say what to do."""
    try:
        yield
    except MamoeError as error:
        plain = _without_worker_trace(error)
        if plain is None:
            raise
        raise plain from None
    except Exception as error:
        text = str(error).lower()
        if _is_memory(error, text):
            raise OutOfMemoryError(
                f"Out of memory: {_first_line(error)} Halve the batch size and double "
                "trainer.accumulate_grad_batches (the result stays the same), turn on gradient_checkpointing or "
                f"precision bf16-mixed, then resume with resume={run_dir}."
            ) from error
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(w in text for w in _DISK_WORDS):
            raise DiskFullError(
                f"The disk of {run_dir} is full: {_first_line(error)} Earlier checkpoints are unharmed. Free some "
                f"space or keep fewer checkpoints, then resume with resume={run_dir}."
            ) from error
        raise


def _is_memory(error: Exception, text: str) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in text for word in _MEMORY_WORDS)


def _without_worker_trace(error: MamoeError) -> MamoeError | None:
    """The error as the data worker raised it: torch puts the worker's whole traceback into the message."""
    text, mark = str(error), f"{type(error).__name__}: "
    if "Original Traceback" not in text or mark not in text:
        return None
    return type(error)(text.rsplit(mark, 1)[1].strip())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".") + "."
