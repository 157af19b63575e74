"""A trained LoRA in the files that other programs read.

diffusers   <unet or transformer>.<layer>.lora_A.weight, .lora_B.weight [, .lora_magnitude_vector]
kohya       lora_unet_<layer, dots as underscores>.lora_down.weight, .lora_up.weight, .alpha
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from torch import Tensor, tensor

_OUR_NAME = ".default"  # peft's name for the only adapter
_UNET = "unet"


class LoraFile(StrEnum):
    """Formats of LoRA files."""

    DIFFUSERS = "diffusers-lora"  # load_lora_weights
    KOHYA = "kohya"  # AUTOMATIC1111, ComfyUI, SD.Next, ...

    @property
    def file_name(self) -> str:
        """What readers look for, where they are given a folder."""
        return "pytorch_lora_weights.safetensors" if self is LoraFile.DIFFUSERS else "kohya_lora.safetensors"


def lora_problems(state: Mapping[str, Tensor], form: LoraFile, prefix: str | None = _UNET) -> list[str]:
    """Why the trained weights of a network, by their names in it, have no place in such a file; empty where they do.

    ``prefix`` is what diffusers puts before the names of such a network's layers; None: it reads no files for it.
    """
    experts = [name for name in state if ".experts." in name]
    sizes = [name for name in state if ".lora_magnitude_vector." in name]
    others = [name for name in state if ".lora_" not in name and ".experts." not in name]
    problems: list[str] = []
    if prefix is None and (first := next(iter(state), None)) is not None:
        problems.append(f"diffusers reads no such files into a transformer of this kind (first weight {first!r})")
    elif prefix != _UNET and form is LoraFile.KOHYA:
        problems.append(
            f"kohya's format names the layers of a transformer by those of its first publication; take "
            f"{LoraFile.DIFFUSERS}, which the same programs read"
        )
    if experts:
        problems.append(f"{len(experts)} weights belong to experts, and stock models have none (first {experts[0]!r})")
    if others:
        problems.append(f"{len(others)} weights are trained themselves, not by an adapter (first {others[0]!r})")
    if form is LoraFile.KOHYA and sizes:
        problems.append(
            f"DoRA's sizes of the weights have no agreed place in kohya's format; take {LoraFile.DIFFUSERS}"
        )
    return problems


def lora_state(
    state: Mapping[str, Tensor], form: LoraFile, *, rank: int, alpha: float, prefix: str = _UNET
) -> dict[str, Tensor]:
    """The tensors of a LoRA file.

    diffusers takes alpha = rank where a file does not say: there alpha / rank is multiplied into B.

    Args:
        state: adapters as they are named in the UNet, without :func:`lora_problems`.
        form: of the file.
        rank: of the adapters.
        alpha: their output is scaled by alpha / rank.
        prefix: see :func:`lora_problems`.
    """
    plain = {name.replace(_OUR_NAME, ""): value for name, value in state.items()}
    if form is LoraFile.DIFFUSERS:
        return {f"{prefix}.{name}": _scaled(name, value, alpha / rank) for name, value in plain.items()}
    parts = {".lora_A": ".lora_down", ".lora_B": ".lora_up"}
    named: dict[str, Tensor] = {}
    for name, value in plain.items():
        for ours, theirs in parts.items():
            layer, found, rest = name.partition(ours)
            if found:
                key = f"lora_unet_{layer.replace('.', '_')}"
                named |= {f"{key}{theirs}{rest}": value, f"{key}.alpha": tensor(alpha)}
    return named


def _scaled(name: str, value: Tensor, scale: float) -> Tensor:
    return value * scale if ".lora_B" in name else value
