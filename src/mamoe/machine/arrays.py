"""Arrays of NumPy as tensors of torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_library: Any = torch  # whose function says nothing of what it takes


def tensor_of(array: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory, of its shape and type."""
    return _library.from_numpy(array)
