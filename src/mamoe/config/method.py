"""The methods of fine-tuning, by name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mamoe.config.schema import Float, Int, Section


class Full(Section):
    name: Literal["full"]


class Decoder(Section):
    name: Literal["decoder"]


class Lora(Section):
    name: Literal["lora", "dora"]
    rank: Int = Field(ge=1)
    alpha: Float = Field(gt=0)
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
    rank: Int = Field(ge=1)
    alpha: Float = Field(gt=0)


class SharedExpert(Section):
    name: Literal["shared_expert"]


class ControlNetXs(Section):
    name: Literal["controlnet_xs"]
    widths: list[Annotated[Int, Field(ge=1)]] | None
    train_base: bool


class Concat(Section):
    name: Literal["concat"]


Method = Annotated[
    Full | Decoder | Lora | LoraExperts | SharedExpert | ControlNetXs | Concat, Field(discriminator="name")
]
