"""The data a finished run is evaluated on or drawn from: its own, or another of the same classes."""

from __future__ import annotations

from pathlib import Path

from mamoe.config.train import Train
from mamoe.console import note
from mamoe.data.folder.description import data_folder
from mamoe.vocabulary.taxonomy import Taxonomy

STORE = "segmenter"  # folder of the domain segmenter, beside the data


def with_data(config: Train, folder: Path, taxonomy: Taxonomy) -> Train:
    """The configuration of a run whose data set, or another of the same classes, is in ``folder``."""
    parts = data_folder(folder, taxonomy)
    places = {key: getattr(parts, key) for key in ("images", "panoptic_maps", "prompts", "instance_prompts")}
    named = {key: None if place is None else str(place) for key, place in places.items()}
    for text in parts.notes:
        note(text)
    named |= {"root": str(folder), "recursive": parts.recursive}
    return config.model_copy(update={"data": config.data.model_copy(update=named)})
