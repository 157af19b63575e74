"""The schedulers that a sampling job can name."""

from __future__ import annotations

from typing import Any

from mamoe.errors import ConfigError
from mamoe.sampling.denoising import schedule_problem

_ENDING = "Scheduler"
_AS_STABLE_DIFFUSION = {"PNDMScheduler": {"skip_prk_steps": True}}


def scheduler_named(name: str, now: Any) -> Any:
    """The scheduler of that name with the noise schedule of ``now``, the one the model brings.

    Args:
        name: of a class in diffusers, with or without "Scheduler", in any case: ``euler-ancestral-discrete`` too.

    Raises:
        ConfigError: there is no such scheduler for this model, it wants a package that is not there, or it cannot walk
            the model's schedule.
    """
    kinds = {kind.__name__: kind for kind in now.compatibles}
    plain = {key.removesuffix(_ENDING).lower(): key for key in kinds}
    wanted = plain.get(name.replace("-", "").replace("_", "").lower().removesuffix(_ENDING.lower()))
    if wanted is None:
        known = ", ".join(sorted(key.removesuffix(_ENDING) for key in kinds))
        raise ConfigError(f"There is no scheduler {name!r} for this model; there are {known}.")
    try:
        scheduler = kinds[wanted].from_config(now.config, **_AS_STABLE_DIFFUSION.get(wanted, {}))
    except ImportError as error:
        raise ConfigError(f"{wanted} wants a package that is not installed: {error}") from None
    if problem := schedule_problem(scheduler):
        raise ConfigError(f"This cannot be drawn: {problem}.")
    return scheduler
