"""Where a process computes."""

from __future__ import annotations

import os

import torch

from mamoe.errors import ConfigError


def usable_device(device: str | None) -> str:
    """The device asked for, or the best there is.

    Raises:
        ConfigError: it cannot be used.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and torch.cuda.device_count() > 1:  # a GPU for each process of this machine
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from None
    return device
