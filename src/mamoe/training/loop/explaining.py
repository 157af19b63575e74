"""What can end a training besides its last step, in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mamoe.errors import MamoeError
from mamoe.machine.memory import is_out_of_memory, memory_facts, smaller_preset
from mamoe.storage.staging import DiskFullError, is_disk_full


class OutOfMemoryError(MamoeError):
    """The device or the machine ran out of memory."""

    exit_code = 5


@contextmanager
def explained(run_dir: Path, gpu_gib: int | None = None) -> Iterator[None]:
    """Turns the errors of a full memory or disk, and those data workers wrap, into messages that say what to do.

    Args:
        gpu_gib: of the GPU that the preset in use is made for; None = it is none of those.
    """
    try:
        yield
    except MamoeError as error:
        if "Original Traceback" not in str(error):
            raise
        raise type(error)(_message(error)) from None
    except Exception as error:
        if is_out_of_memory(error):
            preset = smaller_preset(gpu_gib)
            fits = "" if preset is None else f"What fits this GPU is {preset}. Or set "
            raise OutOfMemoryError(
                f"Out of memory: {_first_line(error)} {memory_facts()} {fits or 'Set '}"
                "trainer.auto_microbatch=true, which takes a batch in smaller pieces with the same result, or "
                "model.gradient_checkpointing=true, or trainer.precision=bf16-mixed (it halves frozen weights), or "
                f"cache.latents=true, or train less of the model; then resume with resume={run_dir}."
            ) from error
        if is_disk_full(error):
            raise DiskFullError(
                f"The disk of {run_dir} is full: {_first_line(error)} Earlier checkpoints are unharmed. Free some "
                f"space or keep fewer checkpoints, then resume with resume={run_dir}."
            ) from error
        raise


def _message(error: BaseException) -> str:
    """What the error said where it was raised: torch puts a data worker's whole traceback around it."""
    text, mark = str(error), f"{type(error).__name__}: "
    return text.rsplit(mark, 1)[1].strip() if "Original Traceback" in text and mark in text else text


def _first_line(error: BaseException) -> str:
    return (_message(error).splitlines() or [type(error).__name__])[0].rstrip(".") + "."
