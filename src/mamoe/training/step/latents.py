"""Pictures to latents: the posterior of a frozen autoencoder, every picture by itself, and a cache filled with it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor

from mamoe.data.dataset import LayoutDataset
from mamoe.data.encoded import LatentCache
from mamoe.data.geometry.joint import Placement
from mamoe.models.autoencoder import posterior_of, without_overflow

SHARD = 128  # pictures per shard: what a killed process loses at most
_SMALL = 2**18  # pixels: of larger pictures, one at a time keeps all threads busy, and several take much memory
_TOGETHER = 16  # small pictures handed to the threads at a time


def moments_of(vae: AutoencoderKL, images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2 C h w"]:
    """Mean and standard deviation of the posterior of every picture, float32, on the autoencoder's device.

    Every picture is encoded by itself, so that a latent does not depend on batch mates down to the last bit, nor on
    whether it comes from a cache.
    """
    with without_overflow(vae, vae.device):
        return torch.stack(list(_each(vae, images.to(vae.device))))


def _each(vae: AutoencoderKL, pictures: Iterable[UInt8[Tensor, "3 H W"]]) -> Iterator[Float[Tensor, "2 C h w"]]:
    """The moments of every picture, in order, on the autoencoder's device."""
    for small, some in groupby(pictures, key=lambda picture: picture.shape[1] * picture.shape[2] <= _SMALL):
        if small and vae.device.type == "cpu":
            while group := list(islice(some, _TOGETHER)):
                yield from _side_by_side(vae, group)
        else:
            yield from (_moments(vae, picture) for picture in some)


def _side_by_side(vae: AutoencoderKL, pictures: Sequence[UInt8[Tensor, "3 H W"]]) -> Sequence[Float[Tensor, "2 C h w"]]:
    """The moments of small pictures on a CPU, each by one thread.

    Threads that share a small picture spend much of their time waiting for each other. By itself a thread needs nobody,
    and the bits are the same for any number of threads.
    """
    threads, kind = torch.get_num_threads(), vae.device.type
    cast, to = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)  # which hold for this thread alone

    def moments(picture: Tensor) -> Tensor:
        with torch.autocast(kind, to, enabled=cast):
            return _moments(vae, picture)

    torch.set_num_threads(1)
    try:
        with without_overflow(vae, vae.device), ThreadPoolExecutor(threads, initializer=_alone) as pool:
            return list(pool.map(moments, pictures))
    finally:
        torch.set_num_threads(threads)


def _alone() -> None:
    torch.set_num_threads(1)  # a thread that is new would start as many helpers as there are processors


@torch.no_grad()  # here, for it holds for one thread alone
def _moments(vae: AutoencoderKL, picture: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "2 C h w"]:
    with without_overflow(vae, vae.device):
        posterior = posterior_of(vae, picture[None].to(vae.device).to(vae.dtype) / 127.5 - 1)
    return torch.cat([posterior.mean.float(), posterior.std.float()])


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
            for key, moments in zip(todo, _each(vae, pictures), strict=True):
                fresh[key] = moments.cpu()
                done += 1
                if progress is not None:
                    progress(done, len(keys))
            cache.add(fresh)
            made += len(fresh)
    return made
