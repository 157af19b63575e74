"""Checkpoint folders: written whole or not at all, checked by hash, found again.

    <run>/checkpoints/step-00002000/   unet/ unet_ema/ [text_encoder/ ...] trainer/ recipe.json MANIFEST.json
    <run>/checkpoints/latest, best     relative links to such folders
    <run>/checkpoints/abandoned-step-00003000/   of a branch that was left by resuming from an earlier checkpoint

A folder is written beside its place under a name nobody reads, flushed to disk, closed with the manifest, and then
renamed; only after that may an older one go, or be slimmed: what only resuming needs is dropped from it, by a new
manifest first and then from the disk. No pickle anywhere: safetensors and JSON.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

from mamoe.errors import CheckpointError
from mamoe.runs.manifest import MANIFEST, dropped_from, manifest_of, problems_of, without

log = logging.getLogger(__name__)

OPTIMIZER = "trainer/optimizer.safetensors"  # what only resuming needs
_LINKS = ("latest", "best")


class Storage:
    """The file operations that a checkpoint's safety rests on, gathered so that each can be made to fail."""

    def write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")

    def flush(self, path: Path) -> None:
        """Wait until a file's content, or a folder's list of names, is on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def remove(self, folder: Path) -> None:
        shutil.rmtree(folder)

    def drop(self, file: Path) -> None:
        file.unlink()


DISK = Storage()


def checkpoint_dir(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.resolve().name.removeprefix("step-"))


def checkpoints_of(run_dir: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first; whether they are sound is not looked at."""
    return sorted(p for p in (run_dir / "checkpoints").glob("step-*") if p.is_dir() and not p.is_symlink())


def write_checkpoint(run_dir: Path, step: int, write: Callable[[Path], None], storage: Storage = DISK) -> Path:
    """Let ``write`` fill a folder, and make it the run's ``latest`` checkpoint once it is safely on disk.

    Checkpoints of later steps belong to a branch that was left by resuming from an earlier one: they get another name.
    """
    final = checkpoint_dir(run_dir, step)
    partial, replaced = _hidden(final, "partial"), _hidden(final, "replaced")
    _restore_replaced(final.parent, storage)
    _restore_links(final.parent, storage)
    for leftover in (partial, replaced):
        if leftover.exists():
            storage.remove(leftover)
    partial.mkdir(parents=True)
    try:
        write(partial)
        for path in [p for p in partial.rglob("*") if p.is_file()]:
            storage.flush(path)
        storage.write(partial / MANIFEST, manifest_of(partial, step))
        for path in [partial / MANIFEST, *(p for p in partial.rglob("*") if p.is_dir()), partial]:
            storage.flush(path)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _set_aside(run_dir, step, storage)
    if final.exists():  # the same step again, after resuming from an earlier one
        storage.rename(final, replaced)
    storage.rename(partial, final)
    storage.flush(final.parent)
    link(final, "latest", storage)
    if replaced.exists():
        storage.remove(replaced)
    return final


def link(checkpoint: Path, name: str, storage: Storage = DISK) -> None:
    """Point ``<checkpoints>/<name>`` at a checkpoint, in one move."""
    fresh = checkpoint.with_name(f".{name}.partial")
    if fresh.is_dir() and not fresh.is_symlink():  # a copy of a link that was never put in its place
        storage.remove(fresh)
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(checkpoint.name)
    storage.rename(fresh, checkpoint.with_name(name))
    storage.flush(checkpoint.parent)


def prune(run_dir: Path, keep_last: int, storage: Storage = DISK, *, full: int | None = None) -> None:
    """Keep the newest ``keep_last`` checkpoints and those a link points at; remove others and a crash's leftovers.

    Of those kept, all but the newest ``full`` are slimmed: they cannot be resumed from any more. None: all stay whole.
    """
    root = run_dir / "checkpoints"
    _clear(root, storage)
    linked = {(root / name).resolve() for name in _LINKS if (root / name).exists()}
    for old in checkpoints_of(run_dir)[:-keep_last]:
        if old.resolve() not in linked:
            storage.rename(old, _hidden(old, "removed"))  # gone at once, however long the deletion takes
    _clear(root, storage)
    for old in [] if full is None else checkpoints_of(run_dir)[:-full]:
        _slim(old, storage)


def sound_checkpoint(path: Path) -> Path:
    """The sound checkpoint a path names: a checkpoint folder (or link) itself, or the newest sound one of a run.

    A slimmed one cannot be resumed from: of a run it is passed over.

    Raises:
        CheckpointError: the checkpoint named is missing, damaged or slimmed, or the run has no sound one.
    """
    is_run = (path / "checkpoints").is_dir()  # the newest run of an experiment is called latest, too
    if not is_run and (path.name in _LINKS or path.name.startswith("step-")):
        if not path.is_dir():
            raise CheckpointError(f"There is no checkpoint {path}. {_there_are(path.parent.parent)}")
        _restore_links(path.parent, DISK)
        problems = problems_of(path)
        if problems:
            raise CheckpointError(
                f"Checkpoint {path} is damaged: {'; '.join(problems)}. Name another one, or the run folder to take "
                f"the newest sound one. {_there_are(path.parent.parent)}"
            )
        if dropped_from(path):
            raise CheckpointError(
                f"Checkpoint {path} holds what was learned, but not the optimizer's state any more "
                f"(callbacks.checkpoints.full): it cannot be resumed from. Start a new run from it with "
                f"model.init_from={path}, or resume from the run's newest."
            )
        return path.resolve()
    _restore_replaced(path / "checkpoints", DISK)
    _restore_links(path / "checkpoints", DISK)
    for candidate in checkpoints_of(path)[::-1]:
        problems = problems_of(candidate)
        if not problems and not dropped_from(candidate):
            return candidate.resolve()
        if not problems:
            log.warning("Checkpoint %s holds no optimizer's state any more; trying the one before.", candidate)
            continue
        log.warning("Checkpoint %s is damaged (%s); trying the one before.", candidate, "; ".join(problems))
    raise CheckpointError(f"There is no sound checkpoint to resume from in {path}. {_there_are(path)}")


def _slim(checkpoint: Path, storage: Storage) -> None:
    manifest, partial = checkpoint / MANIFEST, checkpoint / f".{MANIFEST}.partial"
    if not manifest.is_file():  # damaged; nobody takes it for sound
        return
    if not dropped_from(checkpoint):
        storage.write(partial, without(manifest.read_text(encoding="utf-8"), [OPTIMIZER]))
        storage.flush(partial)
        storage.rename(partial, manifest)
        storage.flush(checkpoint)
    if (checkpoint / OPTIMIZER).is_file():
        storage.drop(checkpoint / OPTIMIZER)


def _set_aside(run_dir: Path, step: int, storage: Storage) -> None:
    for later in [path for path in checkpoints_of(run_dir) if step_of(path) > step]:
        kept = later.with_name(f"abandoned-{later.name}")
        for name in _LINKS:
            if (link := later.with_name(name)).is_symlink() and os.readlink(link) == later.name:
                link.unlink()
        if kept.exists():
            storage.remove(kept)
        storage.rename(later, kept)
        log.warning("%s belongs to a branch of this run that was left; it is kept as %s.", later.name, kept.name)


def _restore_replaced(root: Path, storage: Storage) -> None:
    # Between the two renames that replace a checkpoint the old one has no name but this.
    for replaced in root.glob(".step-*.replaced"):
        final = replaced.with_name(replaced.name.removeprefix(".").removesuffix(".replaced"))
        if not final.exists():
            storage.rename(replaced, final)


def _restore_links(root: Path, storage: Storage) -> None:
    """Make links again of the folders that ``cp -rL`` and some archives make of links; nothing but copies goes."""
    for place in [root / name for name in _LINKS if (root / name).is_dir() and not (root / name).is_symlink()]:
        manifest = (place / MANIFEST).read_text(encoding="utf-8") if (place / MANIFEST).is_file() else None
        step = None if manifest is None else json.loads(manifest).get("step")
        final = None if step is None else checkpoint_dir(root.parent, step)
        twin = final is not None and (final / MANIFEST).is_file() and (final / MANIFEST).read_text("utf-8") == manifest
        if final is not None and twin and not problems_of(final):
            storage.rename(place, _hidden(final, f"copied-{place.name}"))
            storage.remove(_hidden(final, f"copied-{place.name}"))
            log.warning("%s was a copy of %s, not a link; it is a link again.", place, final.name)
        elif final is not None and not final.exists() and not problems_of(place):
            storage.rename(place, final)
            log.warning("%s was a folder, not a link; it is %s now.", place, final.name)
        else:
            kept = next(name for n in count(1) if not (name := root / f"kept-{place.name}-{n}").exists())
            storage.rename(place, kept)
            log.warning("%s was a folder, not a link, and like no checkpoint here; it is kept as %s.", place, kept.name)
            continue
        place.symlink_to(final.name)


def _clear(root: Path, storage: Storage) -> None:
    _restore_replaced(root, storage)
    for leftover in root.glob(".step-*"):
        storage.remove(leftover)


def _hidden(final: Path, what: str) -> Path:
    return final.with_name(f".{final.name}.{what}")


def _there_are(run_dir: Path) -> str:
    names = [p.name for p in checkpoints_of(run_dir)]
    if names:
        return f"{run_dir / 'checkpoints'} holds: {', '.join(names)}."
    return f"Wanted a run folder with checkpoints/step-*; {run_dir} holds none."
