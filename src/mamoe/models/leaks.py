"""How far a region's text reaches: the test that every backbone has to pass before a layout means anything to it.

Blocks mix cells in self-attention and convolutions, so the whole picture follows every prompt in the end. What a layout
promises is about the way in: text enters at the cells that may attend it, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mamoe.models.blocks.block import LayoutBlock
from mamoe.models.blocks.conversion import layout_blocks
from mamoe.vocabulary.conditioning import LevelConditioning


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """What one cross-attention layer made of another text of one region."""

    layer: str  # its name in the network
    inside: float  # the largest change of a cell that may attend the region's tokens
    outside: float  # of one that may not; 0.0 where the layout holds
    gradient: float  # the largest gradient that such cells send to the region's tokens; 0.0 where the layout holds


def leaks_of(
    network: nn.Module,
    call: Callable[[], Any],
    levels: tuple[LevelConditioning, ...],
    tokens: Bool[Tensor, "S"],
) -> list[Leak]:
    """Every cross-attention of a network, asked again with another text for some tokens while ``call`` runs it.

    The layer is asked with the cells it has at that moment, so that what earlier layers mixed does not count.

    Args:
        network: whose blocks know regions.
        call: runs the network on a layout, once.
        levels: that layout; boolean masks.
        tokens: True = of the region whose text is another one.
    """
    calls: list[_Call] = []
    names = {module: name for name, module in network.named_modules()}
    hooks = [_watched(names[block], block, levels, tokens, calls) for block in layout_blocks(network)]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return [_asked_again(one, tokens) for one in calls]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Call:
    """What a cross-attention layer was asked, and what it answered."""

    name: str
    layer: Attention
    may: Bool[Tensor, "B N"]  # which cells may attend the region's tokens
    cells: Float[Tensor, "B N C"]
    told: dict[str, Any]
    out: Float[Tensor, "B N C"]


def _watched(
    name: str, block: LayoutBlock, levels: tuple[LevelConditioning, ...], tokens: Bool[Tensor, "S"], calls: list[_Call]
) -> Any:
    attend = levels[block.level].attend
    assert attend is not None and attend.dtype == torch.bool, "there is nothing to hold to"
    may = attend[:, :, tokens].any(2)

    def note(layer: Any, args: tuple[Tensor, ...], told: dict[str, Any], out: Tensor) -> None:
        one = _Call(name=f"{name}.attn2", layer=layer, may=may, cells=args[0].detach(), told=told, out=out.detach())
        calls.append(one)

    return block.attn2.register_forward_hook(note, with_kwargs=True)


def _asked_again(one: _Call, tokens: Bool[Tensor, "S"]) -> Leak:
    text = one.told["encoder_hidden_states"].detach()
    other = torch.where(tokens[:, None], text.flip(1) + 1, text).requires_grad_()
    with torch.enable_grad():
        again = one.layer(one.cells, **{**one.told, "encoder_hidden_states": other})
        (gradient,) = torch.autograd.grad(again[~one.may].square().sum(), other)
    change = (again.detach() - one.out).abs().amax(2)
    return Leak(
        layer=one.name,
        inside=float(change[one.may].max()),
        outside=float(change[~one.may].max()),
        gradient=float(gradient[:, tokens].abs().max()),
    )
