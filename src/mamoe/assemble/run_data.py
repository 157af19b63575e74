"""The data a finished run is evaluated on or drawn from: its own, or another of the same classes."""

from __future__ import annotations

from pathlib import Path

import yaml

from mamoe.config.train import Train, recorded
from mamoe.console import note
from mamoe.data.folder.description import data_folder
from mamoe.errors import ConfigError
from mamoe.runs.home import Home, relocated
from mamoe.vocabulary.taxonomy import Taxonomy

STORE = "segmenter"  # folder of the domain segmenter, beside the data


def config_of(checkpoint: Path) -> tuple[Path, Train]:
    """The run's folder and its configuration, with the places of a run that has moved.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    home = checkpoint.parent.parent
    path = home / "config.yaml"
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} says which data the run was trained on, and cannot be read: {error}. Sample the layouts with "
            "`mamoe sample` and evaluate the folder."
        ) from None
    return home, recorded(relocated(plain, Home.of(home)))


def with_data(config: Train, folder: Path, taxonomy: Taxonomy) -> Train:
    """The configuration of a run whose data set, or another of the same classes, is in ``folder``."""
    parts = data_folder(folder, taxonomy)
    places = {key: getattr(parts, key) for key in ("images", "panoptic_maps", "prompts", "instance_prompts")}
    named = {key: None if place is None else str(place) for key, place in places.items()}
    for text in parts.notes:
        note(text)
    named |= {"root": str(folder), "recursive": parts.recursive}
    return config.model_copy(update={"data": config.data.model_copy(update=named)})
