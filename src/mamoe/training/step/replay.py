"""Takes one optimizer step again that was not finite, from the state before it, and says where it goes wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from mamoe.errors import CheckpointError, NonFiniteLossError
from mamoe.runs.checkpoint import sound_checkpoint
from mamoe.runs.recipe import Recipe
from mamoe.training.loop.continuing import continued
from mamoe.training.loop.explaining import explained
from mamoe.training.loop.reporting import reported
from mamoe.training.loop.saving import Resuming
from mamoe.training.loop.trainer import checked, make_trainer, run_trainer
from mamoe.training.order.loaders import LayoutDataModule
from mamoe.training.step.module import DiffusionModule

log = logging.getLogger(__name__)


def replay(
    report: Path,
    module: DiffusionModule,
    data: LayoutDataModule,
    *,
    recipe: Recipe,
    trainer: Mapping[str, Any],
) -> None:
    """Take the step of a ``nonfinite-step-….json`` again, with torch's search for the operation that fails.

    Nothing of the run is changed; log.txt and the console tell how it went.

    Raises:
        NonFiniteLossError: it fails again; the message names the operation, or the pictures.
        CheckpointError: the file cannot be read, or the checkpoint before the step is gone or damaged.
    """
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
        step, before, data.pieces = content["step"], content["checkpoint"], content["pieces"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{report} is no file of a step that was not finite: {error!r}.") from None
    run_dir = report.parent
    with reported(run_dir / "log.txt", Console()), explained(run_dir):
        callbacks = []
        if before is not None:
            checkpoint = sound_checkpoint(run_dir / before)
            data.first = continued(checkpoint, module, data, recipe)["samples_seen"]
            callbacks = [Resuming(checkpoint)]
        settings = {**checked(trainer, step), "detect_anomaly": True}
        lightning = make_trainer(
            settings, run_dir, start=step - 1, max_steps=step, pieces=data.pieces, callbacks=callbacks
        )
        log.info(_line(content))
        try:
            run_trainer(lightning, module, data)
        except RuntimeError as error:
            if "nan values" not in str(error):
                raise
            raise NonFiniteLossError(
                f"Step {step} again: {str(error).splitlines()[0]} The warning above shows where it was computed."
            ) from None
        log.info(
            "Step %d is finite this time: loss %s, gradient norm %s. Either the settings changed, or this machine "
            "computes something else.",
            step,
            module.watch.loss,
            module.watch.grad_norm,
        )


def _line(content: Mapping[str, Any]) -> str:
    pictures = ", ".join(f"{p['key']} (pass {p['epoch']}, loss {p['loss']})" for p in content["pictures"])
    return (
        f"Replaying step {content['step']}: learning rate {content['learning_rate']}, gradient norm "
        f"{content['grad_norm']}; {pictures}"
    )
