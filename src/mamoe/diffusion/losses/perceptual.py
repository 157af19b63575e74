"""Distance between what a frozen diffusion network sees in the prediction and in the target.

Lin & Yang 2024 (arXiv 2401.00110): both are noised again, and compared by the features of the network's middle block.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mamoe.diffusion.levels import NoiseLevels
from mamoe.diffusion.losses.denoised import Denoised
from mamoe.diffusion.losses.mse import mse_per_image
from mamoe.diffusion.parameterization import Prediction, noised
from mamoe.randomness import generator_for, stacked_randn
from mamoe.vocabulary.conditioning import Conditioning


class Perceptual:
    """Mean squared difference of middle-block features, per picture.

    Prediction and target of a picture get the same second timestep, uniform over all, and the same second noise, both
    from the picture's own stream. The frozen network reads the global prompt alone, as it did when it was trained.

    Args:
        features: what :func:`middle_features` makes of the base model's UNet.
        levels: those the base model was trained at.
    """

    def __init__(self, features: nn.Module, levels: NoiseLevels) -> None:
        self._features, self._levels = features, levels

    def __call__(self, batch: Denoised) -> Float[Tensor, "B"]:
        timesteps, noise = self._draws(batch)
        alpha, sigma = self._levels.at(timesteps)
        told, inputs = self._levels.told_at(timesteps), global_prompt_inputs(batch.conditioning)
        with torch.no_grad():
            wanted = self._features(noised(batch.clean, noise, alpha, sigma), told, **inputs).sample
        got = self._features(noised(batch.clean_estimate, noise, alpha, sigma), told, **inputs).sample
        return batch.weighed(mse_per_image(got, wanted), Prediction.X0)

    def _draws(self, batch: Denoised) -> tuple[Int64[Tensor, "B"], Float[Tensor, "B C h w"]]:
        timesteps = [
            torch.randint(len(self._levels), (), generator=generator_for(seed, "second timestep"))
            for seed in batch.seeds
        ]
        noise = stacked_randn(tuple(batch.clean.shape[1:]), [generator_for(s, "second noise") for s in batch.seeds])
        return torch.stack(timesteps).to(batch.clean.device), noise.to(batch.clean.device)


def middle_features(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A frozen copy of ``unet`` that ends after its middle block, whose output [B C h w] is its ``sample``."""
    encoder = copy.deepcopy(unet)
    encoder.up_blocks = nn.ModuleList()
    encoder.conv_norm_out = None
    encoder.conv_out = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return encoder.requires_grad_(False).eval()


def global_prompt_inputs(conditioning: Conditioning) -> dict[str, Any]:
    """Keyword arguments for a stock UNet that is to read each picture's global prompt and know of no layout."""
    text = conditioning.text
    # A text encoder that is trained must not learn to please the frozen network.
    fixed = replace(conditioning, text=replace(text, embeds=text.embeds.detach()))
    inputs = {name: value for name, value in fixed.unet_inputs().items() if name != "cross_attention_kwargs"}
    return {**inputs, "encoder_attention_mask": text.valid & (text.region == 0)}
