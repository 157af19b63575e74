"""What a checkpoint of the configured training says besides weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

import mamoe
from mamoe.assemble.base import source_to_keep
from mamoe.bases.pretrained import BaseModel
from mamoe.bases.shipped import PREFIX
from mamoe.bases.single_file import Family
from mamoe.config.train import Train
from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.fingerprint import fingerprint_of_samples
from mamoe.diffusion.schedules import Schedule
from mamoe.runs.recipe import Recipe, Terms
from mamoe.runs.source import Source
from mamoe.storage.fingerprints import fingerprint_of
from mamoe.vocabulary.layout import LayoutSettings


def terms_of(config: Train, settings: LayoutSettings, trains: LayoutDataset, validates: LayoutDataset) -> Terms:
    """What is known before the base model is loaded."""
    sources = {"train": trains, "val": validates}
    return Terms(
        layout=settings,
        method=config.method.model_dump(),
        condition=config.data.condition,
        objective=config.objective.model_dump(),
        loss=config.loss.model_dump(),
        optimizer=dict(config.optimizer),
        data={split: fingerprint_of_samples(source.files.samples) for split, source in sources.items()},
    )


def recipe_of(
    config: Train, base: BaseModel, scheduler: Schedule, terms: Terms, weights: dict[str, str] | None = None
) -> Recipe:
    """The whole of it; ``weights`` are those of :func:`weights_of`, taken before anything trains."""
    alone = config.method.kind.keeps_adapter_alone
    return Recipe(
        base=_placed(source_to_keep(config, base, adapter_alone=alone)),
        scheduler=dict(scheduler.config),
        terms=terms,
        weights=weights,
        started_from=None if base.run is None else str(base.run.checkpoint),
        mamoe=mamoe.__version__,
    )


def weights_of(config: Train, base: BaseModel) -> dict[str, str]:
    """What the parts of a base model that checkpoints do not hold are known by again: a sample of their weights."""
    parts: dict[str, nn.Module] = {"vae": base.vae}
    if not config.model.train_text_encoder:
        parts["text_encoder"] = base.text_networks
    if config.method.kind.keeps_adapter_alone and base.adapter is None:
        parts["unet"] = base.unet
    return {name: _sample(network) for name, network in parts.items()}


def _placed(source: Source) -> Source:
    """The source with whole paths of what lies on this disk: runs are looked at from any folder."""
    found: dict[str, str] = {}
    for key in ("path", "config", "tokenizer", "vae", "base"):
        place: str | None = getattr(source, key)
        named = place is None or place.startswith(PREFIX) or (key == "config" and place in list(Family))
        if place is not None and not named and Path(place).exists():
            found[key] = str(Path(place).resolve())
    return replace(source, **found)


def _sample(network: nn.Module) -> str:
    # By number: libraries rename weights from one release to the next.
    return fingerprint_of("", {str(i): weight.detach() for i, weight in enumerate(network.parameters())})
