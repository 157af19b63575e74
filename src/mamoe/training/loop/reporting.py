"""Where the words of a training go: log.txt, and the console above the progress bar."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from mamoe.console import visible_lines

log = logging.getLogger(__name__)


@contextmanager
def reported(path: Path, console: Console) -> Iterator[None]:
    """What the package reports goes to a file and above the progress bar; lightning's own small talk nowhere."""
    if getattr(rank_zero_only, "rank", 0):
        yield  # the first process speaks for all
        return
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers = [file, _ConsoleLines(console)]
    ours, lightnings = logging.getLogger("mamoe"), logging.getLogger("lightning.pytorch")
    levels = ours.level, lightnings.level
    ours.setLevel(logging.INFO)
    lightnings.setLevel(logging.WARNING)
    for handler in handlers:
        ours.addHandler(handler)
    try:
        yield
    except BaseException as error:
        file.handle(log.makeRecord(log.name, logging.ERROR, "", 0, "%s: %s", (type(error).__name__, error), None))
        raise
    finally:
        for handler in handlers:
            ours.removeHandler(handler)
            handler.close()
        ours.setLevel(levels[0])
        lightnings.setLevel(levels[1])


class _ConsoleLines(logging.Handler):
    """Prints through the console of the progress bar, which keeps the bar below."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(visible_lines(record.getMessage()), markup=False, highlight=False, soft_wrap=True)
