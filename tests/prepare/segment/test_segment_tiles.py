"""Tiles: they cover a picture, and what is seen in them is what would be seen in the whole."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from mamoe.prepare.fuse.masks import cut_out
from mamoe.prepare.fuse.rules import Thing
from mamoe.prepare.segment.labels import Meaning
from mamoe.prepare.segment.networks import Answer, Queries
from mamoe.prepare.segment.reading import Reader
from mamoe.prepare.segment.tiles import OVERLAP, Tile, joined, tiles_of
from mamoe.vocabulary.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load("cityscapes")
ROAD, SKY, CAR = (next(row.id for row in TAXONOMY.classes if row.name == name) for name in ("road", "sky", "car"))
MEANING = Meaning(labels=("road", "sky", "car"), class_of=(ROAD, SKY, CAR), taxonomy=TAXONOMY)


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (64, 200), (150, 333), (7, 1000)])
def test_tiles_cover_a_picture_and_overlap(size):
    tiles = tiles_of(size, 64)
    covered = np.zeros(size, dtype=int)
    for tile in tiles:
        assert covered[tile.box].shape == (tile.height, tile.width) == (min(64, size[0]), min(64, size[1]))
        covered[tile.box] += 1
    assert covered.min() >= 1
    for starts in (sorted({tile.top for tile in tiles}), sorted({tile.left for tile in tiles})):
        assert all(b - a <= 64 * (1 - OVERLAP) + 1 for a, b in pairwise(starts))
    assert tiles_of(size, 0) == [Tile(top=0, left=0, height=size[0], width=size[1])]


class Local:
    """Sees every pixel alone: red is road, green sky, blue car; with queries, a car for each shade of blue there is."""

    def __init__(self, finds_things):
        self.finds_things, self.shown = finds_things, []

    def answers(self, images):
        self.shown.append(images.shape)
        assert (images.shape[1] <= 48 and images.shape[2] <= 48) or len(self.shown) == 1
        return [self.answer(torch.from_numpy(image).permute(2, 0, 1).float()) for image in images]

    def answer(self, rgb):
        if not self.finds_things:
            return Answer(scores=rgb / 64, queries=None)
        shades = [shade for shade in (200, 220, 240) if (rgb[2] == shade).any()]
        masks = torch.stack([torch.where(rgb[2] == shade, 9.0, -9.0) for shade in [*shades, 0]])
        chances = torch.tensor([[0.01, 0.01, 0.97, 0.01]] * len(shades) + [[0.1, 0.1, 0.1, 0.7]])
        return Answer(scores=rgb / 255, queries=Queries(probabilities=chances, masks=masks))


def read(image, finds_things, tile, batch=3):
    network = Local(finds_things)
    reader = Reader(network=network, meaning=MEANING, least=0.5, tile=tile, batch=batch)
    (seen,) = reader.read([image])
    return seen, network


def picture(rng):
    image = rng.integers(0, 100, (130, 170, 3), dtype=np.uint8)
    image[20:60, 10:150] = (0, 0, 200)  # over four tiles
    image[70:120, 30:40] = (0, 0, 220)
    image[70:120, 44:160:2] = (0, 0, 240)
    return image


@pytest.mark.parametrize("finds_things", [False, True])
def test_a_local_network_sees_the_same_in_tiles(finds_things):
    image = picture(np.random.default_rng(3))
    whole, _ = read(image, finds_things, 0)
    tiled, network = read(image, finds_things, 48)
    assert len(network.shown) > 3 and max(shape[0] for shape in network.shown) == 3
    assert np.array_equal(whole.class_id, np.array([ROAD, SKY, CAR])[image.argmax(-1)]), "the oracle"
    assert np.array_equal(tiled.class_id, whole.class_id)
    assert np.allclose(tiled.confidence, whole.confidence, atol=1e-5)
    if finds_things:
        assert len(whole.things) == len(tiled.things) == 3

        def drawn(things):
            found = {}
            for thing in things:
                mask = np.zeros(image.shape[:2], dtype=bool)
                mask[thing.mask.box] = thing.mask.inside
                found[mask.tobytes()] = round(thing.score, 4)
            return found

        assert drawn(tiled.things) == drawn(whole.things)


def test_pictures_do_not_depend_on_each_other():
    rng = np.random.default_rng(4)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((40, 40, 3), (40, 40, 3), (30, 47, 3))]
    together = Reader(network=Local(False), meaning=MEANING, least=0.5, tile=48, batch=8).read(images)
    for image, seen in zip(images, together, strict=True):
        alone, _ = read(image, False, 48, 1)
        assert np.array_equal(alone.class_id, seen.class_id)


def thing(box, class_id=CAR, score=0.9):
    mask = np.zeros((100, 100), dtype=bool)
    mask[box] = True
    return Thing(mask=cut_out(mask), class_id=class_id, score=score)


def test_things_are_joined_only_where_they_agree():
    tiles = [Tile(top=0, left=0, height=100, width=60), Tile(top=0, left=40, height=100, width=60)]
    left, right = thing(np.s_[10:20, 30:60], score=0.8), thing(np.s_[10:20, 40:80], score=0.6)
    (one,) = joined(tiles, [[left], [right]])
    assert one.mask.area == 10 * 50 and one.score == pytest.approx((0.8 * 300 + 0.6 * 400) / 700)
    other_class = thing(np.s_[10:20, 40:80], class_id=CAR + 1)
    assert len(joined(tiles, [[left], [other_class]])) == 2
    beside = thing(np.s_[18:30, 40:80])
    assert len(joined(tiles, [[left], [beside]])) == 2
    assert len(joined(tiles, [[left, thing(np.s_[12:22, 30:60])], []])) == 2, "of one tile"
