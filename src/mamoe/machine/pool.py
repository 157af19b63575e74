"""A function over many pictures in several processes that end with the command, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_any
from typing import TypeVar

from mamoe.errors import MamoeError
from mamoe.machine.allocation import keep_freed_memory

T = TypeVar("T")
R = TypeVar("R")

_LEAST = 16  # pictures a process from which it is worth its start
_CHUNK = 8  # pictures handed over at a time


def usable_cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mapped(run: Callable[[T], R], work: Sequence[T], workers: int, least: int = _LEAST) -> Generator[R, None, None]:
    """``run`` of everything, in order; little work is done in this process.

    Args:
        run: a function of a module; what it takes and gives goes from process to process.
        work: what to run it for.
        workers: processes at most.
        least: pieces of work a process from which it is worth its start.

    Raises:
        MamoeError: one of the processes was ended from outside.
    """
    workers = min(workers, len(work) // least)
    if workers <= 1:
        yield from map(run, work)
        return
    chunks = [work[i : i + _CHUNK] for i in range(0, len(work), _CHUNK)]
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    try:
        waiting: deque[Future[list[R]]] = deque()
        for chunk in chunks:
            waiting.append(pool.submit(_run_all, run, chunk))
            if len(waiting) > 3 * workers:  # no more in memory than keeps everybody busy
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise MamoeError(
            f"One of the {workers} processes that share the work was ended from outside, most often because memory ran "
            "out. Give the command again with more memory free, or fewer --workers where it takes them."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run_all(run: Callable[[T], R], chunk: Sequence[T]) -> list[R]:
    return [run(one) for one in chunk]


def _begin() -> None:
    """Leave Ctrl-C to the command, and end when it is no more."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait_for_any([sentinel])
    os._exit(1)
