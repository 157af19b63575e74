"""The losses, by name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mamoe.config.schema import Float, Int, Section


class Mse(Section):
    name: Literal["mse"]


class MaskedMse(Section):
    name: Literal["masked_mse"]
    class_weights: dict[str, Annotated[Float, Field(ge=0)]] | None
    power: Float = Field(ge=0, le=1)
    cap: Float = Field(ge=1)


class Lpips(Section):
    name: Literal["lpips"]
    net: Literal["alex", "vgg"]
    weights: str | None
    every: Int = Field(ge=1)  # optimizer steps
    weight: Float = Field(gt=0)


class LatentLpips(Section):
    name: Literal["latent_lpips"]
    encoder: Literal["sd15", "sd21", "sdxl"]
    augment: Literal["b", "bg", "bgc", "bgco"] | None


class Perceptual(Section):
    name: Literal["perceptual"]


Loss = Annotated[Mse | MaskedMse | Lpips | LatentLpips | Perceptual, Field(discriminator="name")]
