"""Calls of small transformers in which text attends too: two latents of 6x8 cells, prompts of three tokens each."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import torch
from torch import Tensor

from mamoe.methods.lora import Lora
from mamoe.methods.options import Target
from mamoe.models.backbones import backbone_of
from mamoe.models.control.call import predict
from mamoe.vocabulary.conditioning import LevelConditioning
from small_models import POOLED_WIDTH, TEXT_WIDTH, random_levels

SIZE, GRID, TOKENS = (6, 8), (3, 4), 9  # latent cells; patches; tokens: 3 of the whole picture, 3 of each region
REGION = (torch.arange(TOKENS) // 3).repeat(2, 1)


def noisy() -> Tensor:
    return torch.randn((2, 4, *SIZE), generator=torch.Generator().manual_seed(1))


def text() -> Tensor:
    return torch.randn((2, TOKENS, TEXT_WIDTH), generator=torch.Generator().manual_seed(2))


def said(network: Any) -> dict[str, Any]:
    """Text, and the prompt as one vector where the network is told one."""
    inputs: dict[str, Any] = {"encoder_hidden_states": text()}
    if backbone_of(network).pooled_width(network.config):
        pooled = torch.randn((2, POOLED_WIDTH), generator=torch.Generator().manual_seed(3))
        inputs["added_cond_kwargs"] = {"text_embeds": pooled}
    return inputs


def layout(*, one_prompt: bool = False) -> tuple[LevelConditioning, ...]:
    """Random regions and experts; with ``one_prompt`` all text is of the whole picture."""
    (level,) = random_levels(2, GRID, 3, num_levels=1)
    attend = level.attend.repeat_interleave(3, dim=2)
    if one_prompt:
        return (dataclasses.replace(level, attend=torch.ones_like(attend), region=torch.zeros_like(REGION)),)
    return (dataclasses.replace(level, attend=attend, region=REGION),)


def run(
    network: Any, levels: tuple[LevelConditioning, ...] | None = None, *, guidance: float = 1.0, **inputs: Any
) -> Tensor:
    """A prediction; ``inputs`` take the place of those of :func:`said`."""
    told = {} if levels is None else {"cross_attention_kwargs": {"regions": levels}}
    inputs = {**said(network), **told, **inputs}
    return predict(network, noisy(), torch.tensor([300.0, 700.0]), inputs, guidance=guidance)


def difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def adapted(network: Any, target: Target) -> list[str]:
    """The layers that adapters of one kind lie beside."""
    expression = Lora(rank=2, **{other: other == target for other in Target}).layers(network)
    return [name for name, _ in network.named_modules() if re.fullmatch(expression, name)]
