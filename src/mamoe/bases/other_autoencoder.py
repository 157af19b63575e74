"""A base model with another autoencoder than its own, one that was trained for the same latents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTokenizer

from mamoe.bases.parts import Parts, Trained
from mamoe.bases.shipped import holder_of, resolved
from mamoe.bases.whole import read_whole
from mamoe.diffusion.schedules import Schedule
from mamoe.errors import ConfigError
from mamoe.models.autoencoder import KINDS, cell_pixels, is_of_films, latent_channels

_VAE = "vae"


class WithAutoencoder:
    """The parts of ``parts``, but for the autoencoder.

    Args:
        parts: of the base model.
        place: a folder or hub id of an autoencoder in diffusers layout, or of a model with one in its ``vae/``.
    """

    def __init__(self, parts: Parts, place: str) -> None:
        self._parts, self._place = parts, place

    def index(self) -> Mapping[str, Any]:
        return self._parts.index()

    def trained(self) -> Trained:
        return self._parts.trained()

    def unet(self, dtype: torch.dtype) -> Any:
        return self._parts.unet(dtype)

    def network(self, kind: Any, part: str, dtype: torch.dtype) -> Any:
        return self._parts.network(kind, part, dtype) if part != _VAE else self._autoencoder(dtype)

    def tokenizer(self, part: str) -> CLIPTokenizer:
        return self._parts.tokenizer(part)

    def scheduler(self) -> Schedule:
        return self._parts.scheduler()

    def _autoencoder(self, dtype: torch.dtype) -> AutoencoderKL:
        path = holder_of(resolved(self._place), _VAE)
        if Path(path).is_file():
            raise ConfigError(
                f"model.vae={self._place} is a file; wanted a folder or hub id in diffusers layout (config.json and "
                "diffusion_pytorch_model.safetensors). diffusers' AutoencoderKL.from_single_file(FILE).save_pretrained"
                "(FOLDER) makes one of it."
            )
        inside = not (Path(path) / "config.json").is_file() and (Path(path) / _VAE).is_dir()
        own = self._own_config()
        kind = KINDS.get((own or {}).get("_class_name", ""), AutoencoderKL)
        try:
            found = self._read(kind, path, _VAE if inside else None)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"model.vae={self._place}: no autoencoder can be read there: {str(error).splitlines()[0]} Wanted a "
                "folder in diffusers layout or, with a network, a hub id; the autoencoder itself or a model with a "
                "folder vae/."
            ) from None
        problems = _misfits(found.config, own)
        if problems:
            raise ConfigError(
                f"model.vae={self._place} does not make the latents that this base model knows: {'; '.join(problems)}."
            )
        return cast(AutoencoderKL, nn.Module.to(found, dtype))

    def _own_config(self) -> Any:
        try:
            return self._parts.network(AutoencoderKL, _VAE, torch.float32).config
        except (
            ConfigError,
            OSError,
            ValueError,
        ):  # the model has none: that the UNet reads as many channels is checked
            return None

    def _read(self, kind: type[Any], path: str, subfolder: str | None) -> AutoencoderKL:
        if subfolder is None and not Path(path).is_dir():  # on the hub there are both kinds
            try:
                return read_whole(kind, path, low_cpu_mem_usage=False)
            except (OSError, ValueError):
                subfolder = _VAE
        return read_whole(kind, path, subfolder, low_cpu_mem_usage=False)


def _misfits(theirs: Any, own: Any) -> list[str]:
    """Why latents of an autoencoder of configuration ``theirs`` are not those of ``own``; empty when they can be."""
    problems: list[str] = []
    if own is None:
        return problems
    channels = [latent_channels(config) for config in (theirs, own)]
    if channels[0] != channels[1]:
        problems.append(f"it makes {channels[0]} channels, the model's own {channels[1]}")
    cells = [cell_pixels(config) for config in (theirs, own)]
    if cells[0] != cells[1]:
        problems.append(f"a latent cell is {cells[0]} pixels wide, that of the model's own {cells[1]}")
    for key in ("scaling_factor", *(("latents_mean", "latents_std") if is_of_films(own) else ())):
        scales = [config.get(key) for config in (theirs, own)]
        if scales[0] != scales[1]:
            problems.append(f"its {key} is {scales[0]}, that of the own {scales[1]}")
    return problems
