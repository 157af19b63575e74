"""Processes that fetch data for a training: started from a server that has imported everything once.

A forked worker would inherit locks of the training's threads and a GPU's context, which it must not touch; a spawned
one imports torch anew, and eight at a time take long. The server is a process of its own that imports while the
training loads its model, and forks each worker in a moment. Where a system has no such thing, workers are spawned.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from multiprocessing.context import BaseContext

_SERVER = "mamoe.machine.worker_server"


def worker_context() -> BaseContext:
    """How workers are started."""
    servers = "forkserver" in multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if servers else "spawn")


def start_importing(modules: Sequence[str]) -> None:
    """Start the server, if there is such a thing and it does not run; it imports ``modules``, nobody waits for it."""
    context = worker_context()
    if context.get_start_method() == "forkserver":
        from multiprocessing import forkserver

        context.set_forkserver_preload(["torch", *modules, _SERVER])
        forkserver.ensure_running()


def leave_signals_to_the_trainer(worker: int = 0) -> None:
    """Ctrl-C and schedulers signal the whole process group; a worker that died of it would break the last step."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
