"""What the command says to people: a word on what was guessed or ignored, and how far long work has got."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

Report = Callable[[int, int], None]  # (done, in all)
Bar = Callable[[str], AbstractContextManager[Report]]  # a title -> a progress bar

# Control characters, line ends of Unicode, what turns the direction of writing, and bytes that are no UTF-8.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


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


def visible(text: str) -> str:
    r"""The text in one line, control characters as ``\n``, ``\t``, ``\x1b``.

    Names of files may hold them: printed as they are, they break lines, colour a terminal, or move its cursor.
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_lines(text: str) -> str:
    """A text of several lines, each as :func:`visible` has it."""
    return "\n".join(map(visible, text.split("\n")))


def note(text: str) -> None:
    """Print it in one line on standard error; of several processes only the first does."""
    if os.environ.get("RANK", "0") == "0":
        print(f"Note: {visible(text)}", file=sys.stderr)


def warn(text: str) -> None:
    """Print it in one line on standard error."""
    print(f"Warning: {visible(text)}", file=sys.stderr)
