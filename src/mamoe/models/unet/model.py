"""The diffusers UNet whose transformer blocks know regions and experts.

    stock UNet --from_unet--> MaMoE UNet --to_dense--> stock UNet

A UNet of L blocks has L pyramid levels of ``ceil(size / 2)`` each: level i is down block i and up block L-1-i, the mid
block belongs to the coarsest. Every stock transformer block is replaced in its list by one that knows its level.
Letters: see :mod:`mamoe.vocabulary`.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Self, TypeVar, cast

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel, UNet2DConditionOutput
from jaxtyping import Float
from torch import Tensor, nn

from mamoe.errors import ConfigError
from mamoe.models.experts.moe import MoEFeedForward, RoutedFeedForward
from mamoe.models.unet.block import MaMoETransformerBlock
from mamoe.models.unet.norms import keep_format
from mamoe.models.unet.strength import RegionStrength
from mamoe.models.wrapped import unwrapped
from mamoe.vocabulary.conditioning import LevelConditioning, level_grids

Model = TypeVar("Model", bound=UNet2DConditionModel)

# Arguments a stock UNet does not have.
OWN_CONFIG = ("num_experts", "region_attention", "moe_levels", "learned_strength", "shared_expert")


class MaMoEUNet2DConditionModel(UNet2DConditionModel):
    """A ``UNet2DConditionModel`` with region-masked cross-attention and class-aware experts.

    Called like the stock one; the layout comes as ``cross_attention_kwargs={"regions": levels}`` with one
    ``LevelConditioning`` per level (``Conditioning.unet_inputs()`` makes both that and the text). Without it the model
    is the dense one of expert 0.

    Args:
        num_experts: E, experts of every feed-forward. 1 = dense.
        region_attention: whether a cell sees the text of its own regions only. False = it sees that of the whole image.
        moe_levels: levels that get experts, 0 = finest. None = all that have transformer blocks.
        learned_strength: whether every cross-attention head learns how strongly the regions bind it, as a function of
            the noise level; it starts at full strength.
        shared_expert: whether the pretrained feed-forward works on every cell and the experts of all groups but the
            rest add to it (:class:`~mamoe.models.experts.moe.SharedExpertFeedForward`).
        unet_config: the stock UNet's own arguments.

    Raises:
        ConfigError: a value is out of range, or the UNet has no transformer blocks of the usual kind, or none on a
            level that is to get experts.
    """

    _no_split_modules = ["MaMoETransformerBlock", "ResnetBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]  # noqa: RUF012
    _repeated_blocks = ["MaMoETransformerBlock"]  # noqa: RUF012

    def __init__(
        self,
        num_experts: int = 1,
        region_attention: bool = True,
        moe_levels: Sequence[int] | None = None,
        learned_strength: bool = False,
        shared_expert: bool = False,
        **unet_config: Any,
    ) -> None:
        super().__init__(**unet_config)
        num_levels = len(self.config["block_out_channels"])
        _check_config(num_experts, moe_levels, num_levels, region_attention or not learned_strength, shared_expert)
        with_experts = list(range(num_levels) if moe_levels is None else moe_levels)
        self.register_to_config(
            num_experts=num_experts,
            region_attention=region_attention,
            moe_levels=None if moe_levels is None else with_experts,
            learned_strength=learned_strength,
            shared_expert=shared_expert,
        )
        _check_moe_levels(moe_levels, {level for level, _ in _transformers(self)})
        for level, transformer in _transformers(self):
            transformer.transformer_blocks = nn.ModuleList(
                MaMoETransformerBlock(
                    cast(BasicTransformerBlock, block),
                    level=level,
                    num_experts=num_experts if level in with_experts else 1,
                    region_attention=region_attention,
                    learned_strength=learned_strength,
                    shared_expert=shared_expert,
                )
                for block in transformer.transformer_blocks
            )
        keep_format(self)

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        num_experts: int = 1,
        region_attention: bool = True,
        moe_levels: Sequence[int] | None = None,
        learned_strength: bool = False,
        shared_expert: bool = False,
        *,
        copies: bool = True,
    ) -> Self:
        """Convert a UNet, which stays as it is. Every expert starts as a copy of its feed-forward.

        Without ``copies`` experts that the UNet has not yet are left without memory (on torch's ``meta`` device), for
        whoever puts experts of another kind in their places.

        Beside a shared expert the output layers of the others start as zeros. Experts and strengths that the UNet has
        already are kept.

        Without a layout, or with one whose regions all cover everything, the result computes what ``unet`` computes.

        Raises:
            ConfigError: see the class; or the result has no place for experts or strengths that the UNet has.
        """
        unet = cast(UNet2DConditionModel, unwrapped(unet))
        _check_nothing_is_dropped(unet, num_experts, moe_levels, learned_strength, shared_expert)
        with torch.device("meta"):
            options = {"num_experts": num_experts, "region_attention": region_attention, "moe_levels": moe_levels}
            options |= {"learned_strength": learned_strength, "shared_expert": shared_expert}
            model = cast(Self, cls.from_config(unet.config, **options))
        own = unet.state_dict()
        experts = {
            f"{name}.experts.{i}.{key}": torch.zeros_like(own[f"{name}.{key}"])
            if shared_expert and key.startswith("net.2.")
            else own[f"{name}.{key}"]
            for name, layer in model.named_modules()
            if copies and isinstance(layer, MoEFeedForward)
            for i, expert in layer.experts.items()
            for key in expert.state_dict()
        }
        like = next(unet.parameters())
        strengths = {
            f"{name}.weight": like.new_zeros(layer.weight.shape)
            for name, layer in model.named_modules()
            if isinstance(layer, RegionStrength)
        }
        return _filled(model, {**experts, **strengths, **own}, training=unet.training, whole=copies)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, folder: str | PathLike[str], *, output_loading_info: bool = False, **options: Any
    ) -> Any:
        """Read what ``save_pretrained`` wrote; options and result as in diffusers.

        Raises:
            ConfigError: experts or a learned strength are asked for that the folder does not hold.
        """
        loaded: Any = super().from_pretrained(folder, output_loading_info=True, **options)
        model, info = loaded
        if any(".experts." in key for key in info["missing_keys"]):
            raise ConfigError(
                f"{folder} does not hold {model.config['num_experts']} experts on the levels asked for. Read it with "
                "the values it was saved with, or read the stock UNet and convert it: from_unet(unet, num_experts=…)."
            )
        if any(".strength." in key for key in info["missing_keys"]):
            raise ConfigError(
                f"{folder} does not hold a learned strength of region attention. Read it without learned_strength, or "
                "read the stock UNet and convert it: from_unet(unet, learned_strength=True)."
            )
        return (model, info) if output_loading_info else model

    def to_dense(self) -> UNet2DConditionModel:
        """A stock UNet with the weights of expert 0. This model stays as it is."""
        with torch.device("meta"):
            config = {key: value for key, value in self.config.items() if key not in OWN_CONFIG}
            model = cast(UNet2DConditionModel, UNet2DConditionModel.from_config(config))
        state = self.state_dict()
        return _filled(model, {key: state[key] for key in model.state_dict()}, training=self.training)

    # The stock options by name only, after the three that everybody gives by place.
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample: Float[Tensor, "B c h w"],
        timestep: Tensor | float | int,
        encoder_hidden_states: Float[Tensor, "B S D"],
        *,
        cross_attention_kwargs: dict[str, Any] | None = None,
        **stock: Any,
    ) -> UNet2DConditionOutput | tuple[Tensor, ...]:
        """The stock forward pass, after a check of the layout.

        Raises:
            ValueError: the layout does not fit the latents, the text or this model.
        """
        if cross_attention_kwargs is not None and (levels := cross_attention_kwargs.get("regions")) is not None:
            self._check_levels(levels, sample, encoder_hidden_states)
            if stock.get("encoder_attention_mask") is not None:
                raise ValueError("Give either regions or encoder_attention_mask: a region mask leaves padding out too.")
            if self.config["learned_strength"]:
                cross_attention_kwargs = {
                    **cross_attention_kwargs,
                    "noise_level": noise_level_of(timestep, sample),
                }
        return super().forward(
            sample, timestep, encoder_hidden_states, cross_attention_kwargs=cross_attention_kwargs, **stock
        )

    def set_default_attn_processor(self) -> None:
        """Put back the processors the model was made with, where others took their place."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.set_attention_slice(cast(int, None))  # which is the stock default
        if self.config["region_attention"]:
            for module in self.modules():
                if isinstance(module, MaMoETransformerBlock):
                    module.take_own_processor()

    def set_attention_slice(self, slice_size: str | int | list[int] | None = "auto") -> None:
        """As the stock one; None puts back the processors the model was made with."""
        if slice_size is None:
            self.set_default_attn_processor()
        else:
            super().set_attention_slice(slice_size)

    def _check_levels(self, levels: Sequence[LevelConditioning], sample: Tensor, text: Tensor) -> None:
        grids = level_grids((sample.shape[2], sample.shape[3]), len(self.config["block_out_channels"]))
        if len(levels) != len(grids):
            raise ValueError(f"The layout must have this UNet's {len(grids)} levels, got {len(levels)}.")
        problems = [
            problem
            for i, (level, grid) in enumerate(zip(levels, grids, strict=True))
            for problem in _level_problems(f"level {i}", level, grid, sample.shape[0], text.shape[1], self.config)
        ]
        if problems:
            raise ValueError("The layout does not fit this UNet call: " + "; ".join(problems) + ".")


def noise_level_of(timestep: Tensor | float | int, sample: Float[Tensor, "B c h w"]) -> Float[Tensor, "B"]:
    """The timestep of every image, f32, where ``timestep`` may be one for all."""
    return torch.as_tensor(timestep, dtype=torch.float32, device=sample.device).expand(sample.shape[0])


def _with_own_arguments(stock: inspect.Signature, own: inspect.Signature) -> inspect.Signature:
    # diffusers asks the constructor's signature which keys a saved config may hold. **unet_config would hide the stock
    # ones; naming them here by hand would tie us to one diffusers release.
    mine = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    theirs = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, p in stock.parameters.items() if name != "self"]
    return own.replace(parameters=[*mine, *theirs])


MaMoEUNet2DConditionModel.__init__.__signature__ = _with_own_arguments(  # pyright: ignore[reportFunctionMemberAccess]
    inspect.signature(UNet2DConditionModel.__init__), inspect.signature(MaMoEUNet2DConditionModel.__init__)
)


def _check_config(
    num_experts: int, moe_levels: Sequence[int] | None, num_levels: int, strength_has_regions: bool, shared: bool
) -> None:
    problems = []
    if num_experts < 1 + shared:
        why = ": beside a shared expert there is one for each class group but the rest" if shared else ""
        problems.append(f"num_experts must be at least {1 + shared}{why}, got {num_experts}")
    known = range(num_levels)
    if moe_levels is not None and (unknown := [level for level in moe_levels if level not in known]):
        problems.append(f"moe_levels must be among {list(known)} (0 = finest) or null for all, got {unknown}")
    if not strength_has_regions:
        problems.append("learned_strength needs region_attention: without it there is nothing whose strength to learn")
    if problems:
        raise ConfigError("; ".join(problems) + ".")


def levels_with_blocks(unet: Any) -> tuple[int, ...]:
    """The levels of a UNet, stock or not, on which it has transformer blocks."""
    return tuple(sorted({level for level, _ in _transformers(getattr(unet, "base", unet))}))


def levels_with_experts(unet: nn.Module) -> tuple[int, ...]:
    """The levels of a UNet whose blocks have more than one expert."""
    blocks = [module for module in unet.modules() if isinstance(module, MaMoETransformerBlock)]
    return tuple(sorted({b.level for b in blocks if any(isinstance(m, RoutedFeedForward) for m in b.children())}))


def _check_nothing_is_dropped(
    unet: UNet2DConditionModel,
    num_experts: int,
    moe_levels: Sequence[int] | None,
    learned_strength: bool,
    shared_expert: bool,
) -> None:
    has, problems = levels_with_experts(unet), []
    if has and num_experts != unet.config["num_experts"]:
        problems.append(f"it has {unet.config['num_experts']} experts, {num_experts} are asked for")
    if has and moe_levels is not None and set(has) - set(moe_levels):
        problems.append(f"it has experts on levels {list(has)}, they are asked for on {list(moe_levels)}")
    if has and shared_expert != unet.config["shared_expert"]:
        problems.append("its experts stand for a shared one or beside it, and the other is asked for")
    if unet.config.get("learned_strength") and not learned_strength:
        problems.append("it has learned the strength of region attention, which is not asked for")
    if problems:
        raise ConfigError(
            f"Nothing that this UNet learned may be dropped: {'; '.join(problems)}. Ask for what it has, or start from "
            "its dense part: unet.to_dense()."
        )


def _check_moe_levels(moe_levels: Sequence[int] | None, with_blocks: Collection[int]) -> None:
    if bare := [level for level in moe_levels or () if level not in with_blocks]:
        raise ConfigError(
            f"moe_levels {list(moe_levels or ())}: this UNet has transformer blocks on levels {sorted(with_blocks)} "
            f"only, so there is no place for experts on {bare}."
        )


def transformers_of(blocks: Iterable[tuple[int, nn.Module]]) -> list[tuple[int, Transformer2DModel]]:
    """The transformers inside some blocks, each with its block's level."""
    return [(level, m) for level, block in blocks for m in block.modules() if isinstance(m, Transformer2DModel)]


def _transformers(unet: UNet2DConditionModel) -> list[tuple[int, Transformer2DModel]]:
    num_levels = len(unet.down_blocks)
    blocks = [
        *enumerate(unet.down_blocks),
        *([(num_levels - 1, unet.mid_block)] if unet.mid_block is not None else []),
        *((num_levels - 1 - i, block) for i, block in enumerate(unet.up_blocks)),
    ]
    found = transformers_of(blocks)
    if not found:
        kinds = ", ".join(sorted({type(block).__name__ for _, block in blocks}))
        raise ConfigError(f"A UNet with text cross-attention is wanted (CrossAttnDownBlock2D, ...), got {kinds}.")
    return found


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
            f"{name} must have a boolean mask, got log weights ({attend.dtype}): this UNet "
            + ("learns the strength itself" if config["learned_strength"] else "has no region attention")
        )
    if level.routing is not None and level.routing.offsets.shape[0] != config["num_experts"]:
        got = level.routing.offsets.shape[0]
        problems.append(f"{name} must be routed to the UNet's {config['num_experts']} experts, got {got}")
    return problems


def _filled(model: Model, state: Mapping[str, Tensor], *, training: bool, whole: bool = True) -> Model:
    # The skeleton has no memory yet: it takes these tensors, and with them their type and device, as its own.
    found = model.load_state_dict({key: value.clone() for key, value in state.items()}, strict=whole, assign=True)
    assert not found.unexpected_keys and all(".experts." in key for key in found.missing_keys)
    return model.train(training)
