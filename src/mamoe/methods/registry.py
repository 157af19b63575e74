"""Methods by the names they have in configurations and recipes. A new one: a file beside this, its class here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mamoe.errors import ConfigError
from mamoe.methods.concat import Concat
from mamoe.methods.controlnet_xs import ControlNetXS
from mamoe.methods.decoder import Decoder
from mamoe.methods.dora import Dora
from mamoe.methods.full import Full
from mamoe.methods.lora import Lora
from mamoe.methods.lora_experts import LoraExperts
from mamoe.methods.method import Method
from mamoe.methods.shared_expert import SharedExpert

METHODS: dict[str, Any] = {
    kind.name: kind for kind in (Full, Decoder, Lora, Dora, LoraExperts, SharedExpert, ControlNetXS, Concat)
}


def method_of(spec: Mapping[str, Any]) -> Method:
    """The method that ``{"name": ..., its options}`` stands for, as configurations and recipes write it.

    Raises:
        ConfigError: there is no such method.
    """
    kind = METHODS.get(spec["name"])
    if kind is None:
        raise ConfigError(f"There is no method {spec['name']!r}; there are {', '.join(METHODS)}.")
    return kind(**{option.name: spec[option.name] for option in fields(kind) if option.name in spec})
