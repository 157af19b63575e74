"""The typed schema of a composed configuration: checked before anything heavy is loaded.

Every field has its YAML twin under ``mamoe/configs``; defaults live there and nowhere else, apart from those of keys
that a user's own YAML may leave out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mamoe.config.drawn import Drawn
from mamoe.config.schema import Section, checked
from mamoe.errors import ConfigError
from mamoe.vocabulary.drawing import DRAWING, Mode
from mamoe.vocabulary.layout import Strength, strength_problem, text_problem

Target = dict[str, Any]  # {_target_: dotted name, its arguments}


class Data(Section):
    """Of a training as :func:`mamoe.config.described.described` leaves it: what was ``auto`` is what data.yaml says."""

    root: str | None = None
    images: str
    panoptic_maps: str
    prompts: str | None = None  # may contain {split}
    instance_prompts: str | None = None
    recursive: bool = False  # pictures, maps and condition pictures lie in folders inside that of their split
    condition: str | None = None  # classes, edges, or a folder of pictures
    taxonomy: str | None = None  # of old runs; those of today have its contents
    size: tuple[int, int] | int
    crop: Literal["random", "center"] | None = None
    buckets: bool = False
    flip: float = Field(0.5, ge=0, le=1)
    transforms: list[Target] = Field([])
    val_share: float | None = Field(None, gt=0, le=0.5)  # of train; null = a tenth where there is no split val
    batch_size: int = Field(8, ge=1)
    num_workers: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _buckets_crop_nothing(self) -> Data:
        if self.buckets and self.crop is not None:
            raise ValueError(
                f"buckets=true squeezes every picture to the nearest of a few sizes and crops nothing, but crop="
                f"{self.crop}; set data.crop=null"
            )
        return self


class Cache(Section):
    folder: str
    latents: bool


class Model(Section):
    path: str | None  # null = the base model of init_from
    init_from: str | None = None  # a run or checkpoint whose trained weights a new run starts with
    revision: str | None = None
    variant: str | None = None
    config: str | None = None  # of a single file: sd15, sd21, sd21_base, sdxl, or a folder of JSON
    tokenizer: str | None = None  # of a single file: folder or hub id of CLIP's vocabulary
    train_text_encoder: bool = False
    gradient_checkpointing: bool = False
    channels_last: bool = False

    @model_validator(mode="after")
    def _starts_somewhere(self) -> Model:
        if self.path is None and self.init_from is None:
            raise ValueError("path must name a base model, unless init_from names a run to start from")
        return self


class Regions(Section):
    strength: Strength


class Layout(Section):
    region_attention: bool
    moe: bool
    moe_levels: list[int] | None
    grouping: str | dict[str, list[str]]
    policy: str
    global_prompt: bool
    dataset_prompt: str | None
    global_padding: bool
    encoder_padding: bool
    region_resize: str
    pool_threshold: float
    expert_resize: str


class Objective(Section):
    prediction: Literal["epsilon", "v_prediction", "sample"] | None
    zero_snr: bool | None
    snr_gamma: float | None = Field(gt=0)
    prompt_dropout: float = Field(ge=0, le=1)
    timesteps: Literal["uniform", "logit_normal", "stratified"]
    logit_mean: float
    logit_std: float = Field(gt=0)


class Mse(Section):
    name: Literal["mse"]


class MaskedMse(Section):
    name: Literal["masked_mse"]
    class_weights: dict[str, Annotated[float, Field(ge=0)]] | None
    power: float = Field(ge=0, le=1)
    cap: float = Field(ge=1)


class Lpips(Section):
    name: Literal["lpips"]
    net: Literal["alex", "vgg"]
    weights: str | None
    every: int = Field(ge=1)  # optimizer steps
    weight: float = Field(gt=0)


class LatentLpips(Section):
    name: Literal["latent_lpips"]
    encoder: Literal["sd15", "sd21", "sdxl"]
    augment: Literal["b", "bg", "bgc", "bgco"] | None


class Perceptual(Section):
    name: Literal["perceptual"]


Loss = Annotated[Mse | MaskedMse | Lpips | LatentLpips | Perceptual, Field(discriminator="name")]


class Full(Section):
    name: Literal["full"]


class Decoder(Section):
    name: Literal["decoder"]


class Lora(Section):
    name: Literal["lora", "dora"]
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    attention: bool
    conv: bool
    projection: bool
    feed_forward: bool
    decoder_only: bool

    @model_validator(mode="after")
    def _some_target(self) -> Lora:
        if not (self.attention or self.conv or self.projection or self.feed_forward):
            raise ValueError("switch on at least one of attention, conv, projection, feed_forward")
        return self


class LoraExperts(Section):
    name: Literal["lora_experts"]
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)


class SharedExpert(Section):
    name: Literal["shared_expert"]


class ControlNetXs(Section):
    name: Literal["controlnet_xs"]
    widths: list[Annotated[int, Field(ge=1)]] | None
    train_base: bool


class Concat(Section):
    name: Literal["concat"]


Method = Annotated[
    Full | Decoder | Lora | LoraExperts | SharedExpert | ControlNetXs | Concat, Field(discriminator="name")
]


class LrFactors(Section):
    experts: float = Field(gt=0)
    attention: float = Field(gt=0)
    rest: float = Field(gt=0)


class Trainer(Section):
    max_steps: int | None = Field(ge=1)
    max_epochs: int | None = Field(ge=1)
    accelerator: str
    devices: int | str | list[int]
    num_nodes: int = Field(1, ge=1)
    strategy: Literal["auto", "ddp", "fsdp"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    accumulate_grad_batches: int = Field(ge=1)
    gradient_clip_val: float | None = Field(gt=0)
    threads: int | None = Field(ge=1)
    limit_train_images: int | None = Field(ge=1)
    limit_val_images: int | None = Field(ge=1)
    overfit_images: int | None = Field(ge=1)
    profiler: Literal["simple", "advanced"] | None
    detect_anomaly: bool
    max_time: str | int | None  # [days-]hours:minutes:seconds, or seconds
    preemption_signal: Literal["SIGUSR1", "SIGUSR2", "SIGHUP"] | None
    auto_microbatch: bool

    @model_validator(mode="after")
    def _one_length(self) -> Trainer:
        if self.max_steps is None and self.max_epochs is None:
            raise ValueError("set max_steps or max_epochs")
        return self

    @model_validator(mode="after")
    def _time_is_readable(self) -> Trainer:
        if self.max_time is not None:
            seconds_of(self.max_time)
        return self

    @model_validator(mode="after")
    def _microbatches_of_one_device(self) -> Trainer:
        several = self.num_nodes > 1 or (isinstance(self.devices, int) and self.devices > 1)
        if self.auto_microbatch and several:
            raise ValueError(
                "auto_microbatch=true works on one device: of several, one would wait for the other that ran out of "
                "memory; double accumulate_grad_batches and halve data.batch_size instead"
            )
        return self


class Validation(Section):
    every: int = Field(ge=1)  # optimizer steps
    images: int = Field(ge=1)


class Samples(Drawn):
    every: int = Field(ge=1)
    images: int = Field(4, ge=1)
    modes: list[Mode] = Field(list(Mode))


class Scores(Drawn):
    every: int = Field(ge=1)
    images: int = Field(32, ge=2)
    mode: Mode = DRAWING.mode
    extractor: str = "pixels"  # NAME or NAME=PATH, as `mamoe evaluate --extractor`
    scores: list[Literal["fid", "fid-infinity", "kid", "cmmd", "precision", "recall", "density", "coverage"]] = Field(
        ["kid"], min_length=1
    )
    keep_pictures: bool = False


class Best(Section):
    metric: str  # a column of metrics.csv
    mode: Literal["min", "max"]


class Checkpoints(Section):
    every: int | None = Field(ge=1)  # null = at the end only
    keep_last: int = Field(ge=2)
    best: Best | None = None


FIXED_LOSSES = ("val/loss", "train/stable_loss")  # what callbacks.validation logs


class EarlyStopping(Section):
    metric: str  # a column of metrics.csv
    mode: Literal["min", "max"]
    patience: int = Field(ge=1)  # measurements
    min_delta: float = Field(0.0, ge=0)


class Callbacks(Section):
    validation: Validation | None
    samples: Samples | None
    scores: Scores | None = None
    checkpoints: Checkpoints
    early_stopping: EarlyStopping | None = None
    extra: list[Target] = Field([])  # further Lightning callbacks

    @model_validator(mode="after")
    def _what_stops_is_measured(self) -> Callbacks:
        if self.early_stopping is None or self.extra:
            return self
        metric = self.early_stopping.metric
        if metric in FIXED_LOSSES and self.validation is None:
            raise ValueError(f"early_stopping goes by {metric}, which callbacks.validation measures: it is null")
        if metric.startswith("val/") and metric not in FIXED_LOSSES and self.scores is None:
            raise ValueError(f"early_stopping goes by {metric}, which callbacks.scores would measure: it is null")
        return self


class EvaluateAfter(Drawn):
    split: str = "test"
    modes: list[Mode] = Field(list(Mode), min_length=1)
    scores: list[str] | None = Field(None, min_length=1)  # as `mamoe evaluate --scores`; null = all but use
    extractors: list[str] = Field(["inception"], min_length=1)
    segmenters: list[str] = Field(["domain"], min_length=1)
    clip: str | None = None
    checkpoint: Literal["latest", "best"] = "latest"
    images: int | None = Field(None, ge=1)  # null = the whole split
    batch_size: int = Field(DRAWING.batch_size, ge=1)
    keep_pictures: bool = True


class WandB(Section):
    project: str
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"


class Loggers(Section):
    tensorboard: bool
    wandb: WandB | None
    extra: list[Target] = Field([])  # further Lightning loggers


class Train(Section):
    """What ``mamoe train`` runs."""

    name: str = Field(pattern=r"^[\w.-]+$")
    runs: str
    seed: int = Field(ge=0)
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
    optimizer: Target
    lr_scheduler: Target
    lr_factors: LrFactors
    ema_decay: float | None = Field(gt=0, lt=1)
    trainer: Trainer
    callbacks: Callbacks
    evaluate_after: EvaluateAfter | None = None
    logger: Loggers

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
        if isinstance(self.method, ControlNetXs | Concat) and condition is None:
            raise ValueError(
                f"method={method} is shown a condition picture: set data.condition=classes, data.condition=edges or "
                "data.condition=<folder of pictures>"
            )
        if condition is not None and not isinstance(self.method, ControlNetXs | Concat):
            raise ValueError(
                f"data.condition={condition} is shown to method=controlnet_xs and method=concat alone; method={method} "
                "would not look at it: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _padding_is_seen_beside_a_branch(self) -> Train:
        layout = self.layout
        steered = layout.region_attention or layout.moe
        if isinstance(self.method, ControlNetXs) and not steered and not layout.global_padding:
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
        if isinstance(self.method, LoraExperts | SharedExpert) and not self.layout.moe:
            raise ValueError(f"method={self.method.name} needs layout.moe=true: it is a way of having experts")
        return self

    @model_validator(mode="after")
    def _sharding_fits(self) -> Train:
        method, target = self.method.name, self.optimizer.get("_target_")
        fits = {
            "trainer.precision=16-mixed": self.trainer.precision != "16-mixed",
            "model.train_text_encoder=true": not self.model.train_text_encoder,
            "model.channels_last=true": not self.model.channels_last,
            f"method={method}": isinstance(self.method, Full | Decoder),
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


def seconds_of(duration: str | int) -> int:
    """Seconds of ``[days-]hours:minutes:seconds``, as SLURM writes it, or of a plain number of seconds.

    Raises:
        ValueError: it is neither, or not positive.
    """
    found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):(\d\d):)?(\d+)", str(duration))
    parts = [int(part or 0) for part in found.groups()] if found else [0]
    seconds = sum(part * size for part, size in zip(parts, (86400, 3600, 60, 1), strict=False)) if found else 0
    if seconds < 1:
        raise ValueError(f"max_time must be [days-]hours:minutes:seconds or seconds, e.g. 11:45:00; got {duration!r}")
    return seconds


def validated(composed: Mapping[str, Any]) -> Train:
    """The composed configuration of a new training as typed values; see :func:`checked`."""
    config = recorded(composed)
    layout, shown = config.layout, isinstance(config.method, ControlNetXs | Concat)
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
