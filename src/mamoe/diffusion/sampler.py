"""The sampler's noise schedule, made from the one the model was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler

from mamoe.errors import ConfigError


def is_zero_snr(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's last training step is pure noise (Lin et al. 2023)."""
    return bool(config.get("rescale_betas_zero_snr", False))


def ddim_scheduler(config: Mapping[str, Any]) -> DDIMScheduler:
    """DDIM on the schedule of any diffusers scheduler ``config``.

    A zero-terminal-SNR schedule is sampled with trailing steps, so that sampling starts where training ended, in pure
    noise. Trailing steps end at the clean picture. Latents have no bounds, so nothing is ever clipped.

    Raises:
        ConfigError: a zero-terminal-SNR schedule for a model that predicts the noise, which cannot be sampled.
    """
    changes: dict[str, Any] = {"clip_sample": False, "thresholding": False}
    if is_zero_snr(config):
        if config.get("prediction_type", "epsilon") == "epsilon":
            raise ConfigError(
                "A zero-terminal-SNR schedule cannot be sampled with prediction_type epsilon: its first step divides "
                "by zero. Wanted v_prediction or sample, or rescale_betas_zero_snr false."
            )
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if changes.get("timestep_spacing", config.get("timestep_spacing")) == "trailing":
        changes["set_alpha_to_one"] = True
    scheduler = DDIMScheduler.from_config(dict(config), **changes)
    assert isinstance(scheduler, DDIMScheduler)
    return scheduler
