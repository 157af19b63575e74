"""Where a run is and where it was: what it names by path is found again when run, base and data moved together."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mamoe.runs.lookup import CHECKPOINTS
from mamoe.vocabulary.splits import exists

log = logging.getLogger(__name__)

DATASET = "dataset.json"  # of a run folder


def place_now(run: Path) -> dict[str, str]:
    """What a run notes in its ``dataset.json`` when it is started."""
    return {"run": str(run.resolve()), "working_directory": str(Path.cwd())}


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """A run's folder now, and at its start its folder and the working directory; None = it did not note them."""

    now: Path
    run: Path | None = None
    working_directory: Path | None = None

    @classmethod
    def of(cls, run: Path) -> Home:
        """Of a run folder."""
        try:
            noted: Any = json.loads((run / DATASET).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # of an earlier version, or a checkpoint alone
            noted = {}
        said = cast(dict[str, Any], noted) if isinstance(noted, dict) else {}
        places = {key: Path(said[key]) for key in ("run", "working_directory") if isinstance(said.get(key), str)}
        return cls(now=run.resolve(), **places)

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> Home:
        """Of the run a checkpoint lies in, if it lies in one."""
        inside = checkpoint.parent.name == CHECKPOINTS
        return cls.of(checkpoint.parent.parent) if inside else cls(now=checkpoint)

    def found(self, path: str) -> str:
        """Where the file or folder is that the run called ``path``: there, or where it lies seen from the run.

        ``{split}`` in it stands for any name. A path that is nowhere is returned as it is.
        """
        if self.run is None or self.working_directory is None or exists(Path(path)):
            return path
        then = self.working_directory / path
        moved = self.now / os.path.relpath(then, self.run)
        return next((os.path.normpath(place) for place in (then, moved) if exists(place)), path)


# Keys of a configuration that are paths; those of what a run writes are not among them.
PATHS = {
    "data": ("root", "images", "panoptic_maps", "prompts", "instance_prompts", "condition", "taxonomy"),
    "model": ("path", "init_from", "config", "tokenizer", "vae"),
    "loss": ("weights",),
}


def relocated(plain: Mapping[str, Any], home: Home) -> dict[str, Any]:
    """The configuration of a run with what moved together with it where it is now; every such place is said."""
    sections: dict[str, dict[str, Any]] = {}
    for name, keys in PATHS.items():
        given = plain.get(name)
        # What else it may be, its schema refuses.
        section = dict(cast(Mapping[str, Any], given)) if isinstance(given, Mapping) else {}
        for key in keys:
            if isinstance(said := section.get(key), str) and (now := home.found(said)) != said:
                log.warning("%s is not there any more: %s.%s is read from %s.", said, name, key, now)
                section[key] = now
        sections[name] = section
    return {**plain, **{name: section for name, section in sections.items() if section}}
