"""What every kind of base model can be asked for, whatever it is stored as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from mamoe.diffusion.schedules import Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a UNet was trained to by this package; all None for any other model."""

    layout: Mapping[str, Any] | None = None  # as ``LayoutSettings.to_dict`` has it
    condition: str | None = None  # the kind of condition picture it was shown
    method: Mapping[str, Any] | None = None  # as recipes have it; None where it is merged and forgotten


class Parts(Protocol):
    """Reads the parts of one base model by their names in diffusers' layout."""

    def index(self) -> Mapping[str, Any]:
        """What ``model_index.json`` says."""
        ...

    def trained(self) -> Trained:
        """What this package made of the UNet before."""
        ...

    def unet(self, dtype: torch.dtype) -> Any:
        """The UNet as what it is: a stock one, one that knows regions and experts, one with a ControlNet-XS branch.

        Raises:
            ConfigError: the files hold weights that no such UNet has a place for, or lack some.
        """
        ...

    def network(self, kind: Any, part: str, dtype: torch.dtype) -> Any:
        """Another network, of class ``kind``, its weights in ``dtype``."""
        ...

    def tokenizer(self, part: str) -> Any: ...

    def scheduler(self) -> Schedule: ...
