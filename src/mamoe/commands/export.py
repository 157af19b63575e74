"""A run as one self-contained folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import save_file

from mamoe.diffusion.sampler import stock_sampler
from mamoe.errors import ConfigError
from mamoe.methods.lora_file import LoraFile, lora_problems, lora_state
from mamoe.models.control.call import control_of
from mamoe.sampling.components import load_trained_adapter
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.storage.staging import require_free, staged_folder


def export_run(run: Path, out: Path, *, checkpoint: str = "latest", base: str | None = None, half: bool = True) -> None:
    """Write the run's networks, averaged weights where there are any, to ``out``.

    ``base`` is the base model's place, if it has moved.

    A run without region attention, experts and condition pictures is written as a stock ``StableDiffusionPipeline``, or
    ``StableDiffusionXLPipeline`` where the base model has two text encoders, ``PixArtSigmaPipeline`` where it is one.

    Raises:
        ConfigError: ``out`` is not empty, or the run cannot be read.
        DiskFullError: nothing is left in ``out``.
    """
    require_free(out)
    dtype = torch.float16 if half else torch.float32
    pipe = LayoutPipeline.from_pretrained(run, checkpoint=checkpoint, base=base, torch_dtype=dtype)
    settings = pipe.settings
    steered = settings is not None and (settings.region_attention or settings.moe)
    if steered or control_of(pipe.unet) is not None:
        whole: DiffusionPipeline = pipe
    else:
        whole = stock_pipeline(pipe)
    with staged_folder(out) as stage:
        whole.save_pretrained(stage)


def export_lora(run: Path, out: Path, *, form: LoraFile, checkpoint: str = "latest", half: bool = True) -> Path:
    """Write the run's LoRA or DoRA, averaged where there is an average, as one file into ``out``; returns the file.

    The base model is not part of it, nor are noise schedule and layout: regions that steer cross-attention need a
    :class:`LayoutPipeline`.

    Raises:
        ConfigError: ``out`` is not empty, the run cannot be read, or something it trained has no place in such a file.
            All reasons in one error.
    """
    require_free(out)
    adapter = load_trained_adapter(run, checkpoint=checkpoint)
    name = adapter.method["name"]
    if name not in ("lora", "dora"):
        raise ConfigError(f"{run} was trained with method={name}: LoRA files hold what method=lora and dora train.")
    problems = lora_problems(adapter.state, form)
    if adapter.text_encoder:
        problems.append("the text encoder was trained itself, not by an adapter")
    if problems:
        raise ConfigError(
            f"{run} does not fit into a {form} file: {'; '.join(problems)}. --format pipeline writes everything."
        )
    rank, alpha = adapter.method["rank"], adapter.method["alpha"]
    state = lora_state(adapter.state, form, rank=rank, alpha=alpha)
    dtype = torch.float16 if half else torch.float32
    about = {"format": "pt", "ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    metadata = about if form is LoraFile.KOHYA else {"format": "pt"}
    plain = {key: value.to(dtype).contiguous() for key, value in state.items()}
    with staged_folder(out) as stage:
        save_file(plain, stage / form.file_name, metadata=metadata)
    return out / form.file_name


def stock_pipeline(pipe: LayoutPipeline) -> PixArtSigmaPipeline | StableDiffusionPipeline | StableDiffusionXLPipeline:
    """The networks of a pipeline without layout in the pipeline diffusers has for such a base model."""
    if isinstance(pipe.unet, PixArtTransformer2DModel):
        return PixArtSigmaPipeline(
            tokenizer=pipe.tokenizer,
            text_encoder=pipe.text_encoder,
            vae=pipe.vae,
            transformer=pipe.unet,
            scheduler=stock_sampler(pipe.scheduler.config),  # type: ignore[arg-type] - any of diffusers' will do
        )
    shared: dict[str, Any] = {
        "vae": pipe.vae,
        "text_encoder": pipe.text_encoder,
        "tokenizer": pipe.tokenizer,
        "unet": pipe.unet,
        "scheduler": stock_sampler(pipe.scheduler.config),
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
