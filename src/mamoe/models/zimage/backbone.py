"""Z-Image's transformers as a family of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from mamoe.models.backbone import Pyramid
from mamoe.models.joint.backbone import converted, joint_backbone
from mamoe.models.wrapped import unwrapped
from mamoe.models.zimage.model import MaMoEZImageTransformer2DModel
from mamoe.vocabulary.conditioning import LevelConditioning

_NOISIEST = 1000.0  # what everybody else calls the timestep of pure noise; it is 0 here, and 1 is the picture
_BLOCK = r"(?:layers|noise_refiner|context_refiner)\.\d+\."
_MODULATED = r"(?:layers|noise_refiner)\.\d+\."


def call_z_image(
    network: Any,
    noisy: Float[Tensor, "B c h w"],
    timestep: Shaped[Tensor, "B"],
    inputs: Mapping[str, Any],
    guidance: float = 1.0,
) -> Float[Tensor, "B c h w"]:
    """What a Z-Image, stock or ours, makes of noisy latents; it is not distilled and told no ``guidance``.

    It predicts the picture minus the noise, which is turned round here. Padding, which a stock network would read, is
    masked in ours; a stock one is given prompts without it, for whose lengths the host waits.

    Args:
        network: the transformer, compiled or not.
        noisy: latents.
        timestep: in [0, 1000].
        inputs: text and layout, from ``Conditioning.unet_inputs()``.
        guidance: see above.

    Raises:
        ValueError: a stock network is told what it would ignore; or a layout and a mask of padding are given.
    """
    told, plain = dict(inputs.get("cross_attention_kwargs") or {}), unwrapped(network)
    if not isinstance(plain, MaMoEZImageTransformer2DModel) and (odd := sorted(told.keys() - {"scale"})):
        raise ValueError(f"A {type(plain).__name__} makes its own mask and would ignore {', '.join(odd)}.")
    text, valid = inputs["encoder_hidden_states"], inputs.get("encoder_attention_mask")
    patch = plain.config["all_patch_size"][0]
    if valid is not None and "regions" in told:
        raise ValueError("There is a mask of padding beside the layout: a region mask leaves padding out too.")
    if valid is not None and isinstance(plain, MaMoEZImageTransformer2DModel):
        told["regions"], valid = (_one_prompt(valid, (noisy.shape[2] // patch, noisy.shape[3] // patch)),), None
    lengths = [text.shape[1]] * len(text) if valid is None else valid.sum(dim=1).tolist()
    found = network(
        list(noisy.unsqueeze(2)),
        (_NOISIEST - timestep.float()) / _NOISIEST,
        [words[:length] for words, length in zip(text, lengths, strict=True)],
        patch_size=patch,
        f_patch_size=plain.config["all_f_patch_size"][0],
        **({"joint_attention_kwargs": told} if told else {}),  # which older releases of diffusers do not take
    ).sample
    return -torch.stack(found).squeeze(2)


def _one_prompt(valid: Bool[Tensor, "B S"], grid: tuple[int, int]) -> LevelConditioning:
    """A layout in which every cell sees all of the text but its padding."""
    attend = valid.unsqueeze(1).expand(-1, grid[0] * grid[1], -1)
    return LevelConditioning(grid=grid, attend=attend, routing=None, region=torch.zeros_like(valid, dtype=torch.int64))


Z_IMAGE = joint_backbone(
    ours=MaMoEZImageTransformer2DModel,
    convert=converted(MaMoEZImageTransformer2DModel),
    pyramid=lambda config: Pyramid(count=1, skipped=config["all_patch_size"][0].bit_length() - 1),
    text_width=lambda config: config["cap_feat_dim"],
    call=call_z_image,
    even_steps=True,
    routed=r"layers\.\d+\.feed_forward\.w[123]",
    adapted={
        "attention": rf"{_BLOCK}attention\.(?:to_q|to_k|to_v|to_out\.0)",
        "projection": rf"all_x_embedder\.[\d-]+|cap_embedder\.1|{_MODULATED}adaLN_modulation\.0|t_embedder\.mlp\.[02]|"
        r"all_final_layer\.[\d-]+\.(?:linear|adaLN_modulation\.1)",
        "feed_forward": rf"{_BLOCK}feed_forward\.w[123]",
    },
)
