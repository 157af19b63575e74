"""Encoded pictures on disk, in ``<folder>/<autoencoder id>``.

An entry is the posterior of one picture as one placement shows it, mean and standard deviation [2 C h w] float32, not
scaled, so that a latent can still be sampled from it. Its name is a hash of the picture file's bytes, of how they are
turned and put on a background, and of the placement: another picture, size or crop has another name, and the two mirror
images have one each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from mamoe.data.geometry.joint import Placement
from mamoe.data.reading.pictures import reading_of
from mamoe.errors import DatasetError
from mamoe.storage.hashing import short_file_hash, short_hash
from mamoe.storage.shards import CacheError, EncoderCache


class LatentCache(EncoderCache):
    """Posteriors of one autoencoder, see :func:`mamoe.models.autoencoder.vae_fingerprint`."""

    def has(self, content: str, placement: Placement) -> bool:
        return _name(content, placement) in self.shards

    def get(self, content: str, placement: Placement) -> Float[Tensor, "2 C h w"]:
        """Mean and standard deviation of the posterior, mapped from disk: do not write to it.

        Raises:
            CacheError: there is no such entry.
        """
        moments = self.shards.get(_name(content, placement))
        if moments is None:
            raise CacheError(f"{self.folder} lacks a picture as {placement} shows it. Start again to fill the gap.")
        return moments

    def add(self, moments: Mapping[tuple[str, Placement], Float[Tensor, "2 C h w"]]) -> None:
        """Write some entries as one new shard."""
        self.shards.add({_name(*key): tensor for key, tensor in moments.items()})


def content_of(path: Path) -> str:
    """A hash of a file's bytes.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return short_file_hash(path)
    except OSError as error:
        raise DatasetError(f"Cannot read {path}: {error.strerror}") from None


def content_of_picture(path: Path) -> str:
    """What a picture shows: a hash of its file's bytes, and what reading does to them.

    Raises:
        DatasetError: it cannot be read.
    """
    return content_of(path) + reading_of(path)


def _name(content: str, placement: Placement) -> str:
    return short_hash(f"{content} {placement}", 16)
