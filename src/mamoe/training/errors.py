"""What can end a training besides its last step, as errors the command line turns into messages and exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from mamoe.staging import DiskFullError as DiskFullError
from mamoe.staging import is_disk_full as is_disk_full
from mamoe.types import MamoeError


class CheckpointError(MamoeError):
    """A checkpoint is missing, damaged, or of another run."""


class OutOfMemoryError(MamoeError):
    """The device or the machine ran out of memory."""

    exit_code = 5


try:
    import resource
except ImportError:  # not on Windows
    resource = None

_GIB = 2**30
_MEMORY_WORDS = ("not enough memory", "out of memory", "cannot allocate memory")


@contextmanager
def explained(run_dir: Path) -> Iterator[None]:
    """Turns the errors of a full memory or disk, and those data workers wrap, into messages that say what to do."""
    try:
        yield
    except MamoeError as error:
        if "Original Traceback" not in str(error):
            raise
        raise type(error)(_message(error)) from None
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(
                f"Out of memory: {_first_line(error)} {memory_facts()} Set trainer.auto_microbatch=true, which takes a "
                "batch in smaller pieces with the same result, or model.gradient_checkpointing=true, or "
                f"trainer.precision=bf16-mixed, or train less of the model; then resume with resume={run_dir}."
            ) from error
        if is_disk_full(error):
            raise DiskFullError(
                f"The disk of {run_dir} is full: {_first_line(error)} Earlier checkpoints are unharmed. Free some "
                f"space or keep fewer checkpoints, then resume with resume={run_dir}."
            ) from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the machine has no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _MEMORY_WORDS)


def memory_facts() -> str:
    """The most memory held so far, of how much, in GiB."""
    if torch.cuda.is_available():
        most, whole = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties().total_memory
        return f"At most {most / _GIB:.2f} GiB of the device's {whole / _GIB:.2f} GiB were in use."
    process = psutil.Process().memory_info()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if resource is not None else process.rss
    whole = psutil.virtual_memory().total
    return f"This process held at most {most / _GIB:.2f} GiB of the machine's {whole / _GIB:.2f} GiB."


def _message(error: BaseException) -> str:
    """What the error said where it was raised: torch puts a data worker's whole traceback around it."""
    text, mark = str(error), f"{type(error).__name__}: "
    return text.rsplit(mark, 1)[1].strip() if "Original Traceback" in text and mark in text else text


def _first_line(error: BaseException) -> str:
    return (_message(error).splitlines() or [type(error).__name__])[0].rstrip(".") + "."
