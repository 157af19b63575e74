"""Photographs segmented by a network this package learned from others of the same streets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factories import mamoe
from mamoe.data.reading.pictures import read_picture
from mamoe.evaluation.layout.fidelity import iou, pixel_counts
from mamoe.models.segmenter import MULTIPLE, train_segmenter
from mamoe.models.segmenter_files import write_segmenter
from mamoe.vocabulary.panoptic import read_panoptic
from mamoe.vocabulary.taxonomy import Taxonomy

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "camvid"


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real photographs are not beside the checkout")
def test_camvid_is_segmented_by_the_domain_segmenter(tmp_path):
    names = [row.name for row in Taxonomy.load("camvid").classes]
    pictures = sorted((REAL / "train").glob("*.png"))
    labels = [np.array(Image.open(REAL / "trainannot" / path.name)) for path in pictures]
    cut = tuple(slice(0, side // MULTIPLE * MULTIPLE) for side in labels[0].shape)
    images = np.stack([read_picture(path)[cut] for path in pictures])
    learned = train_segmenter(images, np.stack([one[cut] for one in labels]), num_classes=len(names), seed=0, epochs=6)
    write_segmenter(tmp_path / "store", learned, {"classes": names})
    found = {}
    for tile in (0, 240):
        out = tmp_path / f"maps{tile}"
        words = ["--model", tmp_path / "store", "--classes", "camvid", "--tile", tile, "--device", "cpu"]
        outcome = mamoe("prepare", "segment", REAL / "val", out, *words)
        assert outcome.code == 0 and "11 of the network's 11 labels" in outcome.out, outcome.err
        counts = np.zeros((3, len(names)))
        for path in sorted((REAL / "valannot").glob("*.png")):
            seen = read_panoptic(out / "panoptic/train" / path.name).class_id
            counts += pixel_counts(seen, np.array(Image.open(path)), len(names))
            if not tile and path.name.endswith("0.png"):
                assert np.array_equal(seen, learned.predict([read_picture(REAL / "val" / path.name)])[0])
        found[tile] = float(np.nanmean(iou(counts)))
        accuracy = counts[0].sum() / counts[1].sum()
        print(f"CamVid val, tile {tile}: mIoU {found[tile]:.3f}, pixel accuracy {accuracy:.3f}")
    # Its validation pictures are of another video than most of the 60 it learns from. A map of one class has 0.03.
    assert found[0] > 0.15 and abs(found[0] - found[240]) < 0.06
