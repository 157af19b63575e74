"""How a command ends when it is told to: Ctrl-C and SIGTERM alike, with a word on what is kept and how to go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mamoe.errors import MamoeError

INTERRUPTED, TRY_AGAIN = 130, 75  # exit codes of Ctrl-C, and of what a scheduler may start anew


class Terminated(BaseException):
    """SIGTERM came; like KeyboardInterrupt nothing that mends errors catches it."""


class Stopped(MamoeError):
    """A command was told to stop; the message says what is kept."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated` inside the ``with``, at whatever is at hand, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # only that one may listen
        yield
        return
    owner = os.getpid()

    def raise_it(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker ends as if nobody listened
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise Terminated

    before = signal.signal(signal.SIGTERM, raise_it)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stopped_with(kept: str) -> Iterator[None]:
    """Say ``kept`` when the command is told to stop inside the ``with``.

    Raises:
        Stopped: with the exit code of what told it.
    """
    try:
        yield
    except (KeyboardInterrupt, Terminated) as told:
        word, code = ("Interrupted", INTERRUPTED) if isinstance(told, KeyboardInterrupt) else ("Stopped", TRY_AGAIN)
        raise Stopped(f"{word}: {kept}", code) from None
