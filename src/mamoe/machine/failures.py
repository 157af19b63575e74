"""How the command ends when something outside it fails: one clear message, and the exit code of its kind."""

from __future__ import annotations

import errno

from mamoe.errors import MamoeError
from mamoe.storage.staging import is_disk_full


class Ending(MamoeError):
    """A failure of the file system or of memory, in words; with the exit code of its kind."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def ending_of(error: Exception) -> Ending | None:
    """What to tell the user of an error nobody further down explained; None for what only a fault of ours raises."""
    if is_disk_full(error):
        return _of_full_disk(error)
    if isinstance(error, OSError):
        return _of_files(error)
    from mamoe.machine.memory import is_out_of_memory, memory_facts

    if not is_out_of_memory(error):
        return None
    first = (str(error).splitlines() or ["no memory left"])[0]
    return Ending(f"Out of memory: {first} {memory_facts()} Take a smaller batch size or smaller pictures.", 5)


def _of_full_disk(error: Exception) -> Ending:
    file = getattr(error, "filename", None)
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    where = "" if file is None else f"{file}: "
    return Ending(f"{where}{reason.rstrip('.')}. Free some space and start again; finished files are kept.", 6)


def _of_files(error: OSError) -> Ending:
    if error.strerror is None:  # libraries put whole paragraphs into theirs
        return Ending((str(error).splitlines() or [type(error).__name__])[0], 2)
    where = "" if error.filename is None else f"{error.filename}: "
    if error.errno == errno.EFBIG:  # what is named is the file at hand, be it the one that is copied
        return Ending(
            f"{where}A file became too large: the file system, or `ulimit -f`, holds no larger ones. Write to another "
            "place; finished files are kept.",
            6,
        )
    return Ending(f"{where}{error.strerror}. Name a file or folder that can be read, or made and written, there.", 2)
