"""The autoencoder's floor: real pictures encoded and decoded. No latent model can be expected to score better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import UInt8
from PIL import Image

from mamoe.bases.sources import parts_of
from mamoe.data.geometry.joint import Geometry
from mamoe.errors import ConfigError
from mamoe.evaluation.features.store import read_through
from mamoe.evaluation.protocol import PictureSet, hash_of_files
from mamoe.machine.processes import Processes
from mamoe.models.autoencoder import cell_pixels, decoded, posterior_of
from mamoe.runs.source import Source
from mamoe.sampling.filling import fill
from mamoe.storage.fingerprints import weights_hash


def load_autoencoder(model: str) -> AutoencoderKL:
    """The autoencoder of a base model, see :class:`mamoe.bases.sources.Source`, or that of a run.

    Raises:
        ConfigError: there is none.
    """
    try:
        loaded = parts_of(Source(path=model)).network(AutoencoderKL, "vae", torch.float32)
    except ConfigError as error:
        raise ConfigError(f"Cannot load the autoencoder of {model}: {error}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot load the autoencoder of {model}: {str(error).splitlines()[0]}") from None
    return loaded.eval()


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """A picture after the autoencoder: the mean of its posterior, decoded. Sides must suit the autoencoder's factor.

    Raises:
        ValueError: they do not.
    """
    factor = cell_pixels(vae.config)
    if any(side % factor for side in image.shape[:2]):
        raise ValueError(f"The autoencoder needs sides divisible by {factor}, got {image.shape[0]}x{image.shape[1]}.")
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(vae.device, vae.dtype) / 127.5 - 1
    again = decoded(vae, posterior_of(vae, pixels).mode())
    return ((again[0].float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()


def reconstruct_all(
    vae: AutoencoderKL,
    pictures: PictureSet,
    folder: Path,
    *,
    geometry: Geometry | None,
    processes: Processes,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, ...]:
    """Write every picture's reconstruction into ``folder``, under the picture's name.

    See :func:`mamoe.sampling.filling.fill`.

    Raises:
        ValueError: the pictures' sides do not suit the autoencoder.
        ConfigError: the folder holds pictures of another autoencoder or of other pictures.
    """

    def make(batch: list[int]) -> list[Image.Image]:
        return [Image.fromarray(reconstructed(vae, read_through(pictures.paths[i], geometry))) for i in batch]

    return fill(
        folder,
        [f"{name}.png" for name in pictures.names],
        [[i] for i in range(len(pictures.paths))],
        make,
        about={"autoencoder": weights_hash(vae), "pictures": hash_of_files(pictures.paths), "geometry": str(geometry)},
        processes=processes,
        progress=progress,
    )
