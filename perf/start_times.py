"""When a training got where: a callback that Lightning adds to the trainers of `mamoe train` for perf/start.py.

Lightning asks packages that are installed for callbacks; :func:`announce` makes this file one, for processes that have
the folder in PYTHONPATH. A file of its own, because the training imports it, and what it imports counts into the start.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning.pytorch import Callback

ROOM = "room for copies"  # the thread of mamoe.training.loop.beside
FILE = "START_TIMES"  # of the environment: where it is noted


def announce(folder: Path) -> None:
    """Make a package of this file in ``folder``."""
    package = folder / "start_times-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: start-times\nVersion: 1\n")
    asked = "lightning.pytorch.callbacks_factory"
    (package / "entry_points.txt").write_text(f"[{asked}]\ntimes = start_times:callbacks\n")


def callbacks() -> list[Callback]:
    return [Times(os.environ[FILE])]


class Times(Callback):
    """Appends a JSON line per event to ``file``: what and when, in seconds since the epoch.

    The device is waited for at the first step and at the last, and runs ahead of the host by a step at most in between.
    """

    def __init__(self, file: str) -> None:
        self._file = Path(file)
        own = psutil.Process()
        with contextlib.suppress(
            psutil.Error, RuntimeError, OSError, ValueError
        ):  # systems that do not say, or no child
            # The server of data workers, which a training starts as soon as everything is imported. By the same clock:
            # what the system says of when a process began is rounded to seconds in all of them alike.
            begun = min(child.create_time() for child in own.children())
            self._note("imported", after=begun - own.create_time())
        self._note("loaded")

    def _note(self, what: str, **more: Any) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps({"what": what, "at": time.time(), **more}) + "\n")

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        # First of all: a step ends before anything is measured or saved after it. As a new list: the old one is being
        # walked through.
        trainer.callbacks = [self, *(callback for callback in trainer.callbacks if callback is not self)]

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._note("moved")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._note("set up")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._note("first batch")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step in (1, trainer.max_steps) and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        making = any(thread.name == ROOM for thread in threading.enumerate())
        self._note("step", step=step, making_room=making)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._note("saved")
