"""What a training reads, and what of it is computed once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mamoe.config.schema import Float, Int, Section
from mamoe.config.targets import TransformTarget
from mamoe.data.geometry.sizes import MOST_PIXELS

Side = Annotated[Int, Field(ge=1, le=MOST_PIXELS)]


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
    size: tuple[Side, Side] | Side
    crop: Literal["random", "center"] | None = None
    buckets: bool = False
    multiple: Literal[8, 16, 32, 64] = 8  # pixels that sides are divisible by
    flip: Float = Field(0.5, ge=0, le=1)
    transforms: list[TransformTarget] = Field([])
    val_share: Float | None = Field(None, gt=0, le=0.5)  # of train; null = a tenth where there is no split val
    batch_size: Int = Field(8, ge=1, le=1 << 16)
    num_workers: Int = Field(0, ge=0, le=1024)

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
