"""Noise schedules: that of Stable Diffusion, with or without a last step of pure noise, and that of a flow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from mamoe.diffusion.parameterization import Prediction
from mamoe.errors import ConfigError

Schedule = DDPMScheduler | FlowMatchEulerDiscreteScheduler  # what models are trained on


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's ``config`` is of a straight line from picture to noise: a shift, and no betas."""
    by_name = config.get("prediction_type") == Prediction.FLOW.diffusers_name
    return by_name or ("shift" in config and "beta_start" not in config)


def prediction_of(config: Mapping[str, Any]) -> Prediction:
    """What a network predicts that is trained on the schedule of this ``config``.

    Raises:
        ValueError: it is none that we know.
    """
    return Prediction.FLOW if is_flow(config) else Prediction.parse(config["prediction_type"])


def make_flow(*, shift: float = 1.0, num_train_timesteps: int = 1000) -> FlowMatchEulerDiscreteScheduler:
    """diffusers' scheduler of a flow; ``shift`` above 1 means noisier levels, in training and drawing."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=num_train_timesteps, shift=shift)


def grows_with_size(config: Mapping[str, Any]) -> bool:
    """Whether larger pictures are shifted further, as FLUX.1-dev was trained."""
    return bool(config.get("use_dynamic_shifting"))


def shift_of(config: Mapping[str, Any], patches: int) -> float:
    """The shift of a flow for a picture of so many patches.

    Where it grows with the size, its logarithm lies on the line through (base_image_seq_len, base_shift) and
    (max_image_seq_len, max_shift); Esser et al. 2024, section 5.3.2, say why it grows.
    """
    if not grows_with_size(config):
        return config["shift"]
    first, last = (config[f"{end}_image_seq_len"] for end in ("base", "max"))
    low, high = config["base_shift"], config["max_shift"]
    return math.exp(low + (high - low) * (patches - first) / (last - first))


def schedule_from(config: Mapping[str, Any]) -> Schedule:
    """The schedule to train on that a scheduler's ``config`` stands for, whatever sampler wrote it.

    Raises:
        ConfigError: a flow whose shift grows with the picture's size in another way than :func:`shift_of` knows.
    """
    if not is_flow(config):
        made = DDPMScheduler.from_config(dict(config))
        assert isinstance(made, DDPMScheduler)
        return made
    if grows_with_size(config):
        return _growing(config)
    shift = config.get("shift", config.get("flow_shift", 1.0))
    return make_flow(shift=shift, num_train_timesteps=config["num_train_timesteps"])


# The last says at what share of noise the last step of a drawing begins; training has every level.
_GROWS_BY = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "shift_terminal")


def _growing(config: Mapping[str, Any]) -> FlowMatchEulerDiscreteScheduler:
    if (kind := config.get("time_shift_type") or "exponential") != "exponential":
        raise ConfigError(
            "This model's noise schedule shifts with the size of the picture in a way that is not known here "
            f"(time_shift_type {kind}): give its scheduler a fixed shift, with use_dynamic_shifting false."
        )
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=config["num_train_timesteps"],
        use_dynamic_shifting=True,
        **{key: config[key] for key in _GROWS_BY if key in config},
    )


def make_scheduler(prediction: Prediction | str, *, zero_snr: bool, **overrides: Any) -> DDPMScheduler:
    """diffusers' DDPM scheduler with Stable Diffusion's betas: scaled-linear, 0.00085 to 0.012, 1000 steps.

    ``zero_snr`` rescales the betas so that the last step is pure noise and spaces the sampling steps from there
    (Lin et al. 2024, sections 3.1 and 3.3). ``overrides`` are further arguments of the scheduler.

    Raises:
        ConfigError: ``zero_snr`` with epsilon, which says nothing about the picture where x_t is the noise itself; or
            a flow, which has no betas.
    """
    prediction = Prediction.parse(prediction)
    if prediction is Prediction.FLOW:
        raise ConfigError("A flow has no betas: its schedule is made by make_flow.")
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
