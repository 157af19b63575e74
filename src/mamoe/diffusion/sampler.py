"""The sampler's noise schedule, made from the one the model was trained with."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from mamoe.diffusion.schedules import grows_with_size, is_flow, schedule_from, shift_of
from mamoe.errors import ConfigError


def is_zero_snr(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's last training step is pure noise (Lin et al. 2023)."""
    return bool(config.get("rescale_betas_zero_snr", False))


def sampler_for(config: Mapping[str, Any]) -> DDIMScheduler | FlowMatchEulerDiscreteScheduler:
    """What draws by default on the schedule of any diffusers scheduler ``config``: DDIM, and Euler's steps in a flow.

    Raises:
        ConfigError: see :func:`ddim_scheduler` and :func:`~mamoe.diffusion.schedules.schedule_from`.
    """
    if is_flow(config):
        flow = schedule_from(config)
        assert isinstance(flow, FlowMatchEulerDiscreteScheduler)
        return flow
    return ddim_scheduler(config)


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


def stock_sampler(config: Mapping[str, Any]) -> DDIMScheduler | DPMSolverMultistepScheduler:
    """What a stock Stable Diffusion pipeline draws with on the schedule of a sampler of :func:`sampler_for`.

    Such pipelines insist on an offset of 1 (the trailing spacing of zero-SNR schedules does not look at it), and ask a
    scheduler to scale what goes into the model, which Euler's of a flow does not.
    """
    made: Any
    if is_flow(config):
        made = DPMSolverMultistepScheduler(
            num_train_timesteps=config["num_train_timesteps"],
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=config["shift"],
        )
    else:
        made = DDIMScheduler.from_config(dict(config), steps_offset=1)
    return made


def set_steps(
    scheduler: Any, steps: int, *, patches: int, even: bool, shift: Callable[[int, int], float] | None = None
) -> None:
    """Tell a scheduler how many steps to take.

    Args:
        scheduler: whose ``timesteps`` are set.
        steps: how many.
        patches: of the picture; a flow's shift may grow with them.
        even: a flow's steps are of one length, before they are shifted: the last one begins at the share 1 / steps of
            noise. Otherwise it begins where the training's last level is.
        shift: (patches, steps) -> logarithm of the shift that a growing one is drawn with; None: as in training.

    Raises:
        ConfigError: the shift has grown so far that all steps would be at one level.
    """
    told: dict[str, Any] = {}
    takes = inspect.signature(scheduler.set_timesteps).parameters
    if is_flow(scheduler.config) and grows_with_size(scheduler.config) and "mu" in takes:
        told["mu"] = math.log(shift_of(scheduler.config, patches)) if shift is None else shift(patches, steps)
    if is_flow(scheduler.config) and even and "sigmas" in takes:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), **told)
    else:
        scheduler.set_timesteps(steps, **told)
    if told and steps > 1 and not scheduler.timesteps[0] > scheduler.timesteps[1]:  # nor where they are no numbers
        raise ConfigError(
            f"On this model's schedule, whose shift grows with the picture, one of {patches} patches is all noise in "
            "every step: it is far beyond the sizes that the schedule is made for. Draw a smaller one, or change "
            "max_shift and max_image_seq_len of the scheduler's configuration."
        )


def scaled_for_model(scheduler: Any, noisy: Tensor, timestep: Tensor) -> Tensor:
    """What a scheduler has the model see of noisy latents; those of a flow, which have no say in it, change nothing."""
    return scheduler.scale_model_input(noisy, timestep) if hasattr(scheduler, "scale_model_input") else noisy
