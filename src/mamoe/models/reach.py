"""How far text reaches in a network: compared with the stock one, and asked again with another text.

stock or trained network --measured--> Reach
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mamoe.models.backbones import backbone_of
from mamoe.models.blocks.conversion import levels_with_experts
from mamoe.models.control.call import Control, control_of, predict, with_layout
from mamoe.models.halves import TIMESTEP, Halves
from mamoe.models.leaks import Leak, leaks_of

_ROUNDING = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of the largest number of a prediction
_DEAF = 1e-5
_NAMED = 8  # layers that leak


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer that reads text, asked again with another prompt of the right half; changes are the largest of a cell."""

    name: str
    held: bool  # whether regions are to hold in its block (layout.blocks)
    right: float  # of cells that may read it
    left: float  # of cells that may not
    gradient: float  # the largest that those cells send to the prompt
    open_left: float  # of these cells where no layout is given: what a leak would look like


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """What was measured of a network."""

    network: str  # its class
    weights: int
    dtype: torch.dtype
    cells: tuple[int, int]  # (h, w) of the latent
    identity: float  # the largest change that regions which cover everything make, over the largest prediction
    layers: tuple[Layer, ...]
    whole: Mapping[str, float]  # likewise, of another prompt: of the left and right half, with a layout and without
    allowed: str | None  # why text may reach everywhere; None: it may not

    @property
    def problems(self) -> list[str]:
        """What is wrong; empty: layouts mean what they say to this network."""
        of_layers = [n for one in self.layers for n in (one.right, one.left, one.gradient, one.open_left)]
        if not all(map(math.isfinite, [self.identity, *self.whole.values(), *of_layers])):
            return [f"it does not compute in {self.dtype}: numbers are not finite; try another precision"]
        found = []
        if self.identity > _ROUNDING[self.dtype]:
            found.append(
                f"regions that cover everything change its prediction by {self.identity:.1e} of the largest number, "
                f"and rounding explains {_ROUNDING[self.dtype]:.0e}"
            )
        held = [one for one in self.layers if one.held]
        leaking = [one.name for one in held if one.left or one.gradient]
        if leaking and self.allowed is None:
            names = ", ".join(leaking[:_NAMED]) + (" …" if len(leaking) > _NAMED else "")
            found.append(f"{len(leaking)} of {len(held)} layers let a region's text out of it: {names}")
        if self.whole["open_right"] < _DEAF:
            found.append("text does not change its prediction, so that nothing was tested")
        return found

    def plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {**asdict(self), "dtype": str(self.dtype).removeprefix("torch."), "problems": self.problems}


def measured(network: Any, cells: tuple[int, int]) -> Reach:
    """Measure a network of a known family, stock or one that knows regions and experts; it stays as it is.

    Args:
        network: in evaluation mode, its weights frozen.
        cells: (h, w) of the latent, at least two on the coarsest level.
    """
    backbone = backbone_of(network)
    known = isinstance(network, backbone.ours)
    plain = Halves.for_network(network, cells)
    stock = network.to_dense() if known else network
    wanted = _prediction(stock, plain, layout=False)
    del stock
    ours = network if known else with_layout(network, num_experts=2).eval().requires_grad_(False)
    halves = Halves.for_network(ours, cells, experts=ours.config["num_experts"] if levels_with_experts(ours) else 1)
    # Without a layout ours is the stock network of its first expert; new experts are copies, with a layout too.
    got = _prediction(ours, halves, layout=not known, masked=False)
    return Reach(
        network=type(network).__name__,
        weights=sum(weight.numel() for weight in network.parameters()),
        dtype=network.dtype,
        cells=cells,
        identity=_largest(got - wanted) / _largest(wanted),
        layers=_layers(ours, halves),
        whole=_whole(ours, halves, _largest(wanted)),
        allowed=_allowed(ours),
    )


def _layers(network: Any, halves: Halves) -> tuple[Layer, ...]:
    held, loose = (
        leaks_of(network, lambda m=masked: _prediction(network, halves, masked=m), halves.levels(), halves.right_tokens)
        for masked in (True, False)
    )
    return tuple(_layer(one, other) for one, other in zip(held, loose, strict=True))


def _layer(held: Leak, loose: Leak) -> Layer:
    return Layer(
        name=held.layer,
        held=held.held,
        right=held.inside,
        left=held.outside,
        gradient=held.gradient,
        open_left=loose.outside,
    )


def _whole(network: Any, halves: Halves, unit: float) -> dict[str, float]:
    right = halves.is_right((halves.noisy.shape[2], halves.noisy.shape[3]))
    found = {}
    for prefix, masked in (("", True), ("open_", False)):
        one, two = (_prediction(network, halves, masked=masked, other=other) for other in (False, True))
        change = (two - one).flatten(2)
        for side, where in (("left", ~right), ("right", right)):
            found[prefix + side] = _largest(change[..., where]) / unit
    return found


@torch.no_grad()
def _prediction(network: Any, halves: Halves, **said: bool) -> Tensor:
    control = torch.zeros_like(halves.noisy) if control_of(network) is Control.LATENT else None
    return predict(network, halves.noisy, TIMESTEP, halves.inputs(**said), control).float()


def _largest(numbers: Tensor) -> float:
    return float(numbers.abs().max())


def _allowed(network: Any) -> str | None:
    if not network.config["region_attention"]:
        return "it was trained without region attention (layout.region_attention=false)"
    if network.config.get("learned_strength"):
        return "its heads have learned how strongly regions bind them (regions.strength=learned)"
    return None
