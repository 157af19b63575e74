"""The base model, and what it is asked to predict."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mamoe.config.schema import Float, Section


class Model(Section):
    path: str | None  # null = the base model of init_from
    init_from: str | None = None  # a run or checkpoint whose trained weights a new run starts with
    revision: str | None = None
    variant: str | None = None
    frozen_precision: Literal["fp32", "bf16", "int8", "nf4"] = "fp32"  # of weights beside adapters, which stay
    config: str | None = None  # of a single file: sd15, sd21, sd21_base, sdxl, or a folder of JSON
    tokenizer: str | None = None  # of a single file: folder or hub id of CLIP's vocabulary
    vae: str | None = None  # another autoencoder: a folder or hub id of one, or of a model that has one
    train_text_encoder: bool = False
    text_precision: Literal["fp32", "bf16", "int8"] | None = None  # of text encoders at rest; null = by their kind
    gradient_checkpointing: bool = False
    channels_last: bool = False

    @model_validator(mode="after")
    def _starts_somewhere(self) -> Model:
        if self.path is None and self.init_from is None:
            raise ValueError("path must name a base model, unless init_from names a run to start from")
        return self


class Objective(Section):
    prediction: Literal["epsilon", "v_prediction", "sample", "flow"] | None
    zero_snr: bool | None
    shift: Float | None = Field(default=None, gt=0)  # of a flow
    snr_gamma: Float | None = Field(gt=0)
    prompt_dropout: Float = Field(ge=0, le=1)
    timesteps: Literal["uniform", "logit_normal", "stratified"]
    logit_mean: Float
    logit_std: Float = Field(gt=0)
