"""The typed schema of a composed configuration: checked before anything heavy is loaded.

Every field has its YAML twin under ``mamoe/config/groups``; defaults live there and nowhere else, apart from those of
keys that a user's own YAML may leave out. A section is a file beside this one; here is what they have to agree on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from mamoe.config.arguments import OptimizerTarget, ScheduleTarget
from mamoe.config.callbacks import FIXED_LOSSES as FIXED_LOSSES
from mamoe.config.callbacks import Callbacks, EvaluateAfter, Loggers
from mamoe.config.callbacks import Samples as Samples
from mamoe.config.callbacks import Scores as Scores
from mamoe.config.data import Cache, Data
from mamoe.config.layout import Layout, Regions
from mamoe.config.loss import LatentLpips as LatentLpips
from mamoe.config.loss import Loss
from mamoe.config.loss import Lpips as Lpips
from mamoe.config.loss import MaskedMse as MaskedMse
from mamoe.config.loss import Perceptual as Perceptual
from mamoe.config.method import Method
from mamoe.config.model import Model, Objective
from mamoe.config.schema import Float, Int, Name, Section, checked
from mamoe.config.trainer import LrFactors, Trainer
from mamoe.config.trainer import seconds_of as seconds_of
from mamoe.errors import ConfigError
from mamoe.methods.options import ControlNetXSOptions
from mamoe.vocabulary.layout import strength_problem, text_problem
from mamoe.vocabulary.taxonomy import Taxonomy

_BESIDE = ("lora", "lora_experts")  # methods that add low-rank products to weights and look at them no further


class Train(Section):
    """What ``mamoe train`` runs."""

    name: Name
    runs: str
    seed: Int = Field(ge=0)
    resume: str | None
    taxonomy: dict[str, Any]
    data: Data
    cache: Cache
    model: Model
    layout: Layout
    regions: Regions
    objective: Objective
    method: Method
    loss: Loss
    optimizer: OptimizerTarget
    lr_scheduler: ScheduleTarget
    lr_factors: LrFactors
    ema_decay: Float | None = Field(gt=0, lt=1)
    trainer: Trainer
    callbacks: Callbacks
    evaluate_after: EvaluateAfter | None = None
    logger: Loggers

    @field_validator("taxonomy")
    @classmethod
    def _classes_are_a_table(cls, given: dict[str, Any]) -> dict[str, Any]:
        Taxonomy.from_dict(given)
        return given

    @field_validator("evaluate_after", mode="before")
    @classmethod
    def _true_is_all_defaults(cls, given: Any) -> Any:
        return {True: {}, False: None}[given] if isinstance(given, bool) else given

    @model_validator(mode="after")
    def _schedule_free_averages_itself(self) -> Train:
        if str(self.optimizer.get("_target_")).endswith(".make_schedule_free"):
            problems = []
            if not str(self.lr_scheduler.get("_target_")).endswith(".constant_with_warmup"):
                problems.append("takes the place of a schedule: set lr_scheduler=constant")
            if self.ema_decay is not None:
                problems.append("keeps an average of its own: set ema_decay=null")
            if problems:
                raise ValueError(f"optimizer=schedule_free {', and '.join(problems)}")
        return self

    @model_validator(mode="after")
    def _condition_is_shown(self) -> Train:
        method, condition = self.method.name, self.data.condition
        if self.method.kind.shows_condition and condition is None:
            raise ValueError(
                f"method={method} is shown a condition picture: set data.condition=classes, data.condition=edges or "
                "data.condition=<folder of pictures>"
            )
        if condition is not None and not self.method.kind.shows_condition:
            raise ValueError(
                f"data.condition={condition} is shown to method=controlnet_xs and method=concat alone; method={method} "
                "would not look at it: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _padding_is_seen_beside_a_branch(self) -> Train:
        layout = self.layout
        steered = layout.region_attention or layout.moe
        if self.method.name == ControlNetXSOptions.name and not steered and not layout.global_padding:
            raise ValueError(
                "layout.global_padding=false needs a UNet that can leave padding out, and method=controlnet_xs without "
                "layout.region_attention and layout.moe works on a stock one; set layout.global_padding=true"
            )
        return self

    @model_validator(mode="after")
    def _best_exists(self) -> Train:
        best = self.callbacks.checkpoints.best
        if self.evaluate_after is not None and self.evaluate_after.checkpoint == "best" and best is None:
            raise ValueError("evaluate_after.checkpoint=best: there will be none, callbacks.checkpoints.best is null")
        return self

    @model_validator(mode="after")
    def _strength_has_regions(self) -> Train:
        layout = self.layout
        if problem := strength_problem(self.regions.strength, layout.region_attention, layout.region_resize):
            raise ValueError(f"regions.{problem}")
        return self

    @model_validator(mode="after")
    def _method_has_experts(self) -> Train:
        if self.method.kind.needs_experts and not self.layout.moe:
            raise ValueError(f"method={self.method.name} needs layout.moe=true: it is a way of having experts")
        return self

    @model_validator(mode="after")
    def _frozen_weights_stay(self) -> Train:
        kind, method, precision = self.model.frozen_precision, self.method.name, self.trainer.precision
        problems = []
        if method not in _BESIDE:
            problems.append(f"method={method} changes or holds the weights themselves: choose {' or '.join(_BESIDE)}")
        if precision != "bf16-mixed":
            problems.append(
                f"trainer.precision={precision} computes in another format: set trainer.precision=bf16-mixed"
            )
        if kind != "fp32" and problems:
            raise ValueError(
                f"model.frozen_precision={kind} keeps weights that never move in fewer bits; {'; '.join(problems)}; "
                "or set model.frozen_precision=fp32"
            )
        return self

    @model_validator(mode="after")
    def _sharding_fits(self) -> Train:
        method, target = self.method.name, self.optimizer.get("_target_")
        fits = {
            "trainer.precision=16-mixed": self.trainer.precision != "16-mixed",
            "model.train_text_encoder=true": not self.model.train_text_encoder,
            "model.channels_last=true": not self.model.channels_last,
            f"trainer.compile={self.trainer.compile}": self.trainer.compile == "off",
            f"method={method}": self.method.kind.shards,
            f"optimizer._target_={target}": str(target).endswith((".make_adam", ".Adam", ".AdamW", ".SGD")),
        }
        odd = [setting for setting, does in fits.items() if not does]
        if self.trainer.strategy == "fsdp" and odd:
            raise ValueError(
                f"trainer.strategy=fsdp deals out the weights of a UNet that is trained as a whole or in its decoder, "
                f"by Adam or SGD; it does not go with {', '.join(odd)}; change that or set trainer.strategy=ddp"
            )
        return self

    @model_validator(mode="after")
    def _cached_pictures_stay_the_same(self) -> Train:
        reasons = []
        if self.data.crop == "random":
            reasons.append("data.crop=random shows another part of a picture in every epoch; choose center or null")
        if self.data.transforms:
            reasons.append("data.transforms change a picture in every epoch; set data.transforms=[]")
        if self.cache.latents and reasons:
            raise ValueError("cache.latents=true does not fit: " + "; ".join(reasons) + "; or set cache.latents=false")
        return self


def validated(composed: Mapping[str, Any]) -> Train:
    """The composed configuration of a new training as typed values; see :func:`checked`."""
    config = recorded(composed)
    layout, shown = config.layout, config.method.kind.shows_condition
    if problem := text_problem(layout.global_prompt, layout.region_attention, layout.moe or shown):
        raise ConfigError(f"The configuration does not fit:\n  layout.{problem}")
    return config


def recorded(composed: Mapping[str, Any]) -> Train:
    """As :func:`validated`, of a run that is there: what makes no sense to start may be looked at and gone on with."""
    return checked(Train, composed)


def comparable(*composed: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Configurations with every default filled in; as they are where one is of a version with other keys."""
    try:
        return [recorded(config).model_dump() for config in composed]
    except ConfigError:
        return list(composed)
