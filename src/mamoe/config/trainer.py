"""How long a training takes, on what, and how fast which part learns."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mamoe.config.schema import Float, Int, Section

Devices = Annotated[str, Field(pattern=r"^(auto|-1|\d+(,\d+)*,?)$")]  # as Lightning reads them: auto, 2, "0,1"


class LrFactors(Section):
    experts: Float = Field(gt=0)
    attention: Float = Field(gt=0)
    rest: Float = Field(gt=0)


class Trainer(Section):
    max_steps: Int | None = Field(ge=1, le=10**9)
    max_epochs: Int | None = Field(ge=1, le=10**9)
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"]
    devices: Annotated[Int, Field(ge=-1)] | Devices | Annotated[list[Annotated[Int, Field(ge=0)]], Field(min_length=1)]
    num_nodes: Int = Field(1, ge=1)
    strategy: Literal["auto", "ddp", "fsdp"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    accumulate_grad_batches: Int = Field(ge=1, le=1 << 16)
    gradient_clip_val: Float | None = Field(gt=0)
    threads: Int | None = Field(ge=1)
    limit_train_images: Int | None = Field(ge=1)
    limit_val_images: Int | None = Field(ge=1)
    overfit_images: Int | None = Field(ge=1)
    profiler: Literal["simple", "advanced"] | None
    detect_anomaly: bool
    max_time: str | Int | None  # [days-]hours:minutes:seconds, or seconds
    preemption_signal: Literal["SIGUSR1", "SIGUSR2", "SIGHUP"] | None
    auto_microbatch: bool
    compile: Literal["off", "blocks", "graph", "full"] = "off"
    deterministic: bool = False
    gpu_gib: Int | None = Field(None, ge=1)  # what a preset was made for

    @field_validator("compile", mode="before")
    @classmethod
    def _off_is_a_word(cls, given: str | bool) -> str | bool:
        return "off" if given is False else given  # what YAML makes of it

    @model_validator(mode="after")
    def _one_length(self) -> Trainer:
        if self.max_steps is None and self.max_epochs is None:
            raise ValueError("set max_steps or max_epochs")
        return self

    @field_validator("devices")
    @classmethod
    def _some_device(cls, devices: int | str | list[int]) -> int | str | list[int]:
        if devices == 0:
            raise ValueError("a training needs a device: give a number of them, -1 for all, or a list like [0,1]")
        return devices

    @field_validator("max_time")
    @classmethod
    def _time_is_readable(cls, duration: str | int | None) -> str | int | None:
        if duration is not None:
            seconds_of(duration)
        return duration

    @model_validator(mode="after")
    def _microbatches_of_one_device(self) -> Trainer:
        several = self.num_nodes > 1 or (isinstance(self.devices, int) and self.devices > 1)
        if self.auto_microbatch and several:
            raise ValueError(
                "auto_microbatch=true works on one device: of several, one would wait for the other that ran out of "
                "memory; double accumulate_grad_batches and halve data.batch_size instead"
            )
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
