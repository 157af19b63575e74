"""A run as one self-contained folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

from mamoe.errors import ConfigError
from mamoe.models.control import control_of
from mamoe.sampling.pipeline import LayoutPipeline


def export_run(run: Path, out: Path, *, checkpoint: str = "latest", half: bool = True) -> None:
    """Write the run's networks, averaged weights where there are any, to ``out``.

    A run without region attention, experts and condition pictures is written as a stock ``StableDiffusionPipeline``, or
    ``StableDiffusionXLPipeline`` where the base model has two text encoders.

    Raises:
        ConfigError: ``out`` is not empty, or the run cannot be read.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and would be overwritten; name a new folder.")
    pipe = LayoutPipeline.from_pretrained(
        run, checkpoint=checkpoint, torch_dtype=torch.float16 if half else torch.float32
    )
    settings = pipe.settings
    steered = settings is not None and (settings.region_attention or settings.moe)
    if steered or control_of(pipe.unet) is not None:
        pipe.save_pretrained(out)
        return
    stock_pipeline(pipe).save_pretrained(out)


def stock_pipeline(pipe: LayoutPipeline) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """The networks of a pipeline without layout in the pipeline diffusers has for such a base model."""
    shared: dict[str, Any] = {
        "vae": pipe.vae,
        "text_encoder": pipe.text_encoder,
        "tokenizer": pipe.tokenizer,
        "unet": pipe.unet,
        # Stock pipelines insist on an offset of 1; the trailing spacing of zero-SNR schedules does not look at it.
        "scheduler": DDIMScheduler.from_config(pipe.scheduler.config, steps_offset=1),
    }
    if pipe.text_encoder_2 is not None:
        return StableDiffusionXLPipeline(
            **shared,
            text_encoder_2=pipe.text_encoder_2,
            tokenizer_2=pipe.tokenizer_2,
            force_zeros_for_empty_prompt=pipe.config["force_zeros_for_empty_prompt"],
            add_watermarker=False,
        )
    return StableDiffusionPipeline(
        **shared,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
