"""The command in processes of its own, forked from a server that has imported everything once.

A process that a shell starts spends ten seconds of processor time on imports. A forked one spends none, and is all else
that the other is: it has its own signals, streams and exit code, and `kill -9` ends it. Data workers of the tests' own
process come from the same server.
"""

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch.utilities import rank_zero_only

import mamoe.assemble.training  # this and what follows: before the fork
import mamoe.commands.captioning.story
import mamoe.commands.evaluate
import mamoe.sampling.folders
import once
from factories import Outcome, short_run
from mamoe.cli import main
from mamoe.config.compose import compose

assert mamoe
once.begin()
compose(short_run(Path("base"), Path("data"), Path("runs")), say=str)  # as most of them will
if "pytest" not in sys.modules:  # the server: who looks for garbage there copies all its pages
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)


def process(target: Callable[..., None], *args: Any) -> BaseProcess:
    """A process that calls ``target`` in this environment and folder; not yet started."""
    serve()
    context = multiprocessing.get_context("forkserver")
    return context.Process(target=_here, args=(dict(os.environ), os.getcwd(), target, *args))


def serve() -> None:
    """Start the server where it does not run yet."""
    if _Server.runs:
        return
    _Server.runs = True
    forkserver._forkserver._stop()  # one that a test of data workers has started knows less
    multiprocessing.get_context("forkserver").set_forkserver_preload(["apart"])
    paths = [str(Path(__file__).parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(paths)):
        forkserver.ensure_running()


class _Server:
    runs = False


def _here(environment: dict[str, str], folder: str, target: Callable[..., None], *args: Any) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if "OMP_NUM_THREADS" in environment:
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # the server has read its own
    os.chdir(folder)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    target(*args)


def exit_codes(processes: Sequence[BaseProcess]) -> list[int | None]:
    """How processes end that are started together."""
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    return [one.exitcode for one in processes]


def ranks(count: int, target: Callable[..., None], *args: Any) -> list[BaseProcess]:
    """``count`` processes that call ``target`` as torchrun's do; one alone is no part of a group. Not yet started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [process(_as_rank, rank, count, port, target, *args) for rank in range(count)]


def _as_rank(rank: int, count: int, port: int, target: Callable[..., None], *args: Any) -> None:
    if count > 1:
        torch.set_num_threads(1)  # as torchrun does
        rank_zero_only.rank = rank  # Lightning read it when it was imported
        facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
        facts |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        os.environ |= {name: str(value) for name, value in facts.items()}
    target(*args)


class Command:
    """``mamoe words``, started; by ``count`` processes as torchrun does."""

    def __init__(self, words: Sequence[str | Path], says: Path, count: int = 1) -> None:
        """``says`` and ``says.err`` are appended what is printed."""
        self._says = says
        self._ranks = ranks(count, _command, [str(word) for word in words], [str(says), f"{says}.err"])
        for one in self._ranks:
            one.start()

    @property
    def runs(self) -> bool:
        return any(one.is_alive() for one in self._ranks)

    @property
    def out(self) -> str:
        return self._says.read_text() if self._says.exists() else ""

    def wait(self, until: Callable[[], bool] = lambda: False, timeout: float = 900) -> bool:
        """Whether ``until`` said so before the command ended."""
        deadline = time.monotonic() + timeout
        while self.runs:
            if until():
                return True
            assert time.monotonic() < deadline, self.out
            time.sleep(0.001)
        return False

    def send(self, number: signal.Signals) -> None:
        for one in self._ranks:
            assert one.pid is not None
            os.kill(one.pid, number)

    def kill(self) -> None:
        for one in self._ranks:
            one.kill()
            one.join()

    def outcome(self, timeout: float = 900) -> Outcome:
        """How it ended and what it said, when it has ended."""
        self.wait(timeout=timeout)
        for one in self._ranks:
            one.join()
        code = max((one.exitcode or 0 for one in self._ranks), key=abs)
        return Outcome(code=code, out=self.out, err=Path(f"{self._says}.err").read_text())


def mamoe_apart(words: Sequence[str | Path], says: Path, count: int = 1) -> Outcome:
    """Run the command in a process of its own, or in ``count``."""
    return Command(words, says, count).outcome()


def _command(words: list[str], said: list[str]) -> None:
    _say_in(said)
    sys.argv = ["mamoe", *words]
    main()


def _say_in(said: list[str]) -> None:
    for number, name in enumerate(said, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def script_apart(words: Sequence[str], says: Path) -> Outcome:
    """Run a script, the first of the words, in a process of its own."""
    said = [str(says), f"{says}.err"]
    one = process(_script, list(words), said)
    one.start()
    one.join()
    return Outcome(code=one.exitcode or 0, out=Path(said[0]).read_text(), err=Path(said[1]).read_text())


def _script(words: list[str], said: list[str]) -> None:
    _say_in(said)
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")
