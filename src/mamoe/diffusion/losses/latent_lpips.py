"""The place where a latent-LPIPS package that the user installed plugs in."""

from __future__ import annotations

import importlib
from typing import Any

from mamoe.errors import ConfigError

PACKAGE = "elatentlpips"


def load_latent_lpips(encoder: str, augment: str | None) -> Any:
    """E-LatentLPIPS (Kang et al. 2024, arXiv 2405.05967), frozen.

    A module: (latents [B C h w], latents [B C h w], ensembling=bool) -> [B 1 1 1].

    Args:
        encoder: whose latents: sd15, sd21 or sdxl.
        augment: what is done to both before they are compared with ensembling: b, bg, bgc or bgco.

    Raises:
        ConfigError: the package is not installed, or cannot load its weights.
    """
    try:
        package = importlib.import_module(PACKAGE)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"loss=latent_lpips needs the package {PACKAGE} ({error}): pip install {PACKAGE}. It is no part of mamoe "
            "and its licence, CC BY-NC, allows no commercial use; whether your use is covered is for you to decide. "
            "loss=perceptual and loss=lpips need nothing of the kind."
        ) from None
    try:
        network = package.ELatentLPIPS(encoder=encoder, augment=augment, verbose=False)
    except (OSError, RuntimeError, ValueError, AttributeError) as error:
        raise ConfigError(f"loss=latent_lpips: {PACKAGE} cannot be set up: {error}") from None
    return network.requires_grad_(False).eval()
