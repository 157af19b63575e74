"""How many weights a method trains and a checkpoint holds: before a base model is loaded, and of what trains."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from mamoe.config.train import Train
from mamoe.machine.skeleton import without_memory
from mamoe.methods.options import OPTIONS, Target
from mamoe.methods.registry import method_of
from mamoe.models.backbones import backbone_named
from mamoe.models.control.call import with_layout
from mamoe.prepare.doctor.needs import Weights, checkpoint_needs, machine_notes
from mamoe.training.step.module import DiffusionModule


def weights_of(config: Path, method: str, experts: int) -> Weights:
    """What a training with a method's usual options has, of a network without weights: nothing is loaded or computed.

    Args:
        config: of the network, a JSON.
        method: its name.
        experts: how many.

    Raises:
        ConfigError: the network is none that layouts can steer, or the method does not fit it.
    """
    kind = OPTIONS[method]
    known: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    backbone = backbone_named(known["_class_name"])
    # Of an adapter's layers those that there are: transformers have no convolutions.
    absent = {target.value: False for target in Target if target.value not in backbone.adapted}
    options = {key: value for key, value in absent.items() if key in {field.name for field in fields(kind)}}
    with without_memory():
        network: Any = backbone.stock.from_config(known)
        network = with_layout(network, num_experts=experts, region_attention=True, copies=not kind.replaces_experts)
        network = method_of({"name": method, **options}).prepare(network, seed=0)
    return _counted(network, method, experts, adapter_alone=kind.keeps_adapter_alone)


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
