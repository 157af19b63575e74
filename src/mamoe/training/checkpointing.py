"""Checkpoint folders: written whole or not at all, checked by hash, found again.

    <run>/checkpoints/step-00002000/   unet/ unet_ema/ [text_encoder/ ...] trainer/ recipe.json MANIFEST.json
    <run>/checkpoints/latest, best     relative links to such folders

A folder is written beside its place under a name nobody reads, flushed to disk, closed with the manifest, and then
renamed; only after that may an older one go. No pickle anywhere: safetensors and JSON.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from mamoe.training.errors import CheckpointError

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"
_FORMAT = 1


def checkpoint_dir(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.resolve().name.removeprefix("step-"))


def checkpoints_of(run_dir: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first; whether they are sound is not looked at."""
    return sorted(p for p in (run_dir / "checkpoints").glob("step-*") if p.is_dir() and not p.is_symlink())


def write_checkpoint(run_dir: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a folder, and make it the run's ``latest`` checkpoint once it is safely on disk."""
    final = checkpoint_dir(run_dir, step)
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
        files = sorted(p for p in partial.rglob("*") if p.is_file())
        table = {str(p.relative_to(partial)): {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in files}
        (partial / MANIFEST).write_text(json.dumps({"format": _FORMAT, "step": step, "files": table}, indent=1))
        for path in [*files, partial / MANIFEST, *(p for p in partial.rglob("*") if p.is_dir()), partial]:
            _flush(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    replaced = final.with_name(f".{final.name}.replaced")
    if final.exists():  # the same step again, after resuming from an earlier one
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    partial.rename(final)
    link(final, "latest")
    shutil.rmtree(replaced, ignore_errors=True)
    return final


def link(checkpoint: Path, name: str) -> None:
    """Point ``<checkpoints>/<name>`` at a checkpoint, in one move."""
    fresh = checkpoint.with_name(f".{name}.partial")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(checkpoint.name)
    fresh.replace(checkpoint.with_name(name))
    _flush(checkpoint.parent)


def prune(run_dir: Path, keep_last: int) -> None:
    """Keep the newest ``keep_last`` checkpoints and those a link points at; remove others and a crash's leftovers."""
    root = run_dir / "checkpoints"
    for leftover in root.glob(".step-*"):
        shutil.rmtree(leftover)
    linked = {(root / name).resolve() for name in ("latest", "best") if (root / name).exists()}
    for old in checkpoints_of(run_dir)[:-keep_last]:
        if old.resolve() not in linked:
            shutil.rmtree(old)


def problems_of(checkpoint: Path) -> list[str]:
    """What is wrong with a checkpoint folder, file by file; empty when every byte is as it was written."""
    manifest = checkpoint / MANIFEST
    try:
        content = json.loads(manifest.read_text())
        known = content["format"] == _FORMAT
        files = content["files"] if known else {}
    except FileNotFoundError:
        return [f"{manifest} is missing"]
    except (ValueError, KeyError, TypeError):
        return [f"{manifest} cannot be read"]
    if not known:
        return [f"{manifest} has format {content['format']}, this version reads {_FORMAT}"]
    problems = []
    for name, facts in files.items():
        path = checkpoint / name
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif path.stat().st_size != facts["bytes"]:
            problems.append(f"{path} has {path.stat().st_size} bytes instead of {facts['bytes']}")
        elif _sha256(path) != facts["sha256"]:
            problems.append(f"{path} was changed: its sha256 differs from the manifest's")
    return problems


def find_checkpoint(path: Path) -> Path:
    """The sound checkpoint a path names: a checkpoint folder (or link) itself, or the newest sound one of a run.

    Raises:
        CheckpointError: the checkpoint named is missing or damaged, or the run has no sound one.
    """
    is_run = (path / "checkpoints").is_dir()  # the newest run of an experiment is called latest, too
    if not is_run and (path.name in ("latest", "best") or path.name.startswith("step-")):
        if not path.is_dir():
            raise CheckpointError(f"There is no checkpoint {path}. {_there_are(path.parent.parent)}")
        problems = problems_of(path)
        if problems:
            raise CheckpointError(
                f"Checkpoint {path} is damaged: {'; '.join(problems)}. Name another one, or the run folder to take "
                f"the newest sound one. {_there_are(path.parent.parent)}"
            )
        return path.resolve()
    for candidate in _newest_first(path):
        problems = problems_of(candidate)
        if not problems:
            return candidate.resolve()
        log.warning("Checkpoint %s is damaged (%s); trying the one before.", candidate, "; ".join(problems))
    raise CheckpointError(f"There is no sound checkpoint to resume from in {path}. {_there_are(path)}")


def _newest_first(run_dir: Path) -> list[Path]:
    # A run resumed from an older checkpoint leaves newer ones of an abandoned branch; ``latest`` tells them apart.
    found = checkpoints_of(run_dir)
    latest = run_dir / "checkpoints" / "latest"
    if latest.is_dir():
        found = [p for p in found if step_of(p) <= step_of(latest)]
    return found[::-1]


def _there_are(run_dir: Path) -> str:
    names = [p.name for p in checkpoints_of(run_dir)]
    if names:
        return f"{run_dir / 'checkpoints'} holds: {', '.join(names)}."
    return f"Wanted a run folder with checkpoints/step-*; {run_dir} holds none."


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
