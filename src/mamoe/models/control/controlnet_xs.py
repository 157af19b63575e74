"""ControlNet-XS: a narrow second branch sees a condition picture and corrects the base UNet layer by layer.

    condition picture -> branch <-> base UNet -> prediction

Zavadski et al., "ControlNet-XS: Rethinking the Control of Text-to-Image Diffusion Models as Feedback-Control Systems",
2023. The computation is diffusers' ``UNetControlNetXSModel``; here its layers are those of the base UNet and of a
``ControlNetXSAdapter``, shared and not copied. So the base may be one whose transformer blocks know regions and
experts, and the branch is saved alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.controlnets.controlnet_xs import ControlNetXSAdapter, UNetControlNetXSModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel, UNet2DConditionOutput
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from mamoe.errors import ConfigError, MamoeError
from mamoe.machine.skeleton import without_memory
from mamoe.models.blocks.conversion import noise_level_of
from mamoe.models.unet.block import MaMoETransformerBlock
from mamoe.models.unet.model import transformers_of

BRANCH = "controlnet_xs"  # folder of a saved pipeline
LATENT_CHANNELS = 4
PICTURE_FACTOR = 8  # pixels per latent cell that the branch's embedding of the picture makes
HEADS = 4
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_WIDTHS = (4, 8, 16)  # of the branch by level; deeper levels keep the last
_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UNetMidBlock2DCrossAttn")


def branch_widths(num_levels: int) -> tuple[int, ...]:
    """Channels of the branch by level: 4, 8, 16, 16 for Stable Diffusion, the first of them for fewer levels."""
    return tuple(_WIDTHS[min(level, len(_WIDTHS) - 1)] for level in range(num_levels))


def side_multiple(num_levels: int) -> int:
    """What height and width of a picture must be multiples of, in pixels: the base's levels halve them evenly."""
    return PICTURE_FACTOR * 2 ** (num_levels - 1)


def new_branch(base: UNet2DConditionModel, widths: Sequence[int] | None = None) -> ControlNetXSAdapter:
    """A branch for ``base`` that changes nothing yet: all its ways into the base are zero.

    Args:
        base: stock or MaMoE UNet.
        widths: channels by level, each a multiple of 4; None = :func:`branch_widths`.

    Raises:
        ConfigError: ControlNet-XS does not fit this UNet, or the widths do not.
    """
    levels = len(base.config["block_out_channels"])
    widths = branch_widths(levels) if widths is None else tuple(widths)
    _check(base.config, widths)
    given = {key: base.config[key] for key in _BRANCH_CONFIG}
    build: Any = ControlNetXSAdapter  # whose hints take tuples of one width only
    branch = build(
        **given,
        block_out_channels=widths,
        base_block_out_channels=base.config["block_out_channels"],
        num_attention_heads=HEADS,
        max_norm_num_groups=base.config["norm_num_groups"],
    )
    if base.config["layers_per_block"] == 1:
        _keep_one_layer(branch, base.config["block_out_channels"])
    nn.Module.to(branch, dtype=base.dtype)  # not the class's own, which warns of a cast whatever the types
    return branch


_BRANCH_CONFIG = (
    "cross_attention_dim",
    "down_block_types",
    "sample_size",
    "transformer_layers_per_block",
    "upcast_attention",
    "use_linear_projection",
)


def load_branch(base: UNet2DConditionModel, folder: str | PathLike[str]) -> ControlNetXSAdapter:
    """Read a branch for ``base`` that ``branch.save_pretrained`` wrote.

    Raises:
        ConfigError: it was made for another UNet.
    """
    config: Any = ControlNetXSAdapter.load_config(folder)
    branch = new_branch(base, config["block_out_channels"])
    state = load_file(Path(folder) / _WEIGHTS)
    wanted, came = ({name: tuple(value.shape) for name, value in s.items()} for s in (branch.state_dict(), state))
    if odd := sorted(name for name in wanted.keys() | came.keys() if wanted.get(name) != came.get(name)):
        name = odd[0]
        raise ConfigError(
            f"The ControlNet-XS branch in {folder} was made for another UNet: {len(odd)} of its weights differ, first "
            f"{name!r} (wanted {wanted.get(name, 'none')}, got {came.get(name, 'none')})."
        )
    branch.load_state_dict(state)
    return branch


class ControlledUNet(nn.Module):
    """A base UNet with a ControlNet-XS branch, called like a UNet with one more argument, the condition picture.

    Both keep their weights under ``base.*`` and ``branch.*``; ``branch.save_pretrained`` writes what diffusers'
    ``ControlNetXSAdapter`` reads. The branch's transformer blocks read the text of the whole image: they know neither
    regions nor experts, and leave padding out.

    Args:
        base: stock or MaMoE UNet; taken over, not copied.
        branch: from :func:`new_branch`; taken over.
    """

    def __init__(self, base: UNet2DConditionModel, branch: ControlNetXSAdapter) -> None:
        super().__init__()
        _let_blocks_leave_padding_out(branch)
        self.base = base
        self.branch = branch
        # A tuple hides the third owner of the same layers from nn.Module: every weight has one name.
        self._joined = (_joined(base, branch),)

    @property
    def config(self) -> Any:
        """That of the base UNet."""
        return self.base.config

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        return self.base.device

    def save_config(self, folder: str | PathLike[str]) -> None:
        """That of the base UNet."""
        self.base.save_config(folder)

    # What diffusers' pipelines ask of a UNet. The branch is too narrow to save anything.

    def set_attn_processor(self, processor: Any) -> None:
        """Of the base UNet."""
        self.base.set_attn_processor(processor)

    def set_default_attn_processor(self) -> None:
        """Of the base UNet."""
        self.base.set_default_attn_processor()

    def set_attention_slice(self, slice_size: Any) -> None:
        """Of the base UNet."""
        self.base.set_attention_slice(slice_size)

    def fuse_qkv_projections(self) -> None:
        """Of the base UNet."""
        self.base.fuse_qkv_projections()

    def unfuse_qkv_projections(self) -> None:
        """Of the base UNet."""
        self.base.unfuse_qkv_projections()

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float) -> None:
        self._joined[0].enable_freeu(s1, s2, b1, b2)

    def disable_freeu(self) -> None:
        self._joined[0].disable_freeu()

    def enable_gradient_checkpointing(self) -> None:
        self._joined[0].enable_gradient_checkpointing()

    def forward(
        self,
        sample: Float[Tensor, "B c h w"],
        timestep: Tensor | float | int,
        encoder_hidden_states: Float[Tensor, "B S D"],
        *,
        picture: Float[Tensor, "B 3 H W"],
        cross_attention_kwargs: dict[str, Any] | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> UNet2DConditionOutput:
        """Predict with the condition picture, RGB in [0, 1]; an empty condition is a black picture.

        Raises:
            MamoeError: a size the base's levels cannot halve evenly.
            ValueError: latents and picture differ in size.
        """
        _check_sizes(sample, picture, len(self.config["block_out_channels"]))
        if cross_attention_kwargs is not None and "regions" in cross_attention_kwargs:
            cross_attention_kwargs = {**cross_attention_kwargs, "noise_level": noise_level_of(timestep, sample)}
        (out,) = self._joined[0](
            sample,
            timestep,
            encoder_hidden_states,
            controlnet_cond=picture,
            cross_attention_kwargs=cross_attention_kwargs,
            added_cond_kwargs=added_cond_kwargs,
            return_dict=False,
        )
        return UNet2DConditionOutput(sample=out)

    def train(self, mode: bool = True) -> ControlledUNet:
        super().train(mode)
        self._joined[0].train(mode)  # its few layers of its own decide whether checkpointing is on
        return self


def _joined(base: UNet2DConditionModel, branch: ControlNetXSAdapter) -> UNetControlNetXSModel:
    """diffusers' network, put together from the layers of both."""
    from_base = {key: value for key, value in base.config.items() if key in _SHARED_CONFIG}
    from_branch = {f"ctrl_{key}": branch.config[key] for key in ("block_out_channels", "num_attention_heads")}
    with without_memory():
        heads = base.config["attention_head_dim"]  # diffusers calls their number by this name
        joined: Any = UNetControlNetXSModel(**from_base, **from_branch, num_attention_heads=heads)
    for name in ("conv_in", "time_proj", "time_embedding", "conv_norm_out", "conv_act", "conv_out"):
        setattr(joined, f"base_{name}", getattr(base, name))
    joined.base_add_time_proj = getattr(base, "add_time_proj", None)
    joined.base_add_embedding = getattr(base, "add_embedding", None)
    joined.controlnet_cond_embedding = branch.controlnet_cond_embedding
    joined.ctrl_conv_in = branch.conv_in
    joined.control_to_base_for_conv_in = branch.control_to_base_for_conv_in
    for both, ours, theirs in zip(joined.down_blocks, base.down_blocks, branch.down_blocks, strict=True):
        _join_down(both, ours, theirs)
    joined.mid_block.base_midblock = base.mid_block
    joined.mid_block.ctrl_midblock = branch.mid_block.midblock
    joined.mid_block.base_to_ctrl = branch.mid_block.base_to_ctrl
    joined.mid_block.ctrl_to_base = branch.mid_block.ctrl_to_base
    for both, ours, theirs in zip(joined.up_blocks, base.up_blocks, branch.up_connections, strict=True):
        _join_up(both, ours, theirs)
    return joined


_SHARED_CONFIG = (
    "sample_size",
    "down_block_types",
    "up_block_types",
    "block_out_channels",
    "norm_num_groups",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "addition_embed_type",
    "addition_time_embed_dim",
    "upcast_attention",
    "use_linear_projection",
    "projection_class_embeddings_input_dim",
)


def _join_down(both: Any, base: Any, branch: Any) -> None:
    both.base_resnets, both.ctrl_resnets = base.resnets, branch.resnets
    if hasattr(base, "attentions"):
        both.base_attentions, both.ctrl_attentions = base.attentions, branch.attentions
    if base.downsamplers is not None:
        both.base_downsamplers, both.ctrl_downsamplers = base.downsamplers[0], branch.downsamplers
    both.base_to_ctrl, both.ctrl_to_base = branch.base_to_ctrl, branch.ctrl_to_base


def _join_up(both: Any, base: Any, branch: Any) -> None:
    both.resnets, both.ctrl_to_base = base.resnets, branch.ctrl_to_base
    if hasattr(base, "attentions"):
        both.attentions = base.attentions
    if base.upsamplers is not None:
        both.upsamplers = base.upsamplers[0]


def _let_blocks_leave_padding_out(branch: ControlNetXSAdapter) -> None:
    for level, transformer in transformers_of([*enumerate(branch.down_blocks), (-1, branch.mid_block)]):
        _take_blocks(transformer, level)


def _take_blocks(transformer: Transformer2DModel, level: int) -> None:
    transformer.transformer_blocks = nn.ModuleList(
        MaMoETransformerBlock(cast(BasicTransformerBlock, block), level=level, num_experts=1, region_attention=False)
        for block in transformer.transformer_blocks
    )


def _keep_one_layer(branch: Any, base_widths: Sequence[int]) -> None:
    """diffusers builds two layers per down block and three per up block; leave one and two."""
    for block in branch.down_blocks:
        block.resnets = block.resnets[:1]
        if block.attentions is not None:
            block.attentions = block.attentions[:1]
        last = [] if block.downsamplers is None else [len(block.base_to_ctrl) - 1]
        block.base_to_ctrl = nn.ModuleList(block.base_to_ctrl[i] for i in (0, *last))
        block.ctrl_to_base = nn.ModuleList(block.ctrl_to_base[i] for i in (0, *last))
    # The skips of the branch: its first layer, then each block's layer and, but for the last, its downsampler.
    widths = branch.config["block_out_channels"]
    skips = [widths[0], *(width for width in widths for _ in range(2))][:-1]
    before = base_widths[-1]
    for block, width in zip(branch.up_connections, reversed(base_widths), strict=True):
        into = (before, width)
        block.ctrl_to_base = nn.ModuleList(_zero_conv(skips.pop(), channels) for channels in into)
        before = width


def _zero_conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels_in, channels_out, kernel_size=1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _check(config: Mapping[str, Any], widths: Sequence[int]) -> None:
    problems = []
    levels = len(config["block_out_channels"])
    kinds = [*config["down_block_types"], *config["up_block_types"], config["mid_block_type"]]
    if odd := sorted({str(kind) for kind in kinds} - set(_BLOCKS)):
        problems.append(f"it must be made of {', '.join(_BLOCKS)}, got {', '.join(odd)}")
    if config["layers_per_block"] not in (1, 2):
        problems.append(f"it must have 1 or 2 layers per block, got {config['layers_per_block']}")
    if (config["in_channels"], config["out_channels"]) != (LATENT_CHANNELS, LATENT_CHANNELS):
        problems.append(
            f"it must take and give {LATENT_CHANNELS} latent channels, got {config['in_channels']} and "
            f"{config['out_channels']}"
        )
    if config["addition_embed_type"] not in (None, "text_time") or config.get("class_embed_type") is not None:
        problems.append("it must have no other embedding than those of time, text and (SDXL) size")
    if len(widths) != levels or any(width < HEADS or width % HEADS for width in widths):
        problems.append(f"its branch needs {levels} widths that are multiples of {HEADS}, got {tuple(widths)}")
    if problems:
        raise ConfigError(f"ControlNet-XS does not fit this UNet: {'; '.join(problems)}.")


def _check_sizes(sample: Tensor, picture: Tensor, levels: int) -> None:
    multiple = side_multiple(levels)
    height, width = sample.shape[2:]
    if any(side * PICTURE_FACTOR % multiple for side in (height, width)):
        raise MamoeError(
            f"ControlNet-XS needs pictures whose height and width are multiples of {multiple} pixels, "
            f"got {(height * PICTURE_FACTOR, width * PICTURE_FACTOR)}: set data.size, or resize what is drawn."
        )
    wanted = (sample.shape[0], 3, height * PICTURE_FACTOR, width * PICTURE_FACTOR)
    if tuple(picture.shape) != wanted:
        raise ValueError(f"The condition picture must be [B 3 H W] of {wanted}, got {tuple(picture.shape)}.")
