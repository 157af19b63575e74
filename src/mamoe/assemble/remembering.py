"""A run that goes on remembers what it was told, once the training has really begun."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mamoe.assemble.record import write_told

log = logging.getLogger(__name__)


class Remembering(Callback):
    """Writes what a resumed run is told now at the start: settings that cannot work are not remembered.

    Args:
        run_dir: the run's folder.
        config: as it was composed.
        overrides: all that were composed.
        notes: what is said about the changes.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any], overrides: Sequence[str], notes: Sequence[str]):
        self._run_dir, self._config, self._overrides, self._notes = run_dir, config, overrides, notes
        self._written = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._written or not trainer.is_global_zero:  # with smaller micro-batches a training starts once more
            return
        self._written = True
        for note in self._notes:
            log.info(note)
        write_told(self._run_dir, step=trainer.global_step, config=self._config, overrides=self._overrides)
