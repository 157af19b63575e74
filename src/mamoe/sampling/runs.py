"""A training run, or one of its checkpoints, as the components of a pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModel

from mamoe.errors import ConfigError
from mamoe.manifest import problems_of
from mamoe.models.finetune import method_of
from mamoe.models.finetune.adapterfile import ADAPTER, load_adapter
from mamoe.models.pretrained import TextParts, load_base, read_text
from mamoe.models.sources import Parts, Source, parts_of
from mamoe.models.unet import OWN_CONFIG, MaMoEUNet2DConditionModel
from mamoe.sampling.schedule import ddim_scheduler

_RECIPE = "recipe.json"
_TRAINABLE = ("unet", "text_encoder")
_UNETS = {kind.__name__: kind for kind in (MaMoEUNet2DConditionModel, UNet2DConditionModel)}


def is_run(folder: Path) -> bool:
    """Whether the folder is a training run or one of its checkpoints."""
    return (folder / "checkpoints").is_dir() or (folder / _RECIPE).is_file()


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
    folder, recipe = _sound_checkpoint(run, checkpoint, ema)
    source = Source(**recipe["base"])
    if base is not None:
        source = Source(path=str(base), variant=source.variant)
    try:
        parts = parts_of(source)
        return {
            "vae": parts.network(AutoencoderKL, "vae", torch_dtype),
            "unet": _unet(_network(folder, "unet", ema), recipe, parts, torch_dtype),
            "scheduler": ddim_scheduler(recipe["scheduler"]),
            "layout": recipe["layout"],
            "condition": recipe.get("condition"),
            **components_of(read_text(parts, torch_dtype, _trained_text_encoder(folder, ema, torch_dtype))),
        }
    except OSError as error:
        raise ConfigError(
            f"Cannot load the networks of {folder}, trained on the base model {source.path}: {error} "
            "If the base model has moved, give its place as base."
        ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedAdapter:
    """What a run with adapters learned, by the names the weights have in its UNet."""

    method: Mapping[str, Any]  # as the recipe has it
    state: Mapping[str, Tensor]
    text_encoder: bool  # the text encoder was trained too


def load_trained_adapter(run: Path, *, checkpoint: str = "latest", ema: bool = True) -> TrainedAdapter:
    """The adapter of a run alone; its base model is not needed. Arguments as of :func:`load_components`.

    Raises:
        ConfigError: the run has no such checkpoint, it is damaged, or it holds a whole UNet.
    """
    folder, recipe = _sound_checkpoint(run, checkpoint, ema)
    file = _network(folder, "unet", ema) / ADAPTER
    if not file.is_file():
        raise ConfigError(f"{folder} holds no adapter but a whole UNet: it was trained with {_method_name(recipe)}.")
    trained_text = _network(folder, "text_encoder", ema).is_dir()
    return TrainedAdapter(method=recipe["method"], state=load_file(file), text_encoder=trained_text)


def _sound_checkpoint(run: Path, checkpoint: str, ema: bool) -> tuple[Path, dict[str, Any]]:
    folder = find_checkpoint(run, checkpoint)
    read = {_RECIPE, *(_network(folder, name, ema).name for name in _TRAINABLE)}
    if problems := problems_of(folder, read):
        others = [path.name for path in sorted(folder.parent.glob("step-*")) if path != folder]
        raise ConfigError(
            f"Checkpoint {folder} is damaged: {'; '.join(problems)}. Take another one with --checkpoint: "
            f"{', '.join(others) or 'the run has none'}."
        )
    return folder, _read_recipe(folder / _RECIPE)


def _method_name(recipe: Mapping[str, Any]) -> str:
    return f"method={recipe.get('method', {'name': 'full'})['name']}"


def load_single_file(
    path: str, *, config: str | None = None, tokenizer: str | None = None, torch_dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """The constructor arguments of a ``LayoutPipeline`` without layout from one original file.

    Args: see :class:`mamoe.models.sources.Source`; ``torch_dtype`` is that of the weights.

    Raises:
        ConfigError: the file is no base model, or does not tell what kind.
    """
    base = load_base(path, config=config, tokenizer=tokenizer)
    for network in (base.unet, base.vae, base.text_networks):
        nn.Module.to(network, torch_dtype)
    scheduler = ddim_scheduler(base.scheduler.config)
    return {"unet": base.unet, "vae": base.vae, "scheduler": scheduler, **components_of(base.text)}


def components_of(text: TextParts) -> dict[str, Any]:
    """The text's part of the constructor arguments of a ``LayoutPipeline``."""
    return {field.name: getattr(text, field.name) for field in fields(text)}


def find_checkpoint(run: Path, checkpoint: str = "latest") -> Path:
    """The checkpoint folder meant by ``checkpoint``; a run that is itself a checkpoint folder is taken as it is.

    Raises:
        ConfigError: there is no such checkpoint; the message lists those there are.
    """
    if (run / _RECIPE).is_file():
        return run.resolve()
    root = run / "checkpoints"
    name = f"step-{int(checkpoint):08d}" if checkpoint.isdigit() else checkpoint
    folder = root / name
    if folder.is_file():  # a link on a file system without links: a text file with the folder's name
        folder = root / folder.read_text(encoding="utf-8").strip()
    if not (folder / _RECIPE).is_file():
        present = sorted(p.name for p in root.glob("*") if (p / _RECIPE).is_file())
        there = f"There are: {', '.join(present)}." if present else "It has none yet."
        raise ConfigError(f"Run {run} has no checkpoint {checkpoint!r}. {there}")
    return folder.resolve()


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read {path}: {error}. Take another checkpoint of the run.") from None
    missing = [key for key in ("base", "scheduler", "layout") if key not in recipe]
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)}. Take another checkpoint of the run.")
    return recipe


def _network(checkpoint: Path, name: str, ema: bool) -> Path:
    averaged = checkpoint / f"{name}_ema"
    return averaged if ema and averaged.is_dir() else checkpoint / name


def _unet(folder: Path, recipe: dict[str, Any], parts: Parts, dtype: torch.dtype) -> UNet2DConditionModel:
    config = cast(dict[str, Any], UNet2DConditionModel.load_config(folder))
    kind = config["_class_name"]
    if kind not in _UNETS:
        raise ConfigError(f"{folder} holds a {kind}; wanted one of {', '.join(_UNETS)}.")
    if not (folder / ADAPTER).is_file():
        return _cast(_UNETS[kind].from_pretrained(folder, use_safetensors=True), dtype)
    unet = parts.network(UNet2DConditionModel, "unet", torch.float32)
    if kind == MaMoEUNet2DConditionModel.__name__:
        unet = MaMoEUNet2DConditionModel.from_unet(unet, **{key: config[key] for key in OWN_CONFIG if key in config})
    method = method_of(recipe["method"])
    unet = method.prepare(unet, seed=0)  # what the seed decides is read from the file
    load_adapter(unet, folder)
    return _cast(method.merged(unet), dtype)


def _cast(unet: UNet2DConditionModel, dtype: torch.dtype) -> UNet2DConditionModel:
    return cast(UNet2DConditionModel, nn.Module.to(unet, dtype))


def _trained_text_encoder(checkpoint: Path, ema: bool, dtype: torch.dtype) -> CLIPTextModel | None:
    # A run that trained the text encoder keeps it beside the UNet.
    trained = _network(checkpoint, "text_encoder", ema)
    if not trained.is_dir():
        return None
    return cast(Any, CLIPTextModel.from_pretrained(trained, use_safetensors=True)).to(dtype)
