"""How many weights a method trains and a checkpoint holds: before a base model is loaded, and of what trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from mamoe.config.train import Train
from mamoe.methods.options import OPTIONS
from mamoe.methods.registry import method_of
from mamoe.models.control.call import with_layout
from mamoe.prepare.doctor.needs import Weights, checkpoint_needs, machine_notes
from mamoe.training.step.module import DiffusionModule


def weights_of(config: Path, method: str, experts: int) -> Weights:
    """What a training with a method's usual options has, of a UNet without weights: nothing is loaded or computed.

    Args:
        config: of the UNet, a JSON.
        method: its name.
        experts: how many.
    """
    kind = OPTIONS[method]
    known: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(known)
        unet = with_layout(unet, num_experts=experts, region_attention=True, copies=not kind.replaces_experts)
        unet = method_of({"name": method}).prepare(unet, seed=0)
    return _counted(unet, method, experts, adapter_alone=kind.keeps_adapter_alone)


def disk_notes(config: Train, module: DiffusionModule, experts: int, run: Path) -> list[str]:
    """What the machine lacks for the checkpoints of a training, and for its data workers."""
    keeping = config.callbacks.checkpoints
    need = checkpoint_needs(
        _counted(module.unet, config.method.name, experts, adapter_alone=module.adapter_alone),
        average=config.ema_decay is not None,
        kept=keeping.keep_last + (keeping.best is not None),
        resumable=keeping.full,
    )
    return machine_notes([need], run, "runs, or keep less: callbacks.checkpoints.keep_last, callbacks.checkpoints.full")


def _counted(unet: nn.Module, method: str, experts: int, *, adapter_alone: bool) -> Weights:
    trained = sum(weight.numel() for weight in unet.parameters() if weight.requires_grad)
    whole = sum(weight.numel() for weight in unet.parameters())
    return Weights(method=method, experts=experts, stored=trained if adapter_alone else whole, trained=trained)
