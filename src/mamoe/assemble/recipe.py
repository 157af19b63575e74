"""What a checkpoint says to be compared with by a run that goes on; see :mod:`mamoe.training.loop.continuing`."""

from __future__ import annotations

from typing import Any

import mamoe
from mamoe.bases.pretrained import BaseModel
from mamoe.config.train import Train
from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.fingerprint import fingerprint_of_samples
from mamoe.runs.lookup import RECIPE_FORMAT
from mamoe.storage.fingerprints import fingerprint_of
from mamoe.vocabulary.layout import LayoutSettings


def comparable_of(
    config: Train, settings: LayoutSettings, trains: LayoutDataset, validates: LayoutDataset
) -> dict[str, Any]:
    """What is known before the base model is loaded, as plain JSON."""
    sources = {"train": trains, "val": validates}
    return {
        "format": RECIPE_FORMAT,
        "mamoe": mamoe.__version__,
        "layout": settings.to_dict(),
        "method": config.method.model_dump(),
        "condition": config.data.condition,
        "objective": config.objective.model_dump(),
        "loss": config.loss.model_dump(),
        "optimizer": dict(config.optimizer),
        "data": {split: fingerprint_of_samples(source.files.samples) for split, source in sources.items()},
    }


def weights_of(base: BaseModel) -> str:
    """What a base model is known by again, wherever it lies: a sample of its weights."""
    networks = (base.unet, base.vae, base.text_networks)
    # By number: libraries rename weights from one release to the next.
    weights = [weight.detach() for network in networks for weight in network.parameters()]
    return fingerprint_of("base", {str(i): weight for i, weight in enumerate(weights)})
