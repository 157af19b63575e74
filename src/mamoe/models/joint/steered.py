"""What transformers in which text attends too have in common where they become ours.

    stock transformer --from_transformer--> MaMoE transformer --to_dense--> stock transformer

They have one level: the latent over its patches. Their experts are low-rank additions to layers that all
share (:mod:`mamoe.models.experts.beside`), because nobody holds several copies of twelve thousand million weights:
``num_experts`` says for how many there is a place, and a method of fine-tuning puts them there, of its own rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar, Self, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mamoe.errors import ConfigError
from mamoe.machine.skeleton import without_memory
from mamoe.models.blocks.conversion import filled, option_problems
from mamoe.models.blocks.held import held_blocks, listed
from mamoe.models.blocks.norms import keep_format
from mamoe.models.blocks.steered import Steered
from mamoe.models.joint.mask import joint_mask
from mamoe.models.joint.place import ExpertPlace
from mamoe.models.wrapped import unwrapped
from mamoe.vocabulary.conditioning import LevelConditioning


class SteeredJoint(Steered):
    """A transformer with region-masked joint attention and class-aware experts; mixed into diffusers' own class.

    Called like the stock one; the layout comes as ``joint_attention_kwargs={"regions": levels}`` with the one
    ``LevelConditioning`` of its patches. Without it the model is the dense one of expert 0.

    Args:
        num_experts: E, class groups. 1 = dense.
        region_attention: whether a cell sees the text of its own regions only. False = it sees that of the whole image.
        region_blocks: numbers of the transformer blocks in which it does, from 0 in the order they run; in the others
            it sees that of the whole image. None = all.
        expert_rank: of the experts' additions. None = every group has the feed-forward of the base model.
        expert_alpha: they are scaled by alpha / rank.
        config: the stock transformer's own arguments.

    Raises:
        ConfigError: a value is out of range, or the transformer is of a kind that is not known here.
    """

    blocks: ClassVar[Mapping[str, type[ExpertPlace]]]  # what takes the places of stock ones, by the name of their list
    _no_split_modules: ClassVar[list[str]]
    _repeated_blocks: ClassVar[list[str]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # What diffusers keeps on one device, and compiles alone; beside ours there may be stock blocks.
        names = [kind.__name__ for kind in cls.blocks.values()]
        cls._no_split_modules = cls._repeated_blocks = [*names, *(cls.stock._repeated_blocks or ())]

    def __init__(
        self,
        num_experts: int = 1,
        region_attention: bool = True,
        expert_rank: int | None = None,
        expert_alpha: float | None = None,
        region_blocks: Sequence[int] | None = None,
        **config: Any,
    ) -> None:
        of_stock: Any = super()
        of_stock.__init__(**config)
        problems = option_problems(num_experts, region_attention, learned_strength=False, shared=False)
        if (expert_rank is None) != (expert_alpha is None):
            problems.append(f"expert_rank and expert_alpha go together, got {expert_rank} and {expert_alpha}")
        if problems := [*problems, *self.config_problems(config)]:
            raise ConfigError("; ".join(problems) + ".")
        own: Any = self
        for name, kind in self.blocks.items():
            setattr(own, name, nn.ModuleList(kind(block) for block in getattr(own, name)))
        own.register_to_config(
            num_experts=num_experts,
            region_attention=region_attention,
            region_blocks=listed(region_blocks),
            expert_rank=None,
            expert_alpha=None,
        )
        held = held_blocks(region_attention, region_blocks, len(self.places))
        for place, holds in zip(self.places, held, strict=True):
            place.region_attention = holds
        if expert_rank is not None and expert_alpha is not None:
            self.add_experts(rank=expert_rank, alpha=expert_alpha, generator=torch.Generator().manual_seed(0))
        keep_format(own)

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """See :meth:`mamoe.models.blocks.steered.Steered.config_problems`; of keys that are not said, nothing."""
        axes, size = config.get("axes_dims_rope"), config.get("attention_head_dim")
        return [] if axes is None or size is None else axes_problems("axes_dims_rope", axes, size)

    @property
    def places(self) -> list[ExpertPlace]:
        """The blocks in the order they run: they have experts, or may get some."""
        return [module for module in cast(nn.Module, self).modules() if isinstance(module, ExpertPlace)]

    def add_experts(self, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        """Give every block an addition for each class group, which is nothing at first.

        Raises:
            ConfigError: there are no class groups (``num_experts`` is 1), or experts already.
        """
        own: Any = self
        count, has = own.config["num_experts"], own.config["expert_rank"]
        if count < 2 or has is not None:
            why = "it has some already" if has is not None else "num_experts is 1: there are no groups to have them"
            raise ConfigError(f"This transformer cannot be given experts: {why}.")
        for place in self.places:
            place.add_experts(count, rank=rank, alpha=alpha, generator=generator)
        own.register_to_config(expert_rank=rank, expert_alpha=alpha)

    @classmethod
    def from_transformer(
        cls,
        transformer: Any,
        num_experts: int = 1,
        region_attention: bool = True,
        region_blocks: Sequence[int] | None = None,
    ) -> Self:
        """Convert a transformer, which stays as it is; experts it has already are kept.

        The result computes what ``transformer`` does: for any routing, and for regions that all cover everything.

        Raises:
            ConfigError: a value is out of range, or the result has no place for the experts of ``transformer``.
        """
        transformer = unwrapped(transformer)
        has = transformer.config.get("num_experts", 1)
        if transformer.config.get("expert_rank") is not None and num_experts != has:
            raise ConfigError(
                f"Nothing that this network learned may be dropped: it has {has} experts, {num_experts} are asked for. "
                "Ask for what it has, or start from its dense part: to_dense()."
            )
        made: Any = cls
        with without_memory():
            model = made.from_config(
                transformer.config,
                num_experts=num_experts,
                region_attention=region_attention,
                region_blocks=region_blocks,
            )
        return filled(model, transformer, transformer.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | PathLike[str], *, output_loading_info: bool = False, **options: Any) -> Any:
        """Read what ``save_pretrained`` wrote; options and result as in diffusers.

        Raises:
            ConfigError: experts are asked for that the folder does not hold.
        """
        stock: Any = super()
        try:
            model, info = stock.from_pretrained(folder, output_loading_info=True, **options)
        except RuntimeError as error:
            if ".experts." not in str(error):
                raise
            raise ConfigError(_other_experts(folder, cls.__name__)) from None
        if any(".experts." in key for key in info["missing_keys"]):
            raise ConfigError(_other_experts(folder, cls.__name__))
        return (model, info) if output_loading_info else model

    def to_dense(self) -> Any:
        """A stock transformer, expert 0 part of its weights. This model stays as it is."""
        own: Any = self
        model = self.skeleton_of_stock()
        state = {key: value for key, value in own.state_dict().items() if ".experts." not in key}
        names = {id(parameter): name for name, parameter in own.named_parameters()}
        for place in self.places:
            for layer, added in place.rest_additions():
                name = names[id(layer)]
                state[name] = (state[name] + added.to(state[name])).to(state[name].dtype)
        return filled(model, cast(nn.Module, self), {key: state[key] for key in model.state_dict()})

    def steering(
        self,
        told: Mapping[str, Any] | None,
        cells: Float[Tensor, "B N _"],
        text: Float[Tensor, "B S _"],
        *,
        masked: bool = False,
    ) -> dict[str, Any] | None:
        """What the blocks are told of a layout: who works where, and of masks one where regions hold, one elsewhere.

        ``masked``: the call has a mask of padding too, under another name than ``attention_mask``.

        Raises:
            ValueError: the layout does not fit the latents, the text or this model.
        """
        others = dict(told or {})
        levels: Sequence[LevelConditioning] | None = others.pop("regions", None)
        if levels is None:
            return others or None
        level = self.fitting(levels, cells, text, masked=masked or "attention_mask" in others)
        if level.attend is not None and level.region is not None:
            others |= self.masks(level.attend, level.region)
        return {**others, "routing": level.routing}

    def fitting(
        self,
        levels: Sequence[LevelConditioning],
        cells: Float[Tensor, "B N _"],
        text: Float[Tensor, "B S _"],
        *,
        masked: bool = False,
    ) -> LevelConditioning:
        """The one level of a layout.

        Raises:
            ValueError: the layout does not fit the latents, the text or this model; or the call is ``masked`` already.
        """
        own: Any = self
        if problems := _problems(levels, cells, text, own.config, masked=masked):
            raise ValueError("The layout does not fit this call: " + "; ".join(problems) + ".")
        return levels[0]

    def masks(self, attend: Bool[Tensor, "B N S"], region: Int64[Tensor, "B S"]) -> dict[str, Tensor]:
        """The masks that the blocks are told, as :func:`joint_mask` makes them: of regions, and of blocks left open."""
        own: Any = self
        found = {}
        if own.config["region_attention"]:
            found["region_mask"] = joint_mask(attend, region)
        if not own.config["region_attention"] or own.config["region_blocks"] is not None:
            anywhere = attend.any(dim=1, keepdim=True).expand_as(attend)
            found["open_mask"] = joint_mask(anywhere, torch.zeros_like(region))
        return found


def axes_problems(name: str, axes: Sequence[int], size: int) -> list[str]:
    """Why places cannot turn heads of ``size`` numbers: every axis turns its own, in pairs."""
    if sum(axes) == size and all(axis > 0 and axis % 2 == 0 for axis in axes):
        return []
    return [f"{name} must be even numbers that make up the {size} of an attention head, got {list(axes)}"]


def _other_experts(folder: Any, kind: str) -> str:
    return (
        f"{folder} does not hold the experts that are asked for. Read it with the num_experts, expert_rank and "
        f"expert_alpha it was saved with, or read the stock network and convert it: {kind}.from_transformer(…, "
        "num_experts=…)."
    )


def _problems(
    levels: Sequence[LevelConditioning], cells: Tensor, text: Tensor, config: Mapping[str, Any], *, masked: bool
) -> list[str]:
    if len(levels) != 1:
        return [f"it must have the one level of this network, got {len(levels)}"]
    (level,), problems = levels, []
    batch, count, tokens = len(cells), cells.shape[1], text.shape[1]
    if level.grid[0] * level.grid[1] != count:
        problems.append(f"its grid {tuple(level.grid)} must have the {count} patches of the latents")
    attend, region = level.attend, level.region
    if attend is not None and tuple(attend.shape) != (batch, count, tokens):
        problems.append(f"its mask [B N S] must be {(batch, count, tokens)}, got {tuple(attend.shape)}")
    if attend is not None and attend.dtype != torch.bool:
        problems.append(f"its mask must be boolean, got log weights ({attend.dtype}): joint attention takes no others")
    if attend is not None and (region is None or tuple(region.shape) != (batch, tokens)):
        problems.append(f"it must say of which region each token [B S] = {(batch, tokens)} speaks (region)")
    if masked and attend is not None:
        problems.append("there is another mask beside it: a region mask leaves padding out too")
    if level.routing is not None and level.routing.offsets.shape[0] != config["num_experts"]:
        got = level.routing.offsets.shape[0]
        problems.append(f"it must be routed to the network's {config['num_experts']} experts, got {got}")
    return problems
