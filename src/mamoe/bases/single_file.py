"""One ``.safetensors`` file with a whole model under the names of its first publication, not those of diffusers.

The file holds weights alone. Its architecture comes from JSON files in diffusers layout: those of a known family ship
with the package, others are given by the user. The words of CLIP's tokenizer are not in the file either.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError, create_diffusers_clip_model_from_ldm
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer, PreTrainedModel

from mamoe.bases.parts import Trained
from mamoe.diffusion.schedules import Schedule, schedule_from
from mamoe.errors import ConfigError

FAMILIES = Path(__file__).parent / "families"
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_LATENTS = 4  # channels a text-to-image UNet reads; inpainting and depth models read more
_UNREADABLE = (SingleFileComponentError, ValueError, KeyError, RuntimeError)  # raised for weights of another model
_FIRST_LAYER = "model.diffusion_model.input_blocks.0.0.weight"
_SPECIAL = ("model_max_length", "bos_token", "eos_token", "unk_token", "pad_token")  # what the family decides
_CLIP_VOCABULARY = "openai/clip-vit-large-patch14"  # a hub id that has it


class Family(StrEnum):
    """Architectures whose configuration ships with the package."""

    SD15 = "sd15"  # Stable Diffusion 1.x
    SD21 = "sd21"  # Stable Diffusion 2.x, v-prediction, 768x768
    SD21_BASE = "sd21_base"  # Stable Diffusion 2.x, epsilon, 512x512
    SDXL = "sdxl"  # Stable Diffusion XL base


# The text encoder's name in the file tells the families apart, but not the two objectives of Stable Diffusion 2.
_FAMILIES_BY_PREFIX = {
    "conditioner.embedders.1.model.": (Family.SDXL,),
    "cond_stage_model.model.": (Family.SD21, Family.SD21_BASE),
    "cond_stage_model.transformer.": (Family.SD15,),
}


def is_single_file(path: str) -> bool:
    """Whether ``path`` means one file with a whole model.

    Raises:
        ConfigError: it is a pickle.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _PICKLES and not Path(path).is_dir():
        raise ConfigError(
            f"model.path={path}: {suffix} files are pickles, which can run any program when they are opened. "
            "Take the .safetensors file of the same model."
        )
    return suffix == ".safetensors"


class SingleFile:
    """Reads the parts of the model in one file.

    Args:
        path: the file.
        config: a :class:`Family`, or a folder of JSON in diffusers layout; None: the file's family, if it tells.
        tokenizer: a folder or hub id with CLIP's vocabulary; None: that in the ``config`` folder, or else the hub's.

    Raises:
        ConfigError: there is no such file, or it is of no known family, of several, or of another one than ``config``.
    """

    def __init__(self, path: Path, config: str | None, tokenizer: str | None) -> None:
        self._path, self._words = path, tokenizer
        keys = _header(path)
        self.folder = _config_folder(path, keys, config)

    def index(self) -> Mapping[str, Any]:
        return cast(Mapping[str, Any], DiffusionPipeline.load_config(str(self.folder)))

    def trained(self) -> Trained:
        return Trained()

    def unet(self, dtype: torch.dtype) -> Any:
        return self.network(UNet2DConditionModel, "unet", dtype)

    def network(self, kind: Any, part: str, dtype: torch.dtype) -> nn.Module:
        options: dict[str, Any] = {"config": str(self.folder), "subfolder": part}
        try:
            if issubclass(kind, PreTrainedModel):
                model = create_diffusers_clip_model_from_ldm(kind, self._weights, local_files_only=True, **options)
            else:
                model = kind.from_single_file(dict(self._weights), local_files_only=True, **options)
        except _UNREADABLE as error:
            # Weights that are not in the file stay without memory, and fail where they are moved.
            lacking = isinstance(error, NotImplementedError)
            raise self._unfit(part, "some are missing." if lacking else str(error).splitlines()[0]) from None
        if missing := [name for name, weight in model.state_dict().items() if weight.is_meta]:
            raise self._unfit(part, f"{len(missing)} are missing, the first {missing[0]}.")
        return nn.Module.to(model, dtype)  # not the class's own, which warns of a cast whatever the types

    def _unfit(self, part: str, reason: str) -> ConfigError:
        return ConfigError(
            f"{self._path} does not have the weights of {self.folder.name}/{part}: {reason} "
            "Set model.config to the architecture of this file."
        )

    def tokenizer(self, part: str) -> CLIPTokenizer:
        own = self.folder / part
        if self._words is None and any((own / name).is_file() for name in ("vocab.json", "tokenizer.json")):
            return CLIPTokenizer.from_pretrained(str(own))
        words = self._words or _CLIP_VOCABULARY
        special = {key: value for key, value in _read_json(own / "tokenizer_config.json").items() if key in _SPECIAL}
        try:
            tokenizer = CLIPTokenizer.from_pretrained(words, **special)
            reason = f"it has {len(tokenizer)} tokens."
        except (OSError, ValueError) as error:
            tokenizer, reason = None, str(error).splitlines()[0]
        wanted = _read_json(self.folder / part.replace("tokenizer", "text_encoder") / "config.json")["vocab_size"]
        if tokenizer is None or len(tokenizer) != wanted:
            raise ConfigError(
                f"{self._path} holds no tokenizer, and none of {wanted} tokens could be read from {words}: {reason} "
                f"Set model.tokenizer to a folder with CLIP's vocab.json and merges.txt (the tokenizer/ of any Stable "
                f"Diffusion folder), or with a network to a hub id such as {_CLIP_VOCABULARY}."
            )
        return tokenizer

    def scheduler(self) -> Schedule:
        config: Any = DDPMScheduler.load_config(str(self.folder), subfolder="scheduler")
        return schedule_from(config)

    @cached_property
    def _weights(self) -> Mapping[str, Tensor]:
        return load_file(self._path)


def _header(path: Path) -> Mapping[str, tuple[int, ...]]:
    """The shape of every tensor in the file."""
    if not path.is_file():
        raise ConfigError(f"model.path={path}: there is no such file.")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"model.path={path}: the file cannot be read as safetensors: {error}") from None


def _config_folder(path: Path, shapes: Mapping[str, tuple[int, ...]], config: str | None) -> Path:
    known = families_of(shapes)
    first = shapes.get(_FIRST_LAYER)
    if not known or first is None:
        raise ConfigError(
            f"model.path={path} is not a whole Stable Diffusion model under its original names (UNet, autoencoder and "
            f"text encoder in one file): its first tensors are {', '.join(sorted(shapes)[:3]) or 'none'}. A single "
            "network or a LoRA is no base model; a diffusers model is given as its folder."
        )
    if first[1] != _LATENTS:
        raise ConfigError(
            f"model.path={path}: its UNet reads {first[1]} channels, a text-to-image model's reads {_LATENTS}. "
            "Inpainting and depth models cannot be a base."
        )
    if config is None and len(known) > 1:
        raise ConfigError(
            f"model.path={path}: the file does not tell what its UNet predicts. Set model.config to "
            f"{' or '.join(known)} ({', '.join(f'{name}: {_prediction(name)}' for name in known)})."
        )
    if config is None:
        return FAMILIES / next(iter(known))
    if config in list(Family):
        if config not in known:
            raise ConfigError(f"model.path={path} is of the family {' or '.join(known)}, but model.config={config}.")
        return FAMILIES / config
    folder = Path(config)
    if not (folder / "model_index.json").is_file():
        raise ConfigError(
            f"model.config={config}: wanted one of {', '.join(Family)}, or a folder of JSON files in diffusers layout "
            "(model_index.json, unet/config.json, ...)."
        )
    return folder


def families_of(keys: Collection[str]) -> tuple[Family, ...]:
    """The known families whose files have tensors of these names; empty when there is none."""
    for prefix, families in _FAMILIES_BY_PREFIX.items():
        if any(key.startswith(prefix) for key in keys):
            return families
    return ()


def _prediction(family: Family) -> str:
    return _read_json(FAMILIES / family / "scheduler" / "scheduler_config.json")["prediction_type"]


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
