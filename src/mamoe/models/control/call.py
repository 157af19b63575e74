"""UNets that also take a condition picture, behind one call.

Shapes: B images · C latent channels · H, W pixels · h, w latent cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mamoe.models.autoencoder import posterior_of, without_overflow
from mamoe.models.backbones import BACKBONES, backbone_of
from mamoe.models.control.controlnet_xs import ControlledUNet
from mamoe.models.latents import LatentScaling
from mamoe.models.wrapped import unwrapped

_STEERED = (ControlledUNet, *(backbone.ours for backbone in BACKBONES))


class Control(StrEnum):
    """In which form a UNet takes the condition picture. An empty condition is all zeros in either form."""

    PICTURE = "picture"  # f32[B 3 H W] in [0, 1]: ControlNet-XS
    LATENT = "latent"  # f32[B C h w], encoded and scaled as the pictures are: concatenation


def control_of(unet: nn.Module) -> Control | None:
    """The form in which ``unet`` takes a condition picture, compiled or not; None = it takes none."""
    network = unwrapped(unet)
    if isinstance(network, ControlledUNet):
        return Control.PICTURE
    config: Mapping[str, Any] = network.config
    given, made = config["in_channels"], config.get("out_channels")
    return Control.LATENT if made is not None and given == 2 * made else None


def with_layout(unet: Any, **own: Any) -> Any:
    """``unet``, of any known family, with regions and experts as ``own`` says; a ControlNet-XS branch stays beside it.

    Args: see :meth:`~mamoe.models.unet.model.MaMoEUNet2DConditionModel.from_unet`.

    Raises:
        ConfigError: the family is none that layouts can steer.
    """
    if isinstance(unet, ControlledUNet):
        return ControlledUNet(with_layout(unet.base, **own), unet.branch)
    return backbone_of(unet).convert(unet, **own)


def control_input(
    form: Control, pictures: UInt8[Tensor, "B 3 H W"], vae: AutoencoderKL | None = None
) -> Float[Tensor, "B _ _ _"]:
    """Condition pictures in the form a UNet takes them.

    An empty (black) picture is no condition: zeros in either form, also where the autoencoder would make something of
    black. ``vae`` is needed for latents only; a latent is the mean of the posterior, as the UNet knows latents.
    """
    if form is Control.PICTURE:
        return pictures.float() / 255
    assert vae is not None, "a condition that enters as a latent needs the autoencoder"
    shown = pictures.flatten(1).any(dim=1)
    # One by one, so that a latent does not depend on batch mates down to the last bit.
    with without_overflow(vae, pictures.device):
        means = [posterior_of(vae, picture[None].to(vae.dtype) / 127.5 - 1).mean.float() for picture in pictures]
    return LatentScaling.of(vae).scaled(torch.cat(means)) * shown[:, None, None, None]


def predict(
    unet: nn.Module,
    noisy: Float[Tensor, "B C h w"],
    timestep: Tensor | float | int,
    inputs: Mapping[str, Any],
    control: Tensor | None = None,
    guidance: float = 1.0,
) -> Float[Tensor, "B C h w"]:
    """What ``unet`` makes of noisy latents.

    Args:
        inputs: text and layout, from ``Conditioning.unet_inputs()``.
        control: the condition picture in the form ``control_of(unet)`` says; None for a UNet that takes none.
        guidance: what a network that was distilled for guidance is told; 1 = none. Others know no such number.

    Raises:
        ValueError: a condition is missing, or there is one too many; or a layout is given that the network would
            ignore.
    """
    if "regions" in (inputs.get("cross_attention_kwargs") or {}) and not isinstance(unwrapped(unet), _STEERED):
        raise ValueError(f"A {type(unwrapped(unet)).__name__} would ignore the layout: convert it first (with_layout).")
    form = control_of(unet)
    control = None if control is None else control.to(noisy.dtype)
    if (form is None) != (control is None):
        takes = "no condition picture" if form is None else f"a condition picture ({form})"
        raise ValueError(f"This UNet takes {takes}, got {'none' if control is None else 'one'}.")
    if form is Control.PICTURE:
        return unet(noisy, timestep, **inputs, picture=control).sample
    shown = noisy if control is None else torch.cat([noisy, control], dim=1)
    # By name, because families differ in the order. What comes after the latent's channels is a learned variance.
    told = torch.as_tensor(timestep, device=noisy.device).expand(len(noisy))
    return backbone_of(unet).call(unet, shown, told, inputs, guidance)[:, : noisy.shape[1]]
