"""Which checkpoint of a run is meant, whether it is sound, and where its networks are.

<run>/checkpoints/{step-00002000, ..., latest, best}/{unet/, [unet_ema/,] recipe.json, MANIFEST.json}
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mamoe.errors import ConfigError
from mamoe.runs.folder import OVERRIDES
from mamoe.runs.manifest import MANIFEST, problems_of
from mamoe.runs.recipe import RECIPE

CHECKPOINTS = "checkpoints"
_NONE = "It has none yet: a training writes one every callbacks.checkpoints.every steps, and at its end."


def is_run(folder: Path) -> bool:
    """Whether the folder is a training run, with checkpoints or none yet, or one of its checkpoints."""
    return (folder / CHECKPOINTS).is_dir() or any((folder / name).is_file() for name in (OVERRIDES, RECIPE))


def find_checkpoint(run: Path, checkpoint: str = "latest") -> Path:
    """The checkpoint folder meant by ``checkpoint``; a run that is itself a checkpoint folder is taken as it is.

    Raises:
        ConfigError: there is no such checkpoint; the message lists those there are.
    """
    if (run / RECIPE).is_file():
        return _step_of_copy(run.resolve())
    root = run / CHECKPOINTS
    name = f"step-{int(checkpoint):08d}" if checkpoint.isascii() and checkpoint.isdigit() else checkpoint
    folder = root / name
    if folder.is_file():  # a link on a file system without links: a text file with the folder's name
        folder = root / folder.read_text(encoding="utf-8").strip()
    if not (folder / RECIPE).is_file():
        present = sorted(p.name for p in root.glob("*") if (p / RECIPE).is_file())
        there = f"There are: {', '.join(present)}." if present else _NONE
        raise ConfigError(f"Run {run} has no checkpoint {checkpoint!r}. {there}")
    return _step_of_copy(folder.resolve())


def _step_of_copy(folder: Path) -> Path:
    """The checkpoint that a folder is a copy of, where a link was copied as what it leads to; else the folder."""
    manifest = folder / MANIFEST
    twins = [other for other in folder.parent.glob("step-*") if (other / MANIFEST).is_file()]
    if folder.name.startswith("step-") or not manifest.is_file():
        return folder
    return next((twin for twin in twins if (twin / MANIFEST).read_bytes() == manifest.read_bytes()), folder)


def require_sound(folder: Path, parts: Collection[str]) -> None:
    """Refuse a checkpoint whose recipe, or a file in one of the subfolders ``parts``, is not as it was written.

    Raises:
        ConfigError: says what is wrong, and which other checkpoints the run has.
    """
    if problems := problems_of(folder, {RECIPE, *parts}):
        others = [path.name for path in sorted(folder.parent.glob("step-*")) if path != folder]
        raise ConfigError(
            f"Checkpoint {folder} is damaged: {'; '.join(problems)}. Take another one with --checkpoint: "
            f"{', '.join(others) or 'the run has none'}."
        )


def part_of_network(checkpoint: Path, name: str, ema: bool) -> Path:
    """The folder of a network in a checkpoint: its average where that is wanted and there is one."""
    averaged = checkpoint / f"{name}_ema"
    return averaged if ema and averaged.is_dir() else checkpoint / name
