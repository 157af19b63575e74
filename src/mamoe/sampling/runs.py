"""A training run, or one of its checkpoints, as the components of a pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from mamoe.errors import ConfigError
from mamoe.models.finetune import method_of
from mamoe.models.finetune.adapterfile import ADAPTER, load_adapter
from mamoe.models.unet import OWN_CONFIG, MaMoEUNet2DConditionModel
from mamoe.sampling.schedule import ddim_scheduler
from mamoe.shipped import resolved

_RECIPE = "recipe.json"
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
        ConfigError: the run has no such checkpoint, or its recipe or base model cannot be read.
    """
    folder = find_checkpoint(run, checkpoint)
    recipe = _read_recipe(folder / _RECIPE)
    origin = {**recipe["base"], **({} if base is None else {"path": str(base), "revision": None})}
    origin["path"] = resolved(origin["path"])
    version: dict[str, Any] = {"revision": origin.get("revision")}
    try:
        return {
            "vae": _from_base(AutoencoderKL, origin, "vae", torch_dtype),
            "text_encoder": _text_encoder(folder, ema, origin, torch_dtype),
            "tokenizer": CLIPTokenizer.from_pretrained(origin["path"], subfolder="tokenizer", **version),
            "unet": _unet(_network(folder, "unet", ema), recipe, origin, torch_dtype),
            "scheduler": ddim_scheduler(recipe["scheduler"]),
            "layout": recipe["layout"],
        }
    except OSError as error:
        raise ConfigError(
            f"Cannot load the networks of {folder}, trained on the base model {origin['path']}: {error} "
            "If the base model has moved, give its place as base."
        ) from None


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


def _unet(folder: Path, recipe: dict[str, Any], origin: dict[str, Any], dtype: torch.dtype) -> UNet2DConditionModel:
    config = cast(dict[str, Any], UNet2DConditionModel.load_config(folder))
    kind = config["_class_name"]
    if kind not in _UNETS:
        raise ConfigError(f"{folder} holds a {kind}; wanted one of {', '.join(_UNETS)}.")
    if not (folder / ADAPTER).is_file():
        return _cast(_UNETS[kind].from_pretrained(folder, use_safetensors=True), dtype)
    unet = _from_base(UNet2DConditionModel, origin, "unet", torch.float32)
    if kind == MaMoEUNet2DConditionModel.__name__:
        unet = MaMoEUNet2DConditionModel.from_unet(unet, **{key: config[key] for key in OWN_CONFIG})
    method = method_of(recipe["method"])
    unet = method.prepare(unet, seed=0)  # what the seed decides is read from the file
    load_adapter(unet, folder)
    return _cast(method.merged(unet), dtype)


def _cast(unet: UNet2DConditionModel, dtype: torch.dtype) -> UNet2DConditionModel:
    return cast(Any, unet).to(dtype)


def _text_encoder(checkpoint: Path, ema: bool, origin: dict[str, Any], dtype: torch.dtype) -> CLIPTextModel:
    # A run that trained the text encoder keeps it beside the UNet.
    trained = _network(checkpoint, "text_encoder", ema)
    if trained.is_dir():
        return cast(Any, CLIPTextModel.from_pretrained(trained, use_safetensors=True)).to(dtype)
    return _from_base(CLIPTextModel, origin, "text_encoder", dtype)


def _from_base(kind: Any, origin: dict[str, Any], part: str, dtype: torch.dtype) -> Any:
    # Cast afterwards: the name of the option that says so differs between libraries and their releases.
    network = kind.from_pretrained(
        origin["path"],
        subfolder=part,
        revision=origin.get("revision"),
        variant=origin.get("variant"),
        use_safetensors=True,
    )
    return network.to(dtype)
