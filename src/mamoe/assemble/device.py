"""Which device a training's own process computes on."""

from __future__ import annotations

import os

import torch

from mamoe.config.train import Train


def device_of(config: Train) -> torch.device:
    """Where this process is going to train; what comes before and after a training happens there too."""
    devices, local = config.trainer.devices, int(os.environ.get("LOCAL_RANK", 0))
    if config.trainer.accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return torch.device("cpu")
    if isinstance(devices, str) and "," in devices:  # "1," is the list of one
        devices = [int(device) for device in devices.split(",") if device.strip()]
    return torch.device("cuda", devices[local] if isinstance(devices, list) else local)
