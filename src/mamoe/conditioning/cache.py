"""Encoded prompts on disk, read by memory mapping.

``<folder>/<encoder id>/<unique>.safetensors`` are shards of tensors [T D], each named by a hash of (prompt, padded).
The shards' headers are the index. Every writer writes shards of its own under a temporary name and renames them, so
any number of processes may share a folder; at worst two encode the same prompt.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAMPLED = 256  # values of each weight tensor that enter the fingerprint
_ARCHITECTURE = ("model_type", "num_attention_heads", "hidden_act", "layer_norm_eps")  # what no weight's shape tells


class EmbeddingCache:
    """Embeddings of one text encoder, by (prompt, padded).

    Args:
        folder: where caches of all encoders live; made if need be.
        encoder_id: tells encoders apart, see :func:`fingerprint`.
    """

    def __init__(self, folder: str | Path, encoder_id: str) -> None:
        self.folder = Path(folder) / encoder_id
        self.folder.mkdir(parents=True, exist_ok=True)
        self._shard_of: dict[str, safe_open] = {}  # name of a tensor -> the open shard it is in
        for path in sorted(self.folder.glob("*.safetensors")):
            self._index(path)

    def __len__(self) -> int:
        return len(self._shard_of)

    def get(self, prompt: str, padded: bool) -> Float[Tensor, "T D"] | None:
        """The embedding on the CPU, in the type it was added in, mapped from disk: do not write to it."""
        name = _name(prompt, padded)
        shard = self._shard_of.get(name)
        return None if shard is None else shard.get_tensor(name)

    def add(self, embeds: Mapping[str, Float[Tensor, "_ D"]], padded: bool) -> None:
        """Write the embeddings of some prompts as one new shard."""
        tensors = {_name(prompt, padded): e.detach().cpu().contiguous().clone() for prompt, e in embeds.items()}
        path = self.folder / f"{uuid.uuid4().hex}.safetensors"
        temporary = path.with_suffix(".tmp")
        try:
            save_file(tensors, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        self._index(path)

    def _index(self, path: Path) -> None:
        try:
            shard = safe_open(path, framework="pt")
        except SafetensorError as error:
            warnings.warn(f"{path} is damaged and left out; its prompts are encoded anew ({error}).", stacklevel=3)
            return
        for name in shard.keys():
            self._shard_of.setdefault(name, shard)


def fingerprint(text_encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """A short name for what decides an embedding: architecture, weights (a sample of each tensor) and tokenizer."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(json.dumps([getattr(text_encoder.config, key, None) for key in _ARCHITECTURE]).encode())
    words = [tokenizer.model_max_length, tokenizer.special_tokens_map, sorted(tokenizer.get_vocab().items())]
    digest.update(json.dumps(words, sort_keys=True, default=str).encode())
    for name, weight in text_encoder.state_dict().items():
        values = weight.flatten()
        sample = values[:: max(1, len(values) // _SAMPLED)].cpu()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} ".encode())
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _name(prompt: str, padded: bool) -> str:
    return hashlib.blake2b(f"{int(padded)}{prompt}".encode(), digest_size=16).hexdigest()
