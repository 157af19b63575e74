"""Which device a training's own process computes on."""

from __future__ import annotations

import os

import torch

from mamoe.config.train import Train
from mamoe.errors import ConfigError
from mamoe.machine.kernels import has_triton
from mamoe.machine.memory import gpu_gib, is_as_large, smaller_preset

_EIGHT_BITS = 24  # the largest preset whose moments have 8 bits


def check_card(config: Train) -> None:
    """Refuse a preset that is made for another GPU than there is.

    Raises:
        ConfigError: says which preset fits.
    """
    wanted = config.trainer.gpu_gib
    if wanted is None:
        return
    gib = gpu_gib() if device_of(config).type == "cuda" else None
    if gib is None:
        raise ConfigError(
            f"trainer=gpu_{wanted}gb is made for a GPU of {wanted} GB, and there is none here. Choose trainer=default."
        )
    if not is_as_large(gib, wanted):
        fits = smaller_preset()
        raise ConfigError(
            f"trainer=gpu_{wanted}gb is made for a GPU of {wanted} GB, this one has {gib:.1f} GiB. "
            + (
                f"Choose {fits}."
                if fits
                else "There is no preset so small: train less of the model, see docs/training.md."
            )
        )


def card_notes(config: Train) -> list[str]:
    """Where an experiment or the user takes more memory than the preset was sized for."""
    size, target = config.trainer.gpu_gib, str(config.optimizer.get("_target_"))
    if size is None or size > _EIGHT_BITS or config.method.name != "full" or target.endswith(".make_adam8bit"):
        return []
    return [f"trainer=gpu_{size}gb was sized for optimizer=adamw_8bit; others take up to 6 bytes more a weight"]


def lays_channels_last(config: Train) -> bool:
    """Whether pictures' channels lie last in memory: if that is asked for, or steps are recorded.

    On a GPU convolutions are quicker so, and norms ask more orders of the host, which recorded steps do not wait for.
    """
    recorded = config.trainer.compile == "graph" and device_of(config).type == "cuda" and has_triton()
    return config.model.channels_last or recorded


def device_of(config: Train) -> torch.device:
    """Where this process is going to train; what comes before and after a training happens there too."""
    devices, local = config.trainer.devices, int(os.environ.get("LOCAL_RANK", 0))
    if config.trainer.accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return torch.device("cpu")
    if isinstance(devices, str) and "," in devices:  # "1," is the list of one
        devices = [int(device) for device in devices.split(",") if device.strip()]
    return torch.device("cuda", devices[local] if isinstance(devices, list) else local)
