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


def checkpoint_needs(unet_bytes: int, kept: int = 3) -> list[Need]:
    """Room for the checkpoints of a training of every weight; of adapters alone it is a few hundredths of that.

    Args:
        unet_bytes: of the UNet's weights in float32.
        kept: checkpoints at once: the last two and the best.
    """
    how = f"{kept} checkpoints with average and the optimizer's two moments, of method=full without experts"
    return [Need(what="checkpoints", bytes=4 * kept * unet_bytes, how=how)]


def machine_notes(needs: list[Need], folder: Path) -> list[str]:
    """What the machine lacks, for people."""
    wanted, free = sum(need.bytes for need in needs), shutil.disk_usage(folder).free
    found = []
    if wanted > free:
        found.append(
            f"The caches and checkpoints need about {wanted / _GIB:.1f} GiB, and {free / _GIB:.1f} GiB are free where "
            f"{folder} is: name another disk by cache.folder and runs"
        )
    if (limit := _most_open_files()) is not None and limit < _OPEN_FILES:
        found.append(f"Only {limit} files may be open at once, which data workers use up: raise it, `ulimit -n 4096`")
    return found


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count < _GIB else f"{count / _GIB:.1f} GiB"


def _most_open_files() -> int | None:
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
