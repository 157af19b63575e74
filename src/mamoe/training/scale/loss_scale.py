"""float16 with a loss scale that follows the gradients' range (Micikevicius et al. 2018, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from torch.optim import Optimizer

MIXED_16 = "16-mixed"
FIRST_SCALE = 2.0**16


class ScaledPrecision(MixedPrecision):
    """Lightning's ``16-mixed`` on any device and with every optimizer, fused ones too.

    Gradients are always brought back to their size before they are looked at and clipped; Lightning leaves those of
    fused optimizers scaled. A step whose gradients overflowed is left out and the scale halved.
    """

    def __init__(self, device: str, first_scale: float = FIRST_SCALE) -> None:
        super().__init__(MIXED_16, device, torch.amp.GradScaler(device, init_scale=first_scale))

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Optimizer, model: LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        assert self.scaler is not None
        closure()
        self.scaler.unscale_(optimizer)
        self._after_closure(model, optimizer)
        result = self.scaler.step(optimizer, **kwargs)
        self.scaler.update()
        return result


def with_scaling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's settings, with our scaling in the place of Lightning's."""
    if settings.get("precision") != MIXED_16:
        return dict(settings)
    on_gpu = torch.cuda.is_available() and settings.get("accelerator", "auto") in ("auto", "gpu", "cuda")
    others = {name: value for name, value in settings.items() if name != "precision"}
    return {**others, "plugins": [ScaledPrecision("cuda" if on_gpu else "cpu")]}
