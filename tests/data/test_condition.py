"""Condition pictures: drawn from the map or read from a folder, always aligned with the picture."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from inspecting import inspected
from mamoe.conditioning.collate import Collator
from mamoe.data.condition import Drawn, drawn_condition, drawn_kind
from mamoe.data.dataset import LayoutDataset
from mamoe.data.geometry.joint import Geometry
from mamoe.errors import DatasetError
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load("cityscapes")
RANDOM = Geometry(size=(32, 32), crop="random", flip=0.5)


def street() -> PanopticMap:
    """Two cars side by side before the sky, and void without a segment in a corner."""
    segment, klass = np.zeros((32, 64), dtype=np.int32), np.full((32, 64), 10, dtype=np.uint8)
    segment[16:28, 8:20], segment[16:28, 20:40], klass[16:28, 8:40] = 1, 2, 13
    klass[:6, :6] = 19
    return PanopticMap(segment_id=segment, class_id=klass)


@pytest.fixture
def folder(tmp_path):
    """Pictures whose condition pictures in ``shown`` are their negatives."""
    for split in ("train", "val"):
        for part in ("images", "maps", "shown"):
            (tmp_path / part / split).mkdir(parents=True)
        for name in ("a1.png", "a2.png"):
            image = TAXONOMY.palette[street().class_id]
            Image.fromarray(image).save(tmp_path / "images" / split / name)
            Image.fromarray(255 - image).save(tmp_path / "shown" / split / name)
            street().write(tmp_path / "maps" / split / name)
    return tmp_path


def dataset(folder, condition, geometry=RANDOM, split="train"):
    return LayoutDataset(
        images=folder / "images",
        panoptic_maps=folder / "maps",
        split=split,
        prompts=None,
        instance_prompts=None,
        taxonomy=TAXONOMY,
        geometry=geometry,
        seed=0,
        condition=condition,
    )


def test_classes_have_their_colours_and_instances_are_not_told_apart():
    picture = drawn_condition(street(), TAXONOMY, Drawn.CLASSES)
    assert np.array_equal(picture, TAXONOMY.palette[street().class_id])
    assert np.array_equal(picture[20, 10], picture[20, 30]) and not picture[0, 0].any()


def test_edges_are_the_pixels_beside_another_segment_or_class():
    panoptic = street()
    ids = panoptic.segment_id * 256 + panoptic.class_id
    wanted = np.zeros(ids.shape, dtype=bool)
    for y, x in np.ndindex(*ids.shape):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        inside = [p for p in around if 0 <= p[0] < ids.shape[0] and 0 <= p[1] < ids.shape[1]]
        wanted[y, x] = any(ids[p] != ids[y, x] for p in inside)
    assert np.array_equal(drawn_condition(panoptic, TAXONOMY, Drawn.EDGES), 255 * wanted[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("kind", list(Drawn))
def test_a_mirrored_map_gives_a_mirrored_picture(kind):
    panoptic = street()
    mirrored = PanopticMap(segment_id=panoptic.segment_id[:, ::-1].copy(), class_id=panoptic.class_id[:, ::-1].copy())
    assert np.array_equal(drawn_condition(mirrored, TAXONOMY, kind), drawn_condition(panoptic, TAXONOMY, kind)[:, ::-1])
    assert drawn_kind(kind) is kind and drawn_kind(f"./{kind}") is None and drawn_kind(None) is None


def test_drawn_pictures_follow_the_map_through_the_geometry(folder):
    for epoch in range(6):
        sample = dataset(folder, "edges")[epoch, 0]
        wanted = drawn_condition(sample.panoptic, TAXONOMY, Drawn.EDGES)
        assert np.array_equal(sample.condition.permute(1, 2, 0).numpy(), wanted)
        assert torch.equal(dataset(folder, "classes")[epoch, 0].condition, sample.image)  # the pictures are the colours
    assert dataset(folder, None)[0].condition is None


def test_pictures_of_a_folder_move_with_the_picture_and_keep_their_colours(folder):
    source = dataset(folder, str(folder / "shown"))
    seen = [source[epoch, 1] for epoch in range(8)]
    assert all(torch.equal(sample.condition, 255 - sample.image) for sample in seen)
    assert len({sample.image.numpy().tobytes() for sample in seen}) > 3
    plain = dataset(folder, None)
    assert all(torch.equal(plain[epoch, 1].image, seen[epoch].image) for epoch in range(8))
    inverted = Geometry(size=(32, 64), extra=[v2.RandomInvert(p=1.0), v2.RandomHorizontalFlip(p=1.0)])
    sample = dataset(folder, str(folder / "shown"), inverted)[0]
    assert torch.equal(sample.condition, sample.image)  # the picture turned negative, the condition did not


def test_a_batch_carries_the_pictures_and_drops_them_one_by_one(folder):
    source = dataset(folder, "classes")
    collate = Collator(LayoutSettings(taxonomy=TAXONOMY))
    samples = [source[0, 0], source[1, 1]]
    regions = collate(samples).regions
    assert torch.equal(regions.condition, torch.stack([sample.condition for sample in samples]))
    dropped = regions.drop(torch.tensor([True, False]))
    assert not dropped.condition[0].any() and torch.equal(dropped.condition[1], samples[1].condition)
    assert not regions.null_like().condition.any() and regions.condition[0].any()
    assert collate([dataset(folder, None)[0]]).regions.condition is None
    with pytest.raises(ValueError, match="all alike have a condition picture or none"):
        collate([samples[0], dataset(folder, None)[0]])


def test_problems_are_reported_with_the_others(folder):
    (folder / "shown/train/a1.png").unlink()
    (folder / "maps/train/a2.png").unlink()
    with pytest.raises(DatasetError) as caught:
        inspected(dataset(folder, str(folder / "shown")))
    assert "a1.png has no condition picture in" in str(caught.value) and "a2.png has no panoptic map" in str(
        caught.value
    )
    Image.new("RGB", (40, 32)).save(folder / "shown/val/a1.png")
    (folder / "shown/val/a2.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError) as caught:
        inspected(dataset(folder, str(folder / "shown"), split="val"))
    assert "a1.png has (height, width) (32, 40), but its picture has (32, 64)" in str(caught.value)
    assert "Cannot read the picture" in str(caught.value)
    with pytest.raises(DatasetError, match=r"a1.png has \(height, width\) \(32, 40\)"):
        dataset(folder, str(folder / "shown"), split="val")[0]
    with pytest.raises(DatasetError, match="cannot list the folder of condition pictures"):
        inspected(dataset(folder, str(folder / "nowhere")))
