"""A UNet that sees a condition picture beside the noisy one: its latent as further input channels.

Shapes: B images · C latent channels · h, w latent cells.
"""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from mamoe.machine.skeleton import without_memory

Model = TypeVar("Model", bound=UNet2DConditionModel)


def widened(unet: Model) -> Model:
    """The UNet with 2C input channels: noisy latent, then condition latent. The given one stays as it is.

    The pretrained weights of ``conv_in`` are doubled, one copy for each half, and halved. So a condition equal to the
    noisy latent gives exactly the given UNet, and the first layer's outputs keep their size. Source: the MaMoE thesis,
    concatenated conditioning.
    """
    with without_memory():
        model = cast(Model, type(unet).from_config(unet.config, in_channels=2 * unet.config["in_channels"]))
    state = {name: value.clone() for name, value in unet.state_dict().items()}
    state["conv_in.weight"] = torch.cat([state["conv_in.weight"]] * 2, dim=1) / 2
    model.load_state_dict(state, strict=True, assign=True)
    return model.train(unet.training)
