"""What a newcomer sees of the command: our own lines alone, and how far long work has got."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

Report = Callable[[int, int], None]  # (done, in all)
Bar = Callable[[str], AbstractContextManager[Report]]  # a title -> a progress bar


def quiet_libraries() -> None:
    """Switch off the progress bars with which libraries read and write files; downloads keep theirs."""
    import diffusers
    import huggingface_hub.utils as hub
    import transformers

    downloads_are_shown = not hub.are_progress_bars_disabled()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()  # and the hub's with them
    if downloads_are_shown:
        hub.enable_progress_bars()


@contextmanager
def progress(title: str) -> Iterator[Callable[..., None]]:
    """A rich progress bar, fed by calls of (done, total) and an optional word; only the first process shows it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[word]}"),
    )
    with Progress(*columns, disable=os.environ.get("RANK", "0") != "0") as bar:
        task = bar.add_task(title, total=None, word="")
        yield lambda done, total, word="": bar.update(task, completed=done, total=total, word=word)


@contextmanager
def silent(title: str) -> Iterator[Callable[..., None]]:
    """In place of :func:`progress` where another process shows the bar."""
    yield lambda done, total, word="": None
