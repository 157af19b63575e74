"""What a checkpoint says so that a run which goes on can be compared with it; see :mod:`mamoe.training.continuing`."""

from __future__ import annotations

from typing import Any

from torch import nn

import mamoe
from mamoe.checkpoints import RECIPE_FORMAT
from mamoe.conditioning.settings import LayoutSettings
from mamoe.config import Train
from mamoe.data.dataset import LayoutDataset
from mamoe.data.fingerprint import fingerprint_of_samples
from mamoe.models.finetune import method_of
from mamoe.models.pretrained import BaseModel
from mamoe.shards import fingerprint_of


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


def weights_of(config: Train, base: BaseModel) -> dict[str, str]:
    """What the parts of a base model that checkpoints do not hold are known by again: a sample of their weights."""
    parts: dict[str, nn.Module] = {"vae": base.vae}
    if not config.model.train_text_encoder:
        parts["text_encoder"] = base.text_networks
    if method_of(config.method.model_dump()).keeps_adapter_alone and base.adapter is None:
        parts["unet"] = base.unet
    return {name: _sample(network) for name, network in parts.items()}


def _sample(network: nn.Module) -> str:
    # By number: libraries rename weights from one release to the next.
    return fingerprint_of("", {str(i): weight.detach() for i, weight in enumerate(network.parameters())})
