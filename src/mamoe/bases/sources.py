"""Where the parts of a base model are read from: a folder in diffusers layout, the hub, one original file, a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline
from torch import nn
from transformers import CLIPTokenizer, PixtralProcessor, PreTrainedModel, Qwen2Tokenizer, T5Tokenizer

from mamoe.bases.other_autoencoder import WithAutoencoder
from mamoe.bases.parts import Parts, Trained
from mamoe.bases.shipped import holder_of, resolved
from mamoe.bases.single_file import SingleFile, is_single_file
from mamoe.bases.trained import RunParts
from mamoe.bases.whole import read_whole
from mamoe.diffusion.schedules import Schedule, prediction_of, schedule_from
from mamoe.errors import ConfigError
from mamoe.models.autoencoder import KINDS as AUTOENCODERS
from mamoe.models.backbones import backbone_in
from mamoe.models.control.call import control_of
from mamoe.models.control.controlnet_xs import BRANCH, ControlledUNet, load_branch
from mamoe.runs.home import Home
from mamoe.runs.lookup import find_checkpoint, is_run
from mamoe.runs.recipe import read_recipe
from mamoe.runs.source import Source

_T5_TOKENS = {"PixArtAlphaPipeline": 120}  # of a prompt, where it is less than an encoder takes by itself
_PARTS = ("unet", "transformer", "vae", "scheduler")
_PARTS += tuple(f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3"))
log = logging.getLogger(__name__)


def parts_of(source: Source) -> Parts:
    """What reads the source's parts; nothing heavy is loaded yet.

    Raises:
        ConfigError: the source is a pickle, or a single file of an unknown kind, or says what fits folders to a file
            or the other way round; or a run without checkpoint, or whose base model is gone.
    """
    if source.base is not None or is_run(Path(source.path)):
        return run_parts(source)
    parts = _own_parts(source)
    return parts if source.vae is None else WithAutoencoder(parts, source.vae)


def _own_parts(source: Source) -> Parts:
    if is_single_file(source.path):
        return SingleFile(Path(source.path), source.config, source.tokenizer)
    given = [f"model.{key}={value}" for key in ("config", "tokenizer") if (value := getattr(source, key)) is not None]
    if given:
        raise ConfigError(
            f"{', '.join(given)}: only a single .safetensors file needs that, but model.path={source.path} has its own."
        )
    _require_there(resolved(source.path))
    return DiffusersFolder(source)


def _require_there(path: str) -> None:
    """Refuse what is nowhere and cannot be on the hub either; libraries would look for it there."""
    hub = path.count("/") <= 1 and not path.startswith((".", "/", "~"))
    if not hub and not Path(path).exists():
        raise ConfigError(
            f"There is no folder or file {path}; wanted a base model in diffusers layout, one .safetensors file, a run "
            "or a hub name (owner/name). If it has moved, give its place: model.path=PATH of a training, --base PATH "
            "for drawing from a run, scoring or exporting it."
        )


def run_parts(source: Source, checkpoint: str = "latest", *, ema: bool = True) -> RunParts:
    """What reads a run or checkpoint as a base model.

    Args:
        source: of the run.
        checkpoint: see :func:`mamoe.runs.lookup.find_checkpoint`.
        ema: take averaged weights where there are some.

    Raises:
        ConfigError: there is no such checkpoint, or its base model is gone.
    """
    folder = find_checkpoint(Path(source.path), checkpoint)
    recipe = read_recipe(folder)
    base = _base_source(folder, recipe.base, source)
    if source.vae is not None:
        base = replace(base, vae=source.vae)
    return RunParts(folder, recipe, parts_of(base), base=base, ema=ema)


def _base_source(folder: Path, said: Source, source: Source) -> Source:
    """The base model of a checkpoint: where ``source`` says, where its recipe says, or where it moved with the run.

    Raises:
        ConfigError: a folder or file that is none of these any more.
    """
    if source.base is not None:
        return _moved(said, source, to=source.base)
    home = Home.of_checkpoint(folder)
    places = {key: home.found(value) for key in ("path", "config", "tokenizer", "vae") if (value := getattr(said, key))}
    now = replace(said, **places)
    if now != said:
        log.warning("%s is not there any more: the base model of %s is read from %s.", said.path, folder, now.path)
    if Path(now.path).is_absolute() and not Path(now.path).exists():
        raise ConfigError(
            f"{folder} was trained on the base model {now.path}, which is not there. If the base model has moved, give "
            "its place as base: --base PATH on the command line, base=PATH in Python, model.path=PATH beside "
            "model.init_from."
        )
    return now


def _moved(said: Source, place: Source, *, to: str) -> Source:
    """The same model where ``place.base`` says; what is not said of it there holds on."""
    single = is_single_file(to)
    return Source(
        path=to,
        revision=place.revision,
        variant=place.variant or said.variant,
        config=(place.config or said.config) if single else place.config,
        tokenizer=(place.tokenizer or said.tokenizer) if single else place.tokenizer,
        vae=said.vae,
    )


class DiffusersFolder:
    """A folder in diffusers layout, on disk or on the hub."""

    def __init__(self, source: Source) -> None:
        self._path = resolved(source.path)
        self._version: dict[str, Any] = {"revision": source.revision}
        self._variant = source.variant

    def index(self) -> Mapping[str, Any]:
        place = f"{self._path}/model_index.json"
        index = _mapping(DiffusionPipeline.load_config(self._path, **self._version), place)
        if odd := [part for part in _PARTS if part in index and not _is_named(index[part])]:
            raise ConfigError(
                f"{place} must name a library and a class of every part; {odd[0]} is {index[odd[0]]!r:.60}. Take the "
                "file as it was published."
            )
        return index

    def trained(self) -> Trained:
        index = self.index()
        layout = index.get("layout")
        return Trained(layout=None if layout is None else json.loads(layout), condition=index.get("condition"))

    def unet(self, dtype: torch.dtype) -> Any:
        backbone, part = backbone_in(self.index()), self._network_part
        found = backbone.stock.load_config(self._path, subfolder=part, **self._version)
        config = _mapping(found, f"{self._path}/{part}/config.json")
        if problems := backbone.ours.config_problems(config):  # before its weights are read
            raise ConfigError(f"{self._path}/{part}/config.json: {'; '.join(problems)}.")
        ours = config.get("_class_name") == backbone.ours.__name__
        unet = self.network(backbone.ours if ours else backbone.stock, part, dtype)
        branch = Path(self._path) / BRANCH
        if branch.is_dir():
            return ControlledUNet(unet, load_branch(unet, branch))
        if self.trained().condition is not None and control_of(unet) is None:
            raise ConfigError(
                f"{self._path} was saved with a ControlNet-XS branch, and {branch} is not there: without it the model "
                "would not see its condition pictures. Copy or download the whole folder, and name that."
            )
        return unet

    def network(self, kind: Any, part: str, dtype: torch.dtype) -> Any:
        if kind is AutoencoderKL:
            kind = self._autoencoder(str(self.index().get(part, [None, None])[1]))
        # In its format from the start: in float32 a large one would take twice the memory, if only for a moment.
        text = issubclass(kind, PreTrainedModel)
        options: dict[str, Any] = {"dtype": dtype} if text else {"low_cpu_mem_usage": False}
        if part == self._network_part and dtype is torch.bfloat16:
            options = {"torch_dtype": dtype}
        network = read_whole(
            kind,
            holder_of(self._path, part),
            part,
            surplus=part != self._network_part,
            variant=self._variant,
            **self._version,
            **options,
        )
        # Diffusers' networks are cast afterwards: the name of their option differs between releases.
        # As a plain module, because diffusers' own `to` warns even of an empty list of parts to be kept in float32.
        return nn.Module.to(network, dtype)

    def _autoencoder(self, name: str) -> Any:
        if name not in AUTOENCODERS:
            raise ConfigError(
                f"{self._path} has an autoencoder that is not known here (vae: {name}). Known are "
                f"{', '.join(AUTOENCODERS)}; model.vae=… gives another that makes the same latents."
            )
        return AUTOENCODERS[name]

    @property
    def _network_part(self) -> str:
        # A pipeline of ours has its network under one name, whatever its family is.
        return "unet" if "unet" in self.index() else backbone_in(self.index()).part

    def tokenizer(self, part: str) -> Any:
        index, place = self.index(), holder_of(self._path, part)
        if str(index[part][1]).startswith("T5"):
            # Its files name the limit of T5, not that of the network that reads it.
            limit = _T5_TOKENS.get(str(index.get("_class_name")))
            said: dict[str, Any] = self._version | ({} if limit is None else {"model_max_length": limit})
            return T5Tokenizer.from_pretrained(place, subfolder=part, **said)
        if str(index[part][1]).startswith("Qwen2"):
            return Qwen2Tokenizer.from_pretrained(place, subfolder=part, **self._version)
        if str(index[part][1]).startswith("Pixtral"):
            return PixtralProcessor.from_pretrained(place, subfolder=part, **self._version)
        return CLIPTokenizer.from_pretrained(place, subfolder=part, **self._version)

    def scheduler(self) -> Schedule:
        found: Any = DDPMScheduler.load_config(self._path, subfolder="scheduler", **self._version)
        place = f"{self._path}/scheduler/scheduler_config.json"
        config = _mapping(found, place)
        try:
            made = schedule_from(config)
            prediction_of(made.config)
        except ConfigError:
            raise
        except (TypeError, ValueError, KeyError) as error:
            raise ConfigError(
                f"{place} is no noise schedule that is known here: {str(error).splitlines()[0]}"
            ) from None
        return made


def _is_named(entry: Any) -> bool:
    return isinstance(entry, list | tuple) and len(cast(Sequence[Any], entry)) == 2


def _mapping(plain: Any, place: str) -> dict[str, Any]:
    if not isinstance(plain, dict):
        raise ConfigError(f"{place} must hold a JSON object, got {plain!r:.60}. Take the file as it was published.")
    return cast(dict[str, Any], plain)
