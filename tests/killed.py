"""Sessions of a training that are killed: forked from a server that has imported everything once."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import mamoe.assemble.training  # the heavy imports, before the fork
from mamoe.commands.train import launch

assert mamoe.assemble.training


def session(words: Sequence[str], rank: int, count: int, port: int, out: str) -> None:
    """What `mamoe train words` does, as rank ``rank`` of ``count`` that torchrun started."""
    with open(out, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if count > 1:
        from lightning.pytorch.utilities import rank_zero_only

        rank_zero_only.rank = rank  # Lightning read it when it was imported
        facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
        facts |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        os.environ |= {name: str(value) for name, value in facts.items()}
    sys.exit(launch(list(words)))


class Sessions:
    """Starts the same training again and again."""

    def __init__(self, words: Sequence[str], count: int, out: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["killed"])
        self._words, self._count, self._out = list(words), count, out

    def run(self, kill_when: Callable[[], bool] | None = None) -> int | None:
        """One session; its exit code, or None if ``kill_when`` said so before it ended."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = [
            self._context.Process(target=session, args=(self._words, rank, self._count, port, str(self._out)))
            for rank in range(self._count)
        ]
        for process in ranks:
            process.start()
        killed = False
        while any(process.is_alive() for process in ranks):
            if kill_when is not None and kill_when():
                killed = True
                break
            time.sleep(0.001)
        for process in ranks:
            if killed:
                process.kill()
            process.join()
        return None if killed else max(process.exitcode or 0 for process in ranks)
