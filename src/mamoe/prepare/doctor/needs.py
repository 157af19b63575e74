"""What a training on a data set asks of the machine: room on the disk, and files open at once."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

try:
    import resource
except ImportError:  # Windows has no such limit to ask for
    resource = None

_GIB = 2**30
_LATENT_BYTES = 2 * 4 * 4  # of a cell: mean and deviation of four channels, float32
_TEXT_BYTES = 77 * 1024 * 4  # of a prompt with the padding of CLIP, at the width of Stable Diffusion 2
_OPEN_FILES = 1024  # what several data workers and their queues may ask for


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Bytes on disk that something takes."""

    what: str
    bytes: int
    how: str  # it is reckoned

    def __str__(self) -> str:
        return f"{self.what}: {_size(self.bytes)} ({self.how})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """How many numbers a method trains, and how many of them a checkpoint holds."""

    method: str
    experts: int
    stored: int  # trained ones alone where the rest is the base model's
    trained: int


def cache_needs(pictures: int, cells: int, prompts: int) -> list[Need]:
    """Room for the caches of a training.

    Args:
        pictures: of all splits.
        cells: latent cells of all of them together.
        prompts: different ones.
    """
    return [
        Need(what="latents", bytes=cells * _LATENT_BYTES, how=f"{pictures} pictures; twice that with data.flip"),
        Need(what="encoded prompts", bytes=prompts * _TEXT_BYTES, how=f"at most, {prompts} prompts of 77 x 1024"),
    ]


def checkpoint_needs(weights: Weights, *, average: bool = True, kept: int = 3, resumable: int | None = None) -> Need:
    """Room for the checkpoints of a training.

    Args:
        weights: of the method.
        average: they hold averaged weights as well.
        kept: at once: by default the last two and the best. While one is written there is one more.
        resumable: of these, how many keep the optimizer's moments; None: all.
    """
    whole = kept + 1 if resumable is None else min(kept, resumable) + 1
    numbers = (kept + 1) * weights.stored * (2 if average else 1) + whole * 2 * weights.trained
    with_ = "with the average and the optimizer's two moments" if average else "with the optimizer's two moments"
    how = f"{kept} checkpoints {with_} and one being written, method={weights.method}"
    if weights.experts > 1:
        how += f" with {weights.experts} experts"
    return Need(what="checkpoints", bytes=4 * numbers, how=how)


def machine_notes(needs: list[Need], folder: Path, keys: str = "cache.folder and runs") -> list[str]:
    """What the machine lacks, for people.

    Args:
        needs: of disk.
        folder: on the disk that is meant; need not be there yet.
        keys: of the configuration, which name another one.
    """
    wanted, free = sum(need.bytes for need in needs), shutil.disk_usage(_nearest(folder)).free
    found = []
    if wanted > free:
        found.append(
            f"{' and '.join(need.what for need in needs)} need about {_size(wanted)}, and {_size(free)} are free where "
            f"{folder} is: name another disk by {keys}"
        )
    if (limit := _most_open_files()) is not None and limit < _OPEN_FILES:
        found.append(f"Only {limit} files may be open at once, which data workers use up: raise it, `ulimit -n 4096`")
    return found


def _nearest(folder: Path) -> Path:
    """The folder, or the one above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count < _GIB else f"{count / _GIB:.1f} GiB"


def _most_open_files() -> int | None:
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
