"""A training run, or one of its checkpoints, as the components of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

from mamoe.bases.pretrained import Formats, TextParts, load_base, read_text
from mamoe.bases.sources import run_parts
from mamoe.diffusion.sampler import sampler_for
from mamoe.errors import ConfigError
from mamoe.models.backbone import Backbone
from mamoe.models.backbones import backbone_named
from mamoe.runs.adapter import ADAPTER
from mamoe.runs.lookup import find_checkpoint, part_of_network, require_sound
from mamoe.runs.recipe import read_recipe
from mamoe.runs.source import Source
from mamoe.sampling.checks import check_folder
from mamoe.storage.tensor_file import read_tensors


def load_components(
    run: Path,
    *,
    checkpoint: str = "latest",
    ema: bool = True,
    base: str | Path | None = None,
    torch_dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """The constructor arguments of a ``LayoutPipeline`` with the networks of a run.

    Args:
        run: a run folder (with ``checkpoints/``) or a checkpoint folder (with ``recipe.json``).
        checkpoint: "latest", "best", a folder name such as "step-00002000", or a step such as "2000".
        ema: take the averaged weights where the checkpoint has some.
        base: where the base model is now, if no longer where it was during training; a folder, hub name or
            ``package:<name>``.
        torch_dtype: of the weights.

    Raises:
        ConfigError: the run has no such checkpoint, it is damaged, or its recipe or base model cannot be read.
    """
    source = Source(path=str(run), base=None if base is None else str(base))
    parts = run_parts(source, checkpoint, ema=ema)
    try:
        trained = parts.trained()
        return {
            "vae": parts.network(AutoencoderKL, "vae", torch_dtype),
            "unet": parts.unet(torch_dtype),
            "scheduler": sampler_for(parts.scheduler().config),
            "layout": trained.layout,
            "condition": trained.condition,
            **components_of(read_text(parts, torch_dtype)),
        }
    except OSError as error:
        raise ConfigError(
            f"Cannot load the networks of {parts.checkpoint}, trained on the base model "
            f"{base or read_recipe(parts.checkpoint).base.path}: {error} "
            "If the base model has moved, give its place as base (--base PATH on the command line)."
        ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedAdapter:
    """What a run with adapters learned, by the names the weights have in its UNet."""

    method: Mapping[str, Any]  # as the recipe has it
    backbone: Backbone  # the family of its network
    state: Mapping[str, Tensor]
    text_encoder: bool  # the text encoder was trained too


def load_trained_adapter(run: Path, *, checkpoint: str = "latest", ema: bool = True) -> TrainedAdapter:
    """The adapter of a run alone; its base model is not needed. Arguments as of :func:`load_components`.

    Raises:
        ConfigError: the run has no such checkpoint, it is damaged, or it holds a whole UNet.
    """
    folder = find_checkpoint(run, checkpoint)
    require_sound(folder, [part_of_network(folder, name, ema).name for name in ("unet", "text_encoder")])
    method, place = read_recipe(folder).terms.method, part_of_network(folder, "unet", ema)
    file = place / ADAPTER
    if not file.is_file():
        raise ConfigError(f"{folder} holds no adapter but a whole UNet: it was trained with method={method['name']}.")
    trained_text = part_of_network(folder, "text_encoder", ema).is_dir()
    kind: Any = UNet2DConditionModel.load_config(place)
    backbone = backbone_named(kind["_class_name"])
    return TrainedAdapter(method=method, backbone=backbone, state=read_tensors(file), text_encoder=trained_text)


def is_foreign_transformer(path: str, revision: str | None = None) -> bool:
    """Whether a folder or hub name is a stock pipeline whose network is a transformer, which has another name there.

    Raises:
        ConfigError: it is neither of these, nor a saved pipeline of ours.
    """
    check_folder(Path(path))
    try:
        index: Any = DiffusionPipeline.load_config(path, revision=revision)
    except OSError as error:
        if Path(path).is_dir():
            raise
        raise ConfigError(f"There is no folder {path}, and no model of that name on the hub: {error}") from None
    if not isinstance(index, dict):
        raise ConfigError(f"{path}/model_index.json must hold a JSON object, got {index!r:.60}.")
    return "transformer" in index


def load_base_components(path: str, *, torch_dtype: torch.dtype = torch.float32, **where: Any) -> dict[str, Any]:
    """The constructor arguments of a ``LayoutPipeline`` without layout from any base model.

    Args: see :class:`mamoe.runs.source.Source`; ``torch_dtype`` is that of the weights.

    Raises:
        ConfigError: it is no base model, or does not tell what kind.
    """
    where = {name: value for name, value in where.items() if value is not None}
    if odd := sorted(where.keys() - {"config", "tokenizer", "revision", "variant"}):
        raise ConfigError(f"{path} takes config, tokenizer, revision, variant and torch_dtype, not {', '.join(odd)}.")
    base = load_base(path, **where, formats=Formats(text=torch_dtype))
    for network in (base.unet, base.vae):
        nn.Module.to(network, torch_dtype)
    scheduler = sampler_for(base.scheduler.config)
    return {"unet": base.unet, "vae": base.vae, "scheduler": scheduler, **components_of(base.text)}


def components_of(text: TextParts) -> dict[str, Any]:
    """The text's part of the constructor arguments of a ``LayoutPipeline``."""
    return {field.name: getattr(text, field.name) for field in fields(text)}
