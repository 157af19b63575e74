"""A run as one self-contained folder."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from mamoe.errors import ConfigError
from mamoe.sampling.pipeline import LayoutPipeline


def export_run(run: Path, out: Path, *, checkpoint: str = "latest", half: bool = True) -> None:
    """Write the run's networks, averaged weights where there are any, to ``out``.

    A run without region attention and experts is written as a stock ``StableDiffusionPipeline``.

    Raises:
        ConfigError: ``out`` is not empty, or the run cannot be read.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and would be overwritten; name a new folder.")
    pipe = LayoutPipeline.from_pretrained(
        run, checkpoint=checkpoint, torch_dtype=torch.float16 if half else torch.float32
    )
    settings = pipe.settings
    if settings is not None and (settings.region_attention or settings.moe):
        pipe.save_pretrained(out)
        return
    StableDiffusionPipeline(
        vae=pipe.vae,
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        unet=pipe.unet,
        # Stock pipelines insist on an offset of 1; the trailing spacing of zero-SNR schedules does not look at it.
        scheduler=DDIMScheduler.from_config(pipe.scheduler.config, steps_offset=1),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    ).save_pretrained(out)
