"""Pictures to latents: the posterior of a frozen autoencoder, one picture at a time, and a cache filled with it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor

from mamoe.data.dataset import LayoutDataset
from mamoe.data.encoded import LatentCache
from mamoe.data.geometry.joint import Placement
from mamoe.models.autoencoder import posterior_of, without_overflow

SHARD = 128  # pictures per shard: what a killed process loses at most


@torch.no_grad()
def moments_of(vae: AutoencoderKL, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2 C h w"]:
    """Mean and standard deviation of the posterior of every picture, float32, on the autoencoder's device.

    Pictures are encoded one by one, so that a latent does not depend on batch mates down to the last bit, nor on
    whether it comes from a cache.
    """
    both = []
    with without_overflow(vae, vae.device):
        for image in images.to(vae.device):
            posterior = posterior_of(vae, image[None].to(vae.dtype) / 127.5 - 1)
            both.append(torch.cat([posterior.mean.float(), posterior.std.float()]))
    return torch.stack(both)


def fill_latents(
    cache: LatentCache,
    datasets: Sequence[LayoutDataset],
    vae: AutoencoderKL,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Encode every picture that ``datasets`` can ask for and the cache lacks; returns how many that were.

    Other processes may do the same at the same time: each starts at another place and skips what others have finished
    by the time it gets there.

    Args:
        datasets: encoded data sets that use ``cache``.
        threads: that read pictures ahead of the autoencoder.
        progress: called with (entries done, entries in all).
    """
    wanted: dict[tuple[str, Placement], tuple[LayoutDataset, int]] = {}
    for dataset in datasets:
        for index, placement in dataset.missing():
            wanted.setdefault((dataset.content(index), placement), (dataset, index))
    keys = list(wanted)
    start = secrets.randbelow(max(1, len(keys)))  # no seed: processes that fill one cache should differ
    keys = keys[start:] + keys[:start]
    done = made = 0
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for first in range(0, len(keys), SHARD):
            chunk = keys[first : first + SHARD]
            cache.shards.refresh()
            todo = [key for key in chunk if not cache.has(*key)]
            done += len(chunk) - len(todo)
            pictures = pool.map(lambda key: wanted[key][0].placed_picture(wanted[key][1], key[1]), todo)
            fresh = {}
            for key, picture in zip(todo, pictures, strict=True):
                fresh[key] = moments_of(vae, picture[None])[0].cpu()
                done += 1
                if progress is not None:
                    progress(done, len(keys))
            cache.add(fresh)
            made += len(fresh)
    return made
