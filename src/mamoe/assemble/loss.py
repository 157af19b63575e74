"""The configured loss, and what it has to know of the data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Float, Float64
from torch import Tensor, nn

from mamoe.bases.pretrained import BaseModel
from mamoe.config.train import LatentLpips, Lpips, MaskedMse, Perceptual, Train
from mamoe.data.dataset import LayoutDataset
from mamoe.diffusion import losses
from mamoe.diffusion.levels import NoiseLevels
from mamoe.errors import ConfigError
from mamoe.models.autoencoder import decoded
from mamoe.models.control.call import control_of
from mamoe.models.latents import LatentScaling
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.selection import spread
from mamoe.vocabulary.taxonomy import Taxonomy

CLASS_IDS = 256
MOST_MAPS = 512  # whose cells decide how frequent a class is


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfiguredLoss:
    """The loss of a batch, and the frozen networks it looks through.

    Attributes:
        autocast: whether these are called under autocast where that is on, and are known to read their weights no other
            way than autocast does.
    """

    function: losses.LatentLoss
    networks: tuple[nn.Module, ...] = ()
    autocast: bool = False


def loss_of(config: Train, base: BaseModel) -> ConfiguredLoss:
    """The loss that ``config.loss`` names.

    Raises:
        ConfigError: weights or a package that the loss needs are not there.
    """
    loss = config.loss
    if isinstance(loss, Perceptual):
        if not isinstance(base.unet, UNet2DConditionModel):
            raise ConfigError(
                f"loss=perceptual looks through the middle block of a UNet, and {base.source.path} has a "
                f"{type(base.unet).__name__}, which has none: choose another loss."
            )
        if control_of(base.unet) is not None:
            raise ConfigError(
                f"loss=perceptual looks through the base model's UNet, and that of {base.source.path} is shown a "
                "condition picture: choose another loss."
            )
        features = losses.middle_features(base.unet)
        perceptual = losses.Perceptual(features, NoiseLevels.of(base.scheduler))
        return ConfiguredLoss(function=perceptual, networks=(features,), autocast=True)
    if isinstance(loss, Lpips):
        weights = None if loss.weights is None else Path(loss.weights)
        lpips = losses.load_lpips(losses.LpipsNet(loss.net), weights)
        decode = partial(_pictures_of, base.vae)
        on_pictures = losses.OnPictures(lpips, decode, every=loss.every, weight=loss.weight)
        return ConfiguredLoss(function=on_pictures, networks=(lpips, base.vae))
    if isinstance(loss, LatentLpips):
        distance = losses.load_latent_lpips(loss.encoder, loss.augment)
        on_latents = losses.OnLatents(partial(distance, ensembling=loss.augment is not None))
        return ConfiguredLoss(function=on_latents, networks=(distance,))
    return ConfiguredLoss(function=losses.masked_mse if isinstance(loss, MaskedMse) else losses.mse)


def _pictures_of(vae: AutoencoderKL, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
    return decoded(vae, LatentScaling.of(vae).unscaled(latents))


def class_weights(config: Train, trains: LayoutDataset, settings: LayoutSettings) -> tuple[float, ...] | None:
    """How much a pixel of each class id counts in the loss; None = all the same.

    Raises:
        ConfigError: a weight for a class the taxonomy does not have, or none above 0.
    """
    loss = config.loss
    if not isinstance(loss, MaskedMse):
        return None
    if loss.class_weights is None:
        shares = class_shares(trains.unaugmented())
        weights = losses.inverse_frequency_weights(shares, power=loss.power, cap=loss.cap)
    else:
        weights = given_weights(loss.class_weights, settings.taxonomy)
    return tuple(weights.tolist())


def given_weights(by_name: dict[str, float], taxonomy: Taxonomy) -> Float64[np.ndarray, "256"]:
    """The weights a user wrote down, by class id; classes not named weigh 1.

    Raises:
        ConfigError: a class the taxonomy does not have, or no weight above 0.
    """
    ids = {c.name: c.id for c in taxonomy.classes}
    unknown = sorted(set(by_name) - set(ids))
    if unknown:
        raise ConfigError(
            f"loss.class_weights names {', '.join(unknown)}; the taxonomy {taxonomy.name} has {', '.join(ids)}."
        )
    weights = np.ones(CLASS_IDS)
    for name, weight in by_name.items():
        weights[ids[name]] = weight
    if not weights.any():
        raise ConfigError("loss.class_weights gives every class the weight 0; nothing would be learned.")
    return weights


def class_shares(data: Any) -> Float64[np.ndarray, "256"]:
    """The share of every class id in the latent cells of the data, sum 1.

    A cell counts with the shares its pixels have in it, so that counting pixels counts cells. Of more than
    ``MOST_MAPS`` pictures that many, evenly spread, are looked at.
    """
    counts = np.zeros(CLASS_IDS)
    for i in spread(range(len(data)), MOST_MAPS):
        sample = data[0, i]
        counts += np.bincount(sample.panoptic.class_id.ravel(), minlength=CLASS_IDS)
    return counts / counts.sum()
