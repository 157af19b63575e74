"""Methods by the names they have in configurations and recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mamoe.errors import ConfigError
from mamoe.methods.concat import Concat
from mamoe.methods.controlnet_xs import ControlNetXS
from mamoe.methods.experts import LoraExperts, SharedExpert
from mamoe.methods.full import Decoder, Full
from mamoe.methods.lora import Lora, Target
from mamoe.methods.method import Method


def _lora(options: Mapping[str, Any], *, dora: bool) -> Lora:
    targets = tuple(target for target in Target if options[target.value])
    plain = {key: options[key] for key in ("rank", "alpha", "decoder_only")}
    return Lora(targets=targets, dora=dora, **plain)


_METHODS: dict[str, Callable[[Mapping[str, Any]], Method]] = {
    "full": lambda options: Full(),
    "decoder": lambda options: Decoder(),
    "lora": lambda options: _lora(options, dora=False),
    "dora": lambda options: _lora(options, dora=True),
    "lora_experts": lambda options: LoraExperts(rank=options["rank"], alpha=options["alpha"]),
    "shared_expert": lambda options: SharedExpert(),
    "controlnet_xs": lambda options: ControlNetXS(widths=options["widths"], train_base=options["train_base"]),
    "concat": lambda options: Concat(),
}


def method_of(spec: Mapping[str, Any]) -> Method:
    """The method that ``{"name": ..., its options}`` stands for, as configurations and recipes write it.

    Raises:
        ConfigError: there is no such method.
    """
    make = _METHODS.get(spec["name"])
    if make is None:
        raise ConfigError(f"There is no method {spec['name']!r}; there are {', '.join(_METHODS)}.")
    return make(spec)
