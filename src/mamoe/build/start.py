"""Where a training writes, and what it goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mamoe.build.callbacks import patience
from mamoe.config import Train
from mamoe.rundir import new_run_dir, newest_like, run_of
from mamoe.training.checkpointing import checkpoints_of, find_checkpoint, step_of
from mamoe.training.cluster import Choice
from mamoe.training.metrics import METRICS

AUTO = "auto"
REPLAY = ".json"  # a file of a step that was not finite


def choose_run(config: Train, plain: Mapping[str, Any], steps: int) -> Choice:
    """The run folder ("run"), and the checkpoint to continue from ("from": a path, or None for a fresh start).

    ``resume=auto`` goes on with the newest run of the same configuration if that is not done (at its last step, or
    stopped because nothing became better), in the same folder even if it ended before its first checkpoint; otherwise
    it starts a new one.

    Raises:
        MamoeError: ``resume`` names no run, or one without a sound checkpoint.
    """
    if config.resume is None:
        return _fresh(new_run_dir(config.runs, config.name))
    if config.resume == AUTO:
        found = newest_like(config.runs, config.name, plain)
        saved = [] if found is None else checkpoints_of(found)
        if found is None or (saved and (step_of(saved[-1]) >= steps or _no_better(config, found, step_of(saved[-1])))):
            return _fresh(new_run_dir(config.runs, config.name))
        return {"run": str(found), "from": str(find_checkpoint(found))} if saved else _fresh(found)
    folder = run_of(config.resume)
    if config.resume.endswith(REPLAY):
        return {"run": str(folder), "from": config.resume}
    return {"run": str(folder), "from": str(find_checkpoint(Path(config.resume)))}


def _no_better(config: Train, run: Path, saved: int) -> bool:
    limit = patience(config)
    return limit is not None and limit.spent(run / METRICS, until=saved) is not None


def _fresh(folder: Path) -> Choice:
    return {"run": str(folder), "from": None}
