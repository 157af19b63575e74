"""A segmenter on disk, as `mamoe evaluate` keeps it beside the data it was learned from.

<store>/segmenter.safetensors  weights
<store>/manifest.json          classes, what they were learned from, hash of the weights
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mamoe.models.segmenter import Segmenter
from mamoe.storage.hashing import file_hash
from mamoe.storage.staging import replaced_file, write_whole

WEIGHTS, MANIFEST = "segmenter.safetensors", "manifest.json"


def read_segmenter(store: Path) -> tuple[Segmenter, dict[str, Any]] | None:
    """The network, ready to read, and its manifest; None: there is none, or it is damaged."""
    try:
        manifest = json.loads((store / MANIFEST).read_text(encoding="utf-8"))
        if manifest["weights"] != file_hash(store / WEIGHTS):
            return None
        network = Segmenter(len(manifest["classes"])).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        network.load_state_dict(load_file(store / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError):
        return None
    return network.eval(), manifest


def write_segmenter(store: Path, network: Segmenter, about: Mapping[str, Any]) -> None:
    """Keep a network; ``about`` has its ``classes``. The manifest is written last, with the hash of the weights.

    Raises:
        OSError: the store cannot be written.
    """
    store.mkdir(parents=True, exist_ok=True)
    with replaced_file(store / WEIGHTS) as weights:
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, weights)
        content = {**about, "weights": file_hash(weights)}
    write_whole(json.dumps(content, indent=1) + "\n", store / MANIFEST)
