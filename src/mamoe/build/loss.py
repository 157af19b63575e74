"""The configured loss, and what it has to know of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float64

from mamoe.build.data import unaugmented
from mamoe.conditioning.settings import LayoutSettings
from mamoe.config import MaskedMse, Train
from mamoe.diffusion.losses import LatentLoss, inverse_frequency_weights, masked_mse, mse
from mamoe.errors import ConfigError
from mamoe.taxonomy import Taxonomy

CLASS_IDS = 256
MOST_MAPS = 512  # whose cells decide how frequent a class is


def loss_of(config: Train) -> LatentLoss:
    """The loss of a batch."""
    return masked_mse if isinstance(config.loss, MaskedMse) else mse


def class_weights(config: Train, trains: Any, settings: LayoutSettings) -> tuple[float, ...] | None:
    """How much a pixel of each class id counts in the loss; None = all the same.

    Raises:
        ConfigError: a weight for a class the taxonomy does not have, or none above 0.
    """
    loss = config.loss
    if not isinstance(loss, MaskedMse):
        return None
    if loss.class_weights is None:
        shares = class_shares(unaugmented(config, trains, settings))
        weights = inverse_frequency_weights(shares, power=loss.power, cap=loss.cap)
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
    looked_at = min(len(data), MOST_MAPS)
    counts = np.zeros(CLASS_IDS)
    for i in range(looked_at):
        sample = data[0, i * len(data) // looked_at]
        counts += np.bincount(sample.panoptic.class_id.ravel(), minlength=CLASS_IDS)
    return counts / counts.sum()
