"""Settings of a training that change nothing beside the others. They are said, not refused: many come from a YAML that
serves several methods, and a default cannot be told from a choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mamoe.bases.shipped import PREFIX
from mamoe.config.compose import compose, search_path
from mamoe.config.train import Train
from mamoe.vocabulary.layout import RegionResize, Strength


def settings_without_effect(config: Train, plain: Mapping[str, Any]) -> list[str]:
    """A line for every setting that is not the default and has no effect in this configuration.

    Args:
        config: the validated configuration.
        plain: the same as it was composed.
    """
    default = _default(tuple(search_path()))
    changed = [
        (key, why)
        for key, why in _idle(config).items()
        if _value(plain, key) != _value(default, key) and _value(plain, key) is not None
    ]
    lines = [f"{key}={_value(plain, key)} has no effect: {why}" for key, why in changed]
    if not config.layout.global_prompt:
        lines.append("The captions are not trained on: layout.global_prompt=false")
    if not config.layout.region_attention and config.data.instance_prompts is not None:
        lines.append("The instance prompts are not trained on: layout.region_attention=false")
    return lines


@cache
def _default(folders: tuple[str, ...]) -> Mapping[str, Any]:
    """What nobody changed anything of, with the YAML of ``folders`` at hand."""
    return compose([])


def _idle(config: Train) -> dict[str, str]:
    """Keys that nobody looks at, with the setting that is the reason."""
    layout, trainer, objective = config.layout, config.trainer, config.objective
    idle: dict[str, str] = {}
    if not layout.moe:
        idle |= dict.fromkeys(("layout.grouping", "layout.moe_levels", "layout.expert_resize"), "layout.moe=false")
    if config.regions.strength is Strength.SOFT:
        idle["layout.pool_threshold"] = "regions.strength=soft weighs regions by area"
    elif layout.region_resize != RegionResize.AVG_POOL:
        idle["layout.pool_threshold"] = f"layout.region_resize={layout.region_resize}, it belongs to avg_pool"
    if not layout.region_attention:
        keys = ("policy", "dataset_prompt", "encoder_padding", "region_resize", "pool_threshold", "blocks")
        idle |= dict.fromkeys((f"layout.{key}" for key in keys), "layout.region_attention=false")
    if objective.timesteps != "logit_normal":
        keys = ("objective.logit_mean", "objective.logit_std")
        idle |= dict.fromkeys(keys, f"objective.timesteps={objective.timesteps}, they belong to logit_normal")
    if trainer.max_steps is not None:
        idle["trainer.max_epochs"] = f"trainer.max_steps={trainer.max_steps} decides"
    if trainer.overfit_images is not None:
        keys = ("trainer.limit_train_images", "trainer.limit_val_images", "data.val_share")
        idle |= dict.fromkeys(keys, f"trainer.overfit_images={trainer.overfit_images} decides")
    place = config.model.path
    if place is not None and (place.startswith(PREFIX) or Path(place).exists()):
        idle["model.revision"] = f"model.path={place} is on this disk, it belongs to the hub"
    return idle


def _value(plain: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    return plain[section].get(name)
