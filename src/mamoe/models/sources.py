"""Where the parts of a base model are read from: a folder in diffusers layout, the hub, or one original file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import nn
from transformers import CLIPTokenizer, PreTrainedModel

from mamoe.errors import ConfigError
from mamoe.models.singlefile import SingleFile, is_single_file
from mamoe.shipped import resolved


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What the user says about a base model; kept in every checkpoint's recipe."""

    path: str  # folder in diffusers layout, hub id, ``package:<name>``, or an original .safetensors file
    revision: str | None = None  # of the hub
    variant: str | None = None  # of the weights' files, e.g. "fp16"
    config: str | None = None  # of a single file: a known family, or a folder of JSON in diffusers layout
    tokenizer: str | None = None  # of a single file: a folder with CLIP's vocabulary, or a hub id

    def to_dict(self) -> dict[str, str | None]:
        return asdict(self)


class Parts(Protocol):
    """Reads the parts of one base model by their names in diffusers' layout."""

    def index(self) -> Mapping[str, Any]:
        """What ``model_index.json`` says."""
        ...

    def network(self, kind: Any, part: str, dtype: torch.dtype) -> Any:
        """A network of class ``kind``, its weights in ``dtype``."""
        ...

    def tokenizer(self, part: str) -> CLIPTokenizer: ...

    def scheduler(self) -> DDPMScheduler: ...


def parts_of(source: Source) -> Parts:
    """What reads the source's parts; nothing heavy is loaded yet.

    Raises:
        ConfigError: the source is a pickle, or a single file of an unknown kind, or says what fits folders to a file
            or the other way round.
    """
    if is_single_file(source.path):
        return SingleFile(Path(source.path), source.config, source.tokenizer)
    given = [f"model.{key}={value}" for key in ("config", "tokenizer") if (value := getattr(source, key)) is not None]
    if given:
        raise ConfigError(
            f"{', '.join(given)}: only a single .safetensors file needs that, but model.path={source.path} has its own."
        )
    return DiffusersFolder(source)


class DiffusersFolder:
    """A folder in diffusers layout, on disk or on the hub."""

    def __init__(self, source: Source) -> None:
        self._path = resolved(source.path)
        self._version: dict[str, Any] = {"revision": source.revision}
        self._variant = source.variant

    def index(self) -> Mapping[str, Any]:
        return cast(Mapping[str, Any], DiffusionPipeline.load_config(self._path, **self._version))

    def network(self, kind: Any, part: str, dtype: torch.dtype) -> Any:
        options: dict[str, Any] = {} if issubclass(kind, PreTrainedModel) else {"low_cpu_mem_usage": False}
        network = kind.from_pretrained(
            self._path, subfolder=part, variant=self._variant, use_safetensors=True, **self._version, **options
        )
        # Cast afterwards: the name of the option that says so differs between libraries and their releases.
        # As a plain module, because diffusers' own `to` warns even of an empty list of parts to be kept in float32.
        return nn.Module.to(network, dtype)

    def tokenizer(self, part: str) -> CLIPTokenizer:
        return CLIPTokenizer.from_pretrained(self._path, subfolder=part, **self._version)

    def scheduler(self) -> DDPMScheduler:
        loaded = DDPMScheduler.from_pretrained(self._path, subfolder="scheduler", **self._version)
        return cast(DDPMScheduler, loaded)
