"""Kernels of our own for GPUs, in Triton, which not every machine with a GPU has."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor


@cache
def has_triton() -> bool:
    """Whether kernels can be compiled for a GPU here."""
    return importlib.util.find_spec("triton") is not None


def runs_kernels(x: Tensor) -> bool:
    """Whether kernels of our own may work on ``x``: on a GPU, and not where torch's compiler writes such itself.

    They compute in float32, which float64 would lose digits in.
    """
    return x.is_cuda and x.dtype != torch.float64 and not torch.compiler.is_compiling() and has_triton()
