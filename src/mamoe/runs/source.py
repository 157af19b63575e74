"""Where a base model is, as the user says it; kept in every checkpoint's recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mamoe.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What the user says about a base model."""

    path: str  # folder in diffusers layout, hub id, ``package:<name>``, an original .safetensors file, or a run
    revision: str | None = None  # of the hub
    variant: str | None = None  # of the weights' files, e.g. "fp16"
    config: str | None = None  # of a single file: a known family, or a folder of JSON in diffusers layout
    tokenizer: str | None = None  # of a single file: a folder with CLIP's vocabulary, or a hub id
    vae: str | None = None  # another autoencoder than its own: a folder or hub id of one, or of a model that has one
    base: str | None = (
        None  # of a run: its base model's place, to which the others but vae then belong; None = as it says
    )

    def to_dict(self) -> dict[str, str | None]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Source:
        """The inverse of :meth:`to_dict`; what an earlier version did not know is None.

        Raises:
            ConfigError: the path is missing, or a key is unknown.
        """
        known = [field.name for field in fields(cls)]
        odd = [key for key in plain if key not in known]
        if odd or "path" not in plain:
            what = f"has unknown keys {', '.join(odd)}" if odd else "has no path"
            raise ConfigError(f"What it says of its base model {what}; known are {', '.join(known)}.")
        return cls(**plain)
