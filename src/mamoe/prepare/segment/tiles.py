"""Large pictures in overlapping tiles, and what was seen in the tiles put together again.

Scores of classes are averaged where tiles overlap, with weights that fall towards a tile's edge. Masks of one class in
two tiles are one thing where they agree about the pixels both tiles show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from mamoe.prepare.fuse.masks import Mask, cut_out
from mamoe.prepare.fuse.rules import Thing

OVERLAP = 0.25  # of a tile's side, at least
_SAME = 0.5  # intersection over union, of the pixels both tiles show, above which two masks are one thing


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """Where a tile lies in its picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def box(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def tiles_of(size: tuple[int, int], side: int) -> list[Tile]:
    """Tiles of one size that cover a picture evenly, row by row.

    Args:
        size: (H, W) of the picture.
        side: longest side of a tile; 0: the picture is one.
    """
    rows, height = _starts(size[0], side)
    columns, width = _starts(size[1], side)
    return [Tile(top=top, left=left, height=height, width=width) for top in rows for left in columns]


def merged(
    size: tuple[int, int], tiles: Sequence[Tile], scores: Iterator[Float[Tensor, "C h w"]]
) -> tuple[Int64[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]:
    """The channel with the highest score in every pixel, and its share of all scores there.

    Only the rows that tiles still to come reach are kept, so that memory grows with the width of a picture alone.

    Args:
        size: (H, W).
        tiles: in the order of :func:`tiles_of`.
        scores: of every tile, from 0 up.
    """
    best = np.zeros(size, dtype=np.int64)
    share = np.zeros(size, dtype=np.float32)
    band: Tensor | None = None
    top = 0
    for tile, found in zip(tiles, scores, strict=True):
        if len(tiles) == 1:
            best[:], share[:] = _winners(found)
            break
        if band is None:
            band = found.new_zeros(found.shape[0], tile.height, size[1])
        if tile.top > top:
            done = tile.top - top
            best[top : tile.top], share[top : tile.top] = _winners(band[:, :done])
            band = torch.cat([band[:, done:], torch.zeros_like(band[:, :done])], dim=1)
            top = tile.top
        weights = _ramp(tile.height)[:, None] * _ramp(tile.width)[None, :]
        band[:, :, tile.left : tile.left + tile.width] += found * weights.to(found)
    if band is not None:
        best[top:], share[top:] = _winners(band)
    return best, share


def joined(tiles: Sequence[Tile], things: Sequence[Sequence[Thing]]) -> list[Thing]:
    """Things seen in several tiles become one, whose score is the mean over the pixels of its parts.

    Args:
        tiles: of a picture.
        things: those of every tile, their masks in the picture's pixels.
    """
    flat = [(number, thing) for number, found in enumerate(things) for thing in found]
    parent = list(range(len(flat)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i, (tile, thing) in enumerate(flat):
        for j, (other_tile, other) in enumerate(flat[:i]):
            if tile != other_tile and thing.class_id == other.class_id:
                common = _common(tiles[tile], tiles[other_tile])
                if common is not None and _agree(thing.mask, other.mask, common):
                    low, high = sorted((root(i), root(j)))
                    parent[high] = low
    groups: dict[int, list[Thing]] = {}
    for i, (_, thing) in enumerate(flat):
        groups.setdefault(root(i), []).append(thing)
    return [_united(group) for group in groups.values()]


def _starts(length: int, side: int) -> tuple[list[int], int]:
    if not side or length <= side:
        return [0], length
    count = math.ceil((length - OVERLAP * side) / (side - OVERLAP * side))
    return [round(i * (length - side) / (count - 1)) for i in range(count)], side


def _ramp(length: int) -> Float[Tensor, "n"]:
    """Weights that rise from a tile's edges to 1 within the overlap."""
    place = torch.arange(length)
    return torch.minimum(place + 1, length - place).clamp(max=max(1, int(OVERLAP * length))).float()


def _winners(scores: Float[Tensor, "C h w"]) -> tuple[np.ndarray, np.ndarray]:
    value, channel = scores.max(dim=0)
    share = value / scores.sum(dim=0).clamp(min=torch.finfo(scores.dtype).tiny)
    return channel.cpu().numpy(), share.cpu().numpy()


def _common(one: Tile, other: Tile) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right) of what both show."""
    top, left = max(one.top, other.top), max(one.left, other.left)
    bottom = min(one.top + one.height, other.top + other.height)
    right = min(one.left + one.width, other.left + other.width)
    return (top, left, bottom, right) if top < bottom and left < right else None


def _agree(one: Mask, other: Mask, common: tuple[int, int, int, int]) -> bool:
    a, b = _seen(one, common), _seen(other, common)
    union = np.count_nonzero(a | b)
    return bool(union and np.count_nonzero(a & b) > _SAME * union)


def _seen(mask: Mask, window: tuple[int, int, int, int]) -> np.ndarray:
    """The pixels of a mask in a window of the picture."""
    top, left, bottom, right = window
    found = np.zeros((bottom - top, right - left), dtype=bool)
    y0, x0 = max(top, mask.top), max(left, mask.left)
    y1, x1 = min(bottom, mask.top + mask.inside.shape[0]), min(right, mask.left + mask.inside.shape[1])
    if y0 < y1 and x0 < x1:
        inside = mask.inside[y0 - mask.top : y1 - mask.top, x0 - mask.left : x1 - mask.left]
        found[y0 - top : y1 - top, x0 - left : x1 - left] = inside
    return found


def _united(things: Sequence[Thing]) -> Thing:
    if len(things) == 1:
        return things[0]
    masks = [thing.mask for thing in things]
    top, left = min(m.top for m in masks), min(m.left for m in masks)
    bottom = max(m.top + m.inside.shape[0] for m in masks)
    right = max(m.left + m.inside.shape[1] for m in masks)
    inside = np.logical_or.reduce([_seen(mask, (top, left, bottom, right)) for mask in masks])
    areas = [mask.area for mask in masks]
    score = sum(thing.score * area for thing, area in zip(things, areas, strict=True)) / sum(areas)
    return replace(things[0], mask=cut_out(inside, top, left), score=score)
