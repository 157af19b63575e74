"""Saved pipelines whose networks have all their weights: libraries make up, or leave out, those that are missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from mamoe.bases.whole import read_whole
from mamoe.errors import ConfigError

_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
_READ_ELSEWHERE = ("device_map", "quantization_config")  # options with which the pipeline places or packs weights


def whole_encoders(folder: Path, index: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The text encoders of a pipeline's folder, for ``from_pretrained`` to take as they are.

    transformers would fill what is missing in their files with random numbers. Those that are given, that somebody else
    places, and those of a hub, whose downloads are compared, are left to diffusers.

    Args:
        folder: of the pipeline.
        index: its ``model_index.json``.
        options: of ``from_pretrained``.

    Raises:
        ConfigError: weights are missing, or do not fit.
    """
    dtype = options.get("torch_dtype", options.get("dtype", torch.float32))
    if not folder.is_dir() or any(options.get(name) for name in _READ_ELSEWHERE) or not isinstance(dtype, torch.dtype):
        return {}
    found = {}
    for part in _ENCODERS:
        library, name = index.get(part) or (None, None)
        kind = getattr(transformers, str(name), None) if library == "transformers" else None
        if part not in options and kind is not None:
            found[part] = read_whole(kind, str(folder), part, variant=options.get("variant"), dtype=dtype)
    return found


def require_weights(path: str, networks: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse networks of which weights were not in the files: diffusers leaves them without memory.

    Raises:
        ConfigError: names the network and the first such weight.
    """
    if any(options.get(name) for name in _READ_ELSEWHERE):
        return
    for part, network in networks.items():
        empty = [name for name, weight in network.named_parameters() if weight.is_meta] if network is not None else []
        if empty:
            raise ConfigError(
                f"{path}/{part} cannot be read as a {type(network).__name__}: {len(empty)} weights are missing, first "
                f"{min(empty)!r}. Take the whole network, as it was published or as this package saved it."
            )
