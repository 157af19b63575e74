"""What all backbones do alike where a stock network becomes one that knows regions and experts, and where it is called.

Letters: see :mod:`mamoe.vocabulary`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.errors import ConfigError
from mamoe.models.blocks.block import LayoutBlock
from mamoe.models.blocks.held import lets_go
from mamoe.models.blocks.strength import RegionStrength
from mamoe.models.experts.moe import MoEFeedForward, RoutedFeedForward
from mamoe.vocabulary.conditioning import LevelConditioning

Model = TypeVar("Model", bound=nn.Module)


def layout_blocks(network: nn.Module) -> list[LayoutBlock]:
    """The blocks of a network that know regions and experts."""
    return [module for module in network.modules() if isinstance(module, LayoutBlock)]


def levels_with_experts(network: nn.Module) -> tuple[int, ...]:
    """The levels of a network whose blocks have more than one expert."""
    blocks = layout_blocks(network)
    return tuple(sorted({b.level for b in blocks if any(isinstance(m, RoutedFeedForward) for m in b.children())}))


def initial_state(model: nn.Module, stock: nn.Module, *, shared_expert: bool, copies: bool) -> dict[str, Tensor]:
    """The weights of ``model``, a skeleton, that make it compute what ``stock`` does; those ``stock`` has are kept."""
    own = stock.state_dict()
    experts = {
        f"{name}.experts.{i}.{key}": torch.zeros_like(own[f"{name}.{key}"])
        if shared_expert and key.startswith("net.2.")
        else own[f"{name}.{key}"]
        for name, layer in model.named_modules()
        if copies and isinstance(layer, MoEFeedForward)
        for i, expert in layer.experts.items()
        for key in expert.state_dict()
    }
    like = next(stock.parameters())
    strengths = {
        f"{name}.weight": like.new_zeros(layer.weight.shape)
        for name, layer in model.named_modules()
        if isinstance(layer, RegionStrength)
    }
    return {**experts, **strengths, **own}


def filled(model: Model, stock: nn.Module, state: Mapping[str, Tensor], *, whole: bool = True) -> Model:
    """``model``, a skeleton without memory, with copies of ``state``, and of what ``stock`` holds and never saves."""
    # The skeleton takes these tensors, and with them their type and device, as its own.
    found = model.load_state_dict({key: value.clone() for key, value in state.items()}, strict=whole, assign=True)
    assert not found.unexpected_keys and all(".experts." in key for key in found.missing_keys)
    unsaved = dict(stock.named_buffers())
    for name, buffer in model.named_buffers():
        if name not in state:
            place, _, last = name.rpartition(".")
            setattr(model.get_submodule(place), last, unsaved.get(name, buffer).clone())
    for name, module in model.named_modules():  # tables of angles, which are no buffers where they are complex
        for key in [key for key, value in vars(module).items() if isinstance(value, Tensor) and value.is_meta]:
            setattr(module, key, getattr(stock.get_submodule(name), key))
    return model.train(stock.training)


def check_whole(folder: Any, config: Mapping[str, Any], missing: Sequence[str], convert: str) -> None:
    """Refuse a folder that lacks what was asked for; ``convert`` says how to make it of a stock network.

    Raises:
        ConfigError: experts or a learned strength are asked for that the folder does not hold.
    """
    if any(".experts." in key for key in missing):
        raise ConfigError(
            f"{folder} does not hold {config['num_experts']} experts on the levels asked for. Read it with "
            f"the values it was saved with, or read the stock network and convert it: {convert}(…, num_experts=…)."
        )
    if any(".strength." in key for key in missing):
        raise ConfigError(
            f"{folder} does not hold a learned strength of region attention. Read it without learned_strength, or "
            f"read the stock network and convert it: {convert}(…, learned_strength=True)."
        )


def option_problems(num_experts: int, region_attention: bool, learned_strength: bool, shared: bool) -> list[str]:
    """Why a network cannot be made with these options; empty where it can."""
    problems = []
    if num_experts < 1 + shared:
        why = ": beside a shared expert there is one for each class group but the rest" if shared else ""
        problems.append(f"num_experts must be at least {1 + shared}{why}, got {num_experts}")
    if learned_strength and not region_attention:
        problems.append("learned_strength needs region_attention: without it there is nothing whose strength to learn")
    return problems


def check_nothing_is_dropped(
    stock: Any,
    num_experts: int,
    learned_strength: bool,
    shared_expert: bool,
    region_blocks: Sequence[int] | None,
    more: Sequence[str] = (),
) -> None:
    """Refuse to convert a network that learned what the result would have no place for; ``more``: other reasons.

    Raises:
        ConfigError: all that would be lost.
    """
    has, problems = levels_with_experts(stock), list(more)
    if has and num_experts != stock.config["num_experts"]:
        problems.insert(0, f"it has {stock.config['num_experts']} experts, {num_experts} are asked for")
    if has and shared_expert != stock.config["shared_expert"]:
        problems.append("its experts stand for a shared one or beside it, and the other is asked for")
    if stock.config.get("learned_strength") and not learned_strength:
        problems.append("it has learned the strength of region attention, which is not asked for")
    elif stock.config.get("learned_strength") and lets_go(stock.config.get("region_blocks"), region_blocks):
        problems.append("it has learned the strength of region attention in blocks that region_blocks does not name")
    if problems:
        raise ConfigError(
            f"Nothing that this network learned may be dropped: {'; '.join(problems)}. Ask for what it has, or start "
            "from its dense part: to_dense()."
        )


def check_levels(
    levels: Sequence[LevelConditioning],
    grids: Sequence[tuple[int, int]],
    text: Float[Tensor, "B S D"],
    config: Mapping[str, Any],
    *,
    padding_mask: bool,
) -> None:
    """Refuse a layout that does not fit a call; ``grids`` are the cells (h, w) of the network's levels.

    Raises:
        ValueError: levels, masks or routings are not those of this network; or there is a padding mask as well.
    """
    if len(levels) != len(grids):
        raise ValueError(f"The layout must have this network's {len(grids)} levels, got {len(levels)}.")
    problems = [
        problem
        for i, (level, grid) in enumerate(zip(levels, grids, strict=True))
        for problem in _level_problems(f"level {i}", level, grid, text.shape[0], text.shape[1], config)
    ]
    if problems:
        raise ValueError("The layout does not fit this call: " + "; ".join(problems) + ".")
    if padding_mask:
        raise ValueError("Give either regions or encoder_attention_mask: a region mask leaves padding out too.")


def noise_level_of(timestep: Tensor | float | int, sample: Float[Tensor, "B c h w"]) -> Float[Tensor, "B"]:
    """The timestep of every image, f32, where ``timestep`` may be one for all."""
    return torch.as_tensor(timestep, dtype=torch.float32, device=sample.device).expand(sample.shape[0])


def put_back_processors(network: nn.Module) -> None:
    """Let a network's attention layers compute as they were made to, where something else took their place."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.set_attention_slice(None)  # type: ignore[arg-type] - which is the stock default
    for block in layout_blocks(network):
        if block.region_attention:
            block.take_own_processor()


def _level_problems(
    name: str, level: LevelConditioning, grid: tuple[int, int], batch: int, tokens: int, config: Mapping[str, Any]
) -> list[str]:
    problems = []
    if tuple(level.grid) != grid:
        problems.append(f"{name} must have {grid} cells (h, w), got {tuple(level.grid)}")
    wanted, attend = (batch, grid[0] * grid[1], tokens), level.attend
    if attend is not None and tuple(attend.shape) != wanted:
        problems.append(f"{name} must have a mask [B N S] of {wanted}, got {tuple(attend.shape)}")
    takes_weights = config["region_attention"] and not config["learned_strength"]
    if attend is not None and attend.dtype != torch.bool and not takes_weights:
        problems.append(
            f"{name} must have a boolean mask, got log weights ({attend.dtype}): this network "
            + ("learns the strength itself" if config["learned_strength"] else "has no region attention")
        )
    if level.routing is not None and level.routing.offsets.shape[0] != config["num_experts"]:
        got = level.routing.offsets.shape[0]
        problems.append(f"{name} must be routed to the network's {config['num_experts']} experts, got {got}")
    return problems
