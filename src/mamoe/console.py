"""What the command says to people: a word on what was guessed or ignored, and how far long work has got."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

Report = Callable[[int, int], None]  # (done, in all)
Bar = Callable[[str], AbstractContextManager[Report]]  # a title -> a progress bar


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


def note(text: str) -> None:
    """Print it on standard error; of several processes only the first does."""
    if os.environ.get("RANK", "0") == "0":
        print(f"Note: {text}", file=sys.stderr)
