"""Encoded pictures kept in memory: an autoencoder pass is a third of a training step, and epochs repeat pictures."""

from __future__ import annotations

import hashlib

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor

from mamoe.models.autoencoder import posterior_of, without_overflow

MIB = 2**20


class LatentMemory:
    """The posterior moments of pictures, remembered by their bytes.

    A picture that comes again, pixel for pixel, is not encoded again; a mirrored one counts as another. Pictures are
    encoded one by one, so that a latent never depends on batch mates or on what is remembered already: a resumed run
    gets the bits of an uninterrupted one. What does not fit any more is encoded anew each time.

    Args:
        vae: the frozen autoencoder.
        max_mib: how much to keep, in MiB of main memory; 0 keeps nothing and encodes whole batches.
    """

    def __init__(self, vae: AutoencoderKL, max_mib: int) -> None:
        self._vae, self._room = vae, max_mib * MIB
        self._enabled = max_mib > 0
        self._moments: dict[bytes, Tensor] = {}

    def __len__(self) -> int:
        return len(self._moments)

    @torch.no_grad()
    def moments(self, images: UInt8[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Mean and standard deviation of the posterior of every picture, float32, on the autoencoder's device."""
        if not self._enabled:
            both = self._encode(images)
        else:
            both = torch.stack([self._remembered(image) for image in images.cpu()]).to(self._vae.device)
        mean, std = both.unbind(1)
        return mean, std

    def _remembered(self, image: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "2 C h w"]:
        key = hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()
        found = self._moments.get(key)
        if found is None:
            found = self._encode(image[None])[0].cpu()
            if found.nbytes <= self._room:
                self._room -= found.nbytes
                self._moments[key] = found
        return found

    def _encode(self, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2 C h w"]:
        with without_overflow(self._vae):
            pictures = images.to(self._vae.device, self._vae.dtype) / 127.5 - 1
            posterior = posterior_of(self._vae, pictures)
        return torch.stack([posterior.mean.float(), posterior.std.float()], dim=1)
