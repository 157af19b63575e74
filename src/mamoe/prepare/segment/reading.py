"""Pictures as a network sees them: classes, and single things, in the classes of a taxonomy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from mamoe.prepare.fuse.masks import cut_out
from mamoe.prepare.fuse.rules import Thing
from mamoe.prepare.segment.labels import Meaning
from mamoe.prepare.segment.networks import Answer, Network, Queries
from mamoe.prepare.segment.tiles import Tile, joined, merged, tiles_of

Image = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Seen:
    """What a network sees in a picture."""

    class_id: UInt8[np.ndarray, "H W"]  # void: none of the classes
    confidence: Float32[np.ndarray, "H W"]  # share of that class in what all classes score there, in [0, 1]
    things: Sequence[Thing] | None  # None: the network does not tell single things apart


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reader:
    """A network that reads pictures of any size."""

    network: Network
    meaning: Meaning
    least: float  # score below which no thing is kept, in [0, 1]
    tile: int  # longest side of what the network is shown at once, in pixels; 0: any
    batch: int  # tiles it is shown at once

    def read(self, images: Sequence[Image]) -> list[Seen]:
        """Pictures u8 of any sizes; what is seen in one does not depend on the others."""
        tiles = [tiles_of(image.shape[:2], self.tile) for image in images]
        answers = self._answers([(image, tile) for image, own in zip(images, tiles, strict=True) for tile in own])
        return [self._seen(image.shape[:2], own, answers) for image, own in zip(images, tiles, strict=True)]

    def _answers(self, shown: Sequence[tuple[Image, Tile]]) -> Iterator[Answer]:
        """In order; neighbours of one size go to the network together."""
        done = 0
        while done < len(shown):
            size = shown[done][1].height, shown[done][1].width
            together = [image[tile.box] for image, tile in shown[done : done + self.batch]]
            alike = next((i for i, one in enumerate(together) if one.shape[:2] != size), len(together))
            yield from self.network.answers(np.stack(together[:alike]))
            done += alike

    def _seen(self, size: tuple[int, int], tiles: Sequence[Tile], answers: Iterator[Answer]) -> Seen:
        channels = _channels(self.meaning)
        things: list[list[Thing]] = []

        def scores() -> Iterator[Float[Tensor, "C h w"]]:
            for tile, answer in zip(tiles, islice(answers, len(tiles)), strict=True):
                if answer.queries is not None:
                    things.append(_things(answer.queries, tile, self.meaning, self.least))
                yield _scores(answer, tile, list(channels.values()))

        best, confidence = merged(size, tiles, scores())
        class_id = np.array(list(channels), dtype=np.uint8)[best]
        if not self.network.finds_things:
            return Seen(class_id=class_id, confidence=confidence, things=None)
        if not self.meaning.knows_stuff:  # of a pixel that belongs to no thing it says nothing
            class_id = np.full_like(class_id, self.meaning.taxonomy.void_id)
        return Seen(class_id=class_id, confidence=confidence, things=joined(tiles, things))


def _channels(meaning: Meaning) -> dict[int, list[int]]:
    """The labels of every class that has some, void's too."""
    found: dict[int, list[int]] = {}
    for label, class_id in enumerate(meaning.class_of):
        found.setdefault(class_id, []).append(label)
    return found


def _scores(answer: Answer, tile: Tile, channels: Sequence[Sequence[int]]) -> Float[Tensor, "C h w"]:
    """Of classes at the tile's size: a class scores what the best of its labels does."""
    reduced = torch.stack([answer.scores[list(labels)].amax(dim=0) for labels in channels])
    large = F.interpolate(reduced[None], (tile.height, tile.width), mode="bilinear", align_corners=False)[0]
    return large.softmax(dim=0) if answer.queries is None else large


def _things(queries: Queries, tile: Tile, meaning: Meaning, least: float) -> list[Thing]:
    """The single things of a tile, in the picture's pixels. A thing's score is the probability of its label times the
    mean of its mask's, as networks of this kind are scored."""
    chance, label = queries.probabilities.max(dim=-1)
    found = []
    for i in torch.nonzero(chance >= least).flatten().tolist():
        if label[i] == len(meaning.class_of):  # there is nothing
            continue
        class_id = meaning.class_of[int(label[i])]
        if class_id == meaning.taxonomy.void_id or not meaning.taxonomy.is_thing(class_id):
            continue
        size = (tile.height, tile.width)
        logits = F.interpolate(queries.masks[None, None, i], size, mode="bilinear", align_corners=False)[0, 0]
        inside = logits > 0
        if not inside.any():
            continue
        score = float(chance[i] * logits[inside].sigmoid().mean())
        if score >= least:
            mask = cut_out(inside.cpu().numpy(), tile.top, tile.left)
            found.append(Thing(mask=mask, class_id=class_id, score=score))
    return found
