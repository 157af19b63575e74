"""How far a region's text reaches: the test that every backbone has to pass before a layout means anything to it.

Blocks mix cells in self-attention and convolutions, so the whole picture follows every prompt in the end. What a layout
promises is about the way in: text enters at the cells that may attend it, and nowhere else. Where text attends too, the
prompts of other regions are nowhere as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mamoe.models.blocks.block import LayoutBlock
from mamoe.models.blocks.conversion import layout_blocks
from mamoe.models.joint.mask import joint_mask
from mamoe.models.joint.place import ExpertPlace
from mamoe.vocabulary.conditioning import LevelConditioning


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """What one attention layer that reads text made of another text of one region."""

    layer: str  # its name in the network
    held: bool  # whether regions are to hold in its block
    inside: float  # the largest change of a cell (or token) that may attend the region's tokens
    outside: float  # of one that may not; 0.0 where it is held
    gradient: float  # the largest gradient that such cells send to the region's tokens; 0.0 where it is held


def leaks_of(
    network: nn.Module,
    call: Callable[[], Any],
    levels: tuple[LevelConditioning, ...],
    tokens: Bool[Tensor, "S"],
) -> list[Leak]:
    """Every layer of a network that reads text, asked again with another text for some tokens while ``call`` runs it.

    The layer is asked with the cells it has at that moment, so that what earlier layers mixed does not count.

    Args:
        network: whose blocks know regions.
        call: runs the network on a layout, once.
        levels: that layout; boolean masks.
        tokens: True = of the region whose text is another one.
    """
    calls: list[_Call] = []
    names = {module: name for name, module in network.named_modules()}
    hooks = [_watched(f"{names[one]}.attn2", one, levels, tokens, calls) for one in layout_blocks(network)]
    joint = [module for module in names if isinstance(module, ExpertPlace)]
    hooks += [_watched_joint(f"{names[one]}.{one.attention_name}", one, levels, tokens, calls) for one in joint]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return [_asked_again(one, tokens) for one in calls]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Call:
    """What a layer was asked, and what it answered; M: its cells, or its tokens and cells."""

    layer: str
    held: bool
    ask: Callable[[Float[Tensor, "B S D"]], Float[Tensor, "B M C"]]  # again, with another text
    may: Bool[Tensor, "B M"]  # who may attend the region's tokens
    text: Float[Tensor, "B S D"]
    out: Float[Tensor, "B M C"]


def _watched(
    name: str, block: LayoutBlock, levels: tuple[LevelConditioning, ...], tokens: Bool[Tensor, "S"], calls: list[_Call]
) -> Any:
    attend = levels[block.level].attend
    assert attend is not None and attend.dtype == torch.bool, "there is nothing to hold to"
    may = attend[:, :, tokens].any(2)

    def note(layer: Any, args: tuple[Tensor, ...], told: dict[str, Any], out: Tensor) -> None:
        cells = args[0].detach()

        def ask(text: Tensor) -> Tensor:
            return layer(cells, **{**told, "encoder_hidden_states": text})

        text = told["encoder_hidden_states"].detach()
        calls.append(_Call(layer=name, held=block.region_attention, ask=ask, may=may, text=text, out=out.detach()))

    return block.attn2.register_forward_hook(note, with_kwargs=True)


def _watched_joint(
    name: str, block: ExpertPlace, levels: tuple[LevelConditioning, ...], tokens: Bool[Tensor, "S"], calls: list[_Call]
) -> Any:
    (level,) = levels
    assert level.attend is not None and level.region is not None, "there is nothing to hold to"
    may = joint_mask(level.attend, level.region)[:, 0, :, : len(tokens)][:, :, tokens].any(2)

    def note(layer: Any, args: tuple[Tensor, ...], told: dict[str, Any], out: Any) -> None:
        cells, text = told["hidden_states"].detach(), told.get("encoder_hidden_states")
        double = text is not None  # its weights of the text are others than those of the picture
        if not double:
            text, cells = cells[:, : len(tokens)], cells[:, len(tokens) :]
        filled = cells.shape[1] - level.grid[0] * level.grid[1]  # between text and cells, of no region
        allowed = torch.cat([may[:, : len(tokens)], may.new_zeros(len(may), filled), may[:, len(tokens) :]], dim=1)

        def ask(words: Tensor) -> Tensor:
            if not double:
                return layer(**{**told, "hidden_states": torch.cat([words, cells], 1)})
            return _joined(layer(**{**told, "hidden_states": cells, "encoder_hidden_states": words}))

        given = (_joined(out) if double else out).detach()
        calls.append(
            _Call(layer=name, held=block.region_attention, ask=ask, may=allowed, text=text.detach(), out=given)
        )

    attention: Any = block.get_submodule(block.attention_name)
    return attention.register_forward_hook(note, with_kwargs=True)


def _joined(out: tuple[Tensor, Tensor]) -> Tensor:
    """Of a layer with two streams what it gave text and cells, in this order."""
    return torch.cat([out[1], out[0]], dim=1)


def _asked_again(one: _Call, tokens: Bool[Tensor, "S"]) -> Leak:
    other = torch.where(tokens[:, None], one.text.flip(1) + 1, one.text).requires_grad_()
    with torch.enable_grad():
        again = one.ask(other)
        (gradient,) = torch.autograd.grad(again[~one.may].square().sum(), other)
    change = (again.detach() - one.out).abs().amax(2)
    return Leak(
        layer=one.layer,
        held=one.held,
        inside=float(change[one.may].max()),
        outside=float(change[~one.may].max()),
        gradient=float(gradient[:, tokens].abs().max()),
    )
