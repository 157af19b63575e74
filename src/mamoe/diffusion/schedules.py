"""The noise schedule of Stable Diffusion, with or without a last step of pure noise."""

from __future__ import annotations

from typing import Any

from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from mamoe.diffusion.parameterization import Prediction
from mamoe.errors import ConfigError


def make_scheduler(prediction: Prediction | str, *, zero_snr: bool, **overrides: Any) -> DDPMScheduler:
    """diffusers' DDPM scheduler with Stable Diffusion's betas: scaled-linear, 0.00085 to 0.012, 1000 steps.

    ``zero_snr`` rescales the betas so that the last step is pure noise and spaces the sampling steps from there
    (Lin et al. 2024, sections 3.1 and 3.3). ``overrides`` are further arguments of the scheduler.

    Raises:
        ConfigError: ``zero_snr`` with epsilon, which says nothing about the picture where x_t is the noise itself.
    """
    prediction = Prediction.parse(prediction)
    if zero_snr and prediction is Prediction.EPSILON:
        raise ConfigError(
            "A zero-terminal-SNR schedule needs prediction v or x0: at pure noise, predicting the noise teaches "
            "nothing. Set prediction to v, or zero_snr to false."
        )
    settings: dict[str, Any] = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "prediction_type": prediction.diffusers_name,
        "rescale_betas_zero_snr": zero_snr,
        "timestep_spacing": "trailing" if zero_snr else "leading",
        "steps_offset": 0 if zero_snr else 1,
    }
    return DDPMScheduler(**{**settings, **overrides})
