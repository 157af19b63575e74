"""How much memory there is, and whether it has run out."""

from __future__ import annotations

import psutil
import torch

try:
    import resource
except ImportError:  # not on Windows
    resource = None


GPU_PRESETS = (12, 16, 24, 48, 80)  # GiB of the GPU that trainer=gpu_…gb is made for

_GIB = 2**30
_SOLD_AS = 0.9  # of the number a card is sold by, at least, is what it has


_MEMORY_WORDS = ("not enough memory", "out of memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the machine has no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _MEMORY_WORDS)


def gpu_gib() -> float | None:
    """Memory of the GPU in use, in GiB; None without one."""
    return torch.cuda.get_device_properties().total_memory / _GIB if torch.cuda.is_available() else None


def is_as_large(gib: float, preset: int) -> bool:
    """Whether a GPU with ``gib`` GiB is one that is sold as having ``preset``."""
    return gib >= _SOLD_AS * preset


def smaller_preset(than: int | None = None) -> str | None:
    """The word for a training that fits the GPU at hand: the largest preset, or the next one below ``than``."""
    gib = gpu_gib()
    sizes = [size for size in GPU_PRESETS if gib is not None and is_as_large(gib, size) and (not than or size < than)]
    return f"trainer=gpu_{sizes[-1]}gb" if sizes else None


def memory_facts() -> str:
    """The most memory held so far, of how much, in GiB."""
    if torch.cuda.is_available():
        most, whole = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties().total_memory
        return f"At most {most / _GIB:.2f} GiB of the device's {whole / _GIB:.2f} GiB were in use."
    process = psutil.Process().memory_info()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if resource is not None else process.rss
    whole = psutil.virtual_memory().total
    return f"This process held at most {most / _GIB:.2f} GiB of the machine's {whole / _GIB:.2f} GiB."


def peak_mib(device: torch.device) -> float:
    """The most memory held so far, in MiB: of the GPU, or of this process (on Windows what it holds now)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return psutil.Process().memory_info().rss / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
