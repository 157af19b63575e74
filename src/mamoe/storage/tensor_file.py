"""Tensors in one safetensors file. The library's own functions have types that are only partly known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

_library: Any = safetensors.torch
_safe_open: Any = safetensors.safe_open


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name, on the CPU.

    Raises:
        OSError, safetensors.SafetensorError: it cannot be read.
    """
    return _library.load_file(path)


def read_metadata(path: Path) -> dict[str, str]:
    """What a file says besides tensors. Raises as :func:`read_tensors`."""
    with _safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, contiguous and each with memory of its own, and what is to be said besides."""
    _library.save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
