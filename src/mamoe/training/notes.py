"""What a user should know of a training's settings, said when everything else is in order."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)


class Notes(Callback):
    """Says ``lines`` at the start of the training, on the console and in log.txt."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = tuple(lines)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for line in self._lines:
            log.info("Note: %s.", line)
