"""The same picture twice: what a model is scored on must not be what it was trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt64

from mamoe.storage.hashing import short_file_hash

_BITS_APART = 10  # of 64, up to which two pictures are compared by their thumbnails
# What is left between two thumbnails of one brightness and contrast, in standard deviations, up to which they are one
# picture. Of the photographs at hand copies that were saved anew, halved, darkened or brightened by a tenth come to
# 0.045, neighbouring frames of a video to 0.10.
_APART = 0.06
_BLOCK = 256  # pictures of one split that are compared with all of another at once: bounds memory

_BITS_OF = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(
    axis=1, dtype=np.uint8
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Print:
    """What a picture is recognised by."""

    image: Path
    split: str
    thumbnail: UInt8[np.ndarray, "32 32"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Twins:
    """Two files with one picture; ``other`` is in the same split, or in the later of two."""

    image: Path
    split: str
    other: Path
    other_split: str
    same_bytes: bool


def find_twins(prints: Sequence[Print]) -> list[Twins]:
    """Pictures in two splits, by their bytes and by how they look; inside a split by their bytes alone, for the
    pictures of one street may look alike."""
    found = _same_bytes(prints)
    known = {frozenset((twins.image, twins.other)) for twins in found}
    by_split = defaultdict(list)
    for one in prints:
        if one.thumbnail.std() >= 2.0:  # pictures of one colour all look alike
            by_split[one.split].append(one)
    for first, second in combinations(by_split.values(), 2):
        found += [twins for twins in _alike(first, second) if frozenset((twins.image, twins.other)) not in known]
    return found


def _same_bytes(prints: Sequence[Print]) -> list[Twins]:
    """Files of the same bytes; those alone are read again whose pictures come out the same to the last grey level."""
    by_thumbnail = defaultdict(list)
    for one in prints:
        by_thumbnail[one.thumbnail.tobytes()].append(one)
    found = []
    for same in by_thumbnail.values():
        first_of: dict[str, Print] = {}
        for one in same if len(same) > 1 else ():
            first = first_of.setdefault(short_file_hash(one.image), one)
            if first is not one:
                found.append(_pair(first, one, same_bytes=True))
    return found


def _alike(first: Sequence[Print], second: Sequence[Print]) -> list[Twins]:
    ours, theirs = _hashes(first), _hashes(second)
    found = []
    for start in range(0, len(ours), _BLOCK):
        apart = _bits(ours[start : start + _BLOCK, None] ^ theirs[None])
        for row, column in np.argwhere(apart <= _BITS_APART).tolist():
            one, other = first[start + row], second[column]
            if _difference(one.thumbnail, other.thumbnail) <= _APART:
                found.append(_pair(one, other, same_bytes=False))
    return found


def _difference(one: UInt8[np.ndarray, "32 32"], other: UInt8[np.ndarray, "32 32"]) -> float:
    first, second = (thumbnail.astype(np.float32) - thumbnail.mean() for thumbnail in (one, other))
    gain = (first * second).sum() / (second**2).sum()
    return float(np.abs(first - gain * second).mean() / first.std())


def _pair(one: Print, other: Print, same_bytes: bool) -> Twins:
    return Twins(image=one.image, split=one.split, other=other.image, other_split=other.split, same_bytes=same_bytes)


def _hashes(prints: Sequence[Print]) -> UInt64[np.ndarray, "N"]:
    """64 bits a picture: whether each of 8x8 patches is brighter than its right neighbour."""
    stack = np.stack([one.thumbnail for one in prints]).astype(np.float32)
    rows = stack.reshape(len(prints), 8, 4, 32).mean(axis=2)
    edges = np.linspace(0, 32, 10).round().astype(int)
    patches = np.stack([rows[..., a:b].mean(axis=-1) for a, b in pairwise(edges)], axis=-1)
    bits = (patches[..., 1:] > patches[..., :-1] + 0.5).reshape(len(prints), 64)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def _bits(values: UInt64[np.ndarray, "A B"]) -> UInt8[np.ndarray, "A B"]:
    """Bits set; numpy's own counting came with its second version."""
    halves = values.view(np.uint16).reshape(*values.shape, 4)
    return _BITS_OF[halves].sum(axis=-1, dtype=np.uint8)
