"""A run as one self-contained folder, in the form somebody else's program reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    Flux2KleinPipeline,
    Flux2Pipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    ZImagePipeline,
)
from safetensors.torch import save_file
from transformers import (
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from mamoe.bases.originals import original_names
from mamoe.commands.card.facts import facts_of
from mamoe.commands.card.page import write_card
from mamoe.diffusion.sampler import is_zero_snr, stock_sampler
from mamoe.errors import ConfigError
from mamoe.methods.lora_file import LoraFile, lora_problems, lora_state
from mamoe.models.backbones import backbone_of
from mamoe.models.control.call import control_of
from mamoe.models.joint.rest import rest_as_adapters
from mamoe.runs.adapter import ADAPTER
from mamoe.runs.lookup import find_checkpoint, is_run, part_of_network
from mamoe.sampling.components import load_trained_adapter
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.storage.staging import require_free, staged_folder
from mamoe.vocabulary.layout import Strength

Stock = (
    Flux2KleinPipeline
    | Flux2Pipeline
    | FluxPipeline
    | PixArtSigmaPipeline
    | QwenImagePipeline
    | StableDiffusion3Pipeline
    | StableDiffusionPipeline
    | StableDiffusionXLPipeline
    | ZImagePipeline
)
# Whose prompts a language model reads alone, by its class.
_BY_LANGUAGE_MODEL: Mapping[type[Any], Any] = {
    Qwen3ForCausalLM: Flux2KleinPipeline,
    Mistral3ForConditionalGeneration: Flux2Pipeline,
    Qwen2_5_VLForConditionalGeneration: QwenImagePipeline,
    Qwen3Model: ZImagePipeline,
}
log = logging.getLogger(__name__)

SINGLE_FILE = "model.safetensors"
CONFIG = "config"  # folder of JSON and vocabulary beside a single file


class Form(StrEnum):
    """What a run's networks are written as."""

    PIPELINE = "pipeline"  # all of it
    MERGED = "merged"  # all of it, of a run whose adapter becomes part of the weights
    UNET = "unet"  # the UNet alone
    DENSE = "dense"  # a stock pipeline of what the model is without a map
    SINGLE_FILE = "single-file"  # the same as one file, as ComfyUI, AUTOMATIC1111 and others read it


def export_run(
    run: Path,
    out: Path,
    *,
    form: Form = Form.PIPELINE,
    checkpoint: str = "latest",
    base: str | None = None,
    half: bool = True,
) -> list[str]:
    """Write the run's networks, averaged weights where there are any, and a model card to ``out``.

    ``run`` may be a saved pipeline too, of which no card can be written; a warning says so.

    ``base`` is the base model's place, if it has moved. A run without region attention, experts and condition pictures
    is written as a stock ``StableDiffusionPipeline``, ``StableDiffusionXLPipeline`` where the base model has two text
    encoders, ``PixArtSigmaPipeline``, ``FluxPipeline``, ``Flux2Pipeline``, ``Flux2KleinPipeline``,
    ``QwenImagePipeline``, ``StableDiffusion3Pipeline`` or ``ZImagePipeline`` where it is one.

    Returns:
        What of the model has no place in that form, a sentence each.

    Raises:
        ConfigError: ``out`` is not empty, the run cannot be read, or it cannot be written in that form.
        DiskFullError: nothing is left in ``out``.
    """
    require_free(out)
    folder = find_checkpoint(run, checkpoint) if is_run(run) else None
    if form is Form.MERGED and (folder is None or not (part_of_network(folder, "unet", True) / ADAPTER).is_file()):
        raise ConfigError(f"{run} holds a whole UNet: there is no adapter to merge. Take --format {Form.PIPELINE}.")
    dtype = torch.float16 if half else torch.float32
    pipe = LayoutPipeline.from_pretrained(run, checkpoint=checkpoint, base=base, torch_dtype=dtype)
    if form in (Form.UNET, Form.DENSE, Form.SINGLE_FILE) and control_of(pipe.unet) is not None:
        raise ConfigError(
            f"{run} is shown a condition picture, which --format {form} has no place for. Take --format "
            f"{Form.PIPELINE}."
        )
    if form is Form.SINGLE_FILE and backbone_of(pipe.unet).part != "unet":
        raise ConfigError(
            f"{run} is a transformer, which has no original file of one piece. Take --format {Form.DENSE}."
        )
    left = _left_out(pipe) if form in (Form.DENSE, Form.SINGLE_FILE) else []
    with staged_folder(out) as stage:
        whole = _write(pipe, form, stage)
        if folder is None:
            log.warning("%s is no run: nothing is known of its training, and no model card is written.", run)
        else:
            two = pipe.text_encoder_2 is not None
            write_card(facts_of(folder, form=form.value, stock=whole, left_out=left, two_encoders=two), stage)
    return left


def export_lora(run: Path, out: Path, *, form: LoraFile, checkpoint: str = "latest", half: bool = True) -> Path:
    """Write the run's LoRA or DoRA, averaged where there is an average, as one file into ``out``; returns the file.

    Beside it lies a model card.

    Raises:
        ConfigError: ``out`` is not empty, or the run has no such adapter, or one that has no place in the format.
        DiskFullError: nothing is left in ``out``.
    """
    require_free(out)
    adapter = load_trained_adapter(run, checkpoint=checkpoint)
    additions = adapter.backbone.routed is not None  # experts that lie beside what all share
    if adapter.method["name"] not in (("lora", "lora_experts") if additions else ("lora", "dora")):
        raise ConfigError(
            f"{run} was trained with method={adapter.method['name']}: LoRA files hold what method=lora and dora train. "
            "--format pipeline writes everything."
        )
    trained = rest_as_adapters(adapter.state, adapter.backbone.ours) if additions else adapter.state
    problems = lora_problems(trained, form, prefix := adapter.backbone.lora_prefix)
    if adapter.text_encoder:
        problems.append("the text encoder was trained itself, not by an adapter")
    if problems:
        raise ConfigError(
            f"{run} does not fit into a {form} file: {'; '.join(problems)}. --format pipeline writes everything."
        )
    rank, alpha = adapter.method["rank"], adapter.method["alpha"]
    state = lora_state(trained, form, rank=rank, alpha=alpha, prefix=prefix or "")
    if trained.keys() != adapter.state.keys():
        log.warning("A stock model has no experts: the file holds that of the rest group, the others are left out.")
    about = {"format": "pt", "ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    metadata = about if form is LoraFile.KOHYA else {"format": "pt"}
    plain = {key: value.to(torch.float16 if half else torch.float32).contiguous() for key, value in state.items()}
    with staged_folder(out) as stage:
        save_file(plain, stage / form.file_name, metadata=metadata)
        write_card(facts_of(find_checkpoint(run, checkpoint), form=form.value, stock=True), stage)
    return out / form.file_name


def _write(pipe: LayoutPipeline, form: Form, stage: Path) -> bool:
    """Write one form; returns whether stock classes read it, with nothing left aside."""
    if form is Form.UNET:
        pipe.unet.save_pretrained(stage)
        return not hasattr(pipe.unet, "to_dense")
    if form in (Form.DENSE, Form.SINGLE_FILE):
        dense = stock_pipeline(pipe, unet=_dense_unet(pipe.unet))
        if form is Form.DENSE:
            dense.save_pretrained(stage)
        else:
            _write_single_file(dense, stage)
        return True
    settings = pipe.settings
    steered = settings is not None and (settings.region_attention or settings.moe)
    if steered or control_of(pipe.unet) is not None:
        pipe.save_pretrained(stage)
        return False
    stock_pipeline(pipe).save_pretrained(stage)
    return True


def _dense_unet(unet: Any) -> Any:
    return unet.to_dense() if hasattr(unet, "to_dense") else unet


def _left_out(pipe: LayoutPipeline) -> list[str]:
    """What a stock pipeline of this model does not know, in words."""
    settings = pipe.settings
    if settings is None:
        return []
    left = []
    if settings.num_experts > 1:
        names = ", ".join(settings.experts.names[1:])
        left.append(f"the experts of {names}: everything is drawn by the expert of the rest")
    if settings.region_attention:
        left.append("region attention: the caption alone is followed, no map and no prompt of an instance")
    if settings.strength is Strength.LEARNED:
        left.append("the learned strengths of regions")
    if not settings.global_prompt:
        left.append("that the model was trained without captions, so that it hardly knows what to make of one")
    return left


def _write_single_file(pipe: Stock, stage: Path) -> None:
    """One file under original names, and beside it what such files do not say: sizes, schedule and vocabulary."""
    networks: Mapping[str, Any] = pipe.components
    state = original_names(pipe.unet, pipe.vae, pipe.text_encoder, networks.get("text_encoder_2"))
    predicted = pipe.scheduler.config["prediction_type"]
    prediction = "v" if predicted == "v_prediction" else predicted
    metadata = {"format": "pt", "modelspec.sai_model_spec": "1.0.0", "modelspec.prediction_type": prediction}
    if "text_encoder_2" in networks and prediction == "v":  # of this kind ComfyUI and others know them by these names
        state["v_pred"] = torch.tensor([])
        if is_zero_snr(pipe.scheduler.config):
            state["ztsnr"] = torch.tensor([])
    save_file({name: value.contiguous().clone() for name, value in state.items()}, stage / SINGLE_FILE, metadata)
    folder = stage / CONFIG
    pipe.save_config(folder)
    for name, part in networks.items():
        if part is None:
            continue
        if hasattr(part, "save_config"):  # networks of diffusers, schedulers
            part.save_config(folder / name)
        elif isinstance(part, torch.nn.Module):  # of transformers
            config: Any = part.config
            config.save_pretrained(folder / name)
        else:  # tokenizers
            part.save_pretrained(folder / name)


def stock_pipeline(pipe: LayoutPipeline, unet: Any = None) -> Stock:
    """The networks of a pipeline in the one diffusers has for such a base model; ``unet`` takes its UNet's place."""
    unet = pipe.unet if unet is None else unet
    shared: dict[str, Any] = {
        "vae": pipe.vae,
        "text_encoder": pipe.text_encoder,
        "tokenizer": pipe.tokenizer,
        "scheduler": stock_sampler(pipe.scheduler.config),
    }
    if isinstance(unet, PixArtTransformer2DModel):
        return PixArtSigmaPipeline(**shared, transformer=unet)
    for kind, pipeline in _BY_LANGUAGE_MODEL.items():
        if isinstance(pipe.text_encoder, kind):
            return pipeline(**{**shared, "scheduler": pipe.scheduler}, transformer=unet)
    second = {"text_encoder_2": pipe.text_encoder_2, "tokenizer_2": pipe.tokenizer_2}
    if isinstance(unet, FluxTransformer2DModel):
        return FluxPipeline(**{**shared, **second, "scheduler": pipe.scheduler}, transformer=unet)
    if isinstance(unet, SD3Transformer2DModel):
        third = {"text_encoder_3": pipe.text_encoder_3, "tokenizer_3": pipe.tokenizer_3}
        parts = {**shared, **second, **third, "scheduler": pipe.scheduler}
        return StableDiffusion3Pipeline(**parts, transformer=unet)
    shared["unet"] = unet
    if pipe.text_encoder_2 is not None:
        return StableDiffusionXLPipeline(
            **shared,
            **second,
            force_zeros_for_empty_prompt=pipe.config["force_zeros_for_empty_prompt"],
            add_watermarker=False,
        )
    return StableDiffusionPipeline(
        **shared,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
