"""What goes wrong with a sample names its files, whoever raised it: a reader, the geometry, a user's transform."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mamoe.data.folder.split import SampleFiles
from mamoe.errors import MamoeError


@contextmanager
def naming(files: SampleFiles) -> Iterator[None]:
    """Errors raised inside tell which sample they are about.

    Errors of ours keep their class, and with it their exit code, also on their way out of a data worker. Others are
    not ours to explain: they go on as they are, with a note that tracebacks show.
    """
    try:
        yield
    except MamoeError as error:
        if any(str(path) in str(error) for path in (files.image, files.panoptic, files.condition) if path is not None):
            raise
        raise type(error)(f"{_sample(files)}: {error}") from error
    except MemoryError as error:  # numpy's own kind cannot be made anew from a message, which torch does
        raise MemoryError(f"{_sample(files)}: {error or 'no memory left'}") from error
    except Exception as error:
        error.add_note(_sample(files))
        raise


def _sample(files: SampleFiles) -> str:
    return f"The picture {files.image} with the map {files.panoptic}"
