"""Networks of transformers as segmenters: tiny ones with random weights, and the names they bring."""

import numpy as np
import pytest
import torch

from mamoe.errors import ConfigError
from mamoe.evaluation.layout.asked import Classes
from mamoe.evaluation.layout.labellers import load_labeller
from mamoe.evaluation.layout.panoptic_quality import VOID
from mamoe.prepare.segment.labels import matched
from mamoe.vocabulary.taxonomy import Taxonomy
from tiny_segmenters import mask2former, oneformer, segformer, tiny_segmenter

CLASSES = Classes.of(Taxonomy.load("cityscapes"))


def test_labels_are_matched_by_name():
    labels = ["Traffic-Light", "tree-merged", "vegetation", "road;route", "buses", "bus", "grass", "sky-other-merged"]
    names = [None if i is None else CLASSES.names[i] for i in matched(labels, CLASSES.names)]
    assert names == ["traffic light", None, "vegetation", "road", None, "bus", None, "sky"]


@pytest.fixture(scope="module", params=[segformer, mask2former, oneformer])
def folder(request, tmp_path_factory):
    return tiny_segmenter(request.param, tmp_path_factory.mktemp("labeller") / request.param.__name__)


def test_tiny_networks_read_pictures(folder):
    labeller = load_labeller(str(folder), CLASSES)
    assert labeller.panoptic == (folder.name != "segformer")
    known = {CLASSES.names.index(name) for name in ("road", "car", "person")}
    assert labeller.unknown == set(range(19)) - known
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((48, 80, 3), (64, 64, 3))]
    readings = labeller.read(images)
    for image, reading in zip(images, readings, strict=True):
        assert reading.labels.shape == reading.class_id.shape == reading.segment_id.shape == image.shape[:2]
        assert {int(i) for i in np.unique(reading.labels)} <= known | {VOID}
    alone = labeller.read(images[1:])[0]
    assert np.array_equal(alone.labels, readings[1].labels)

    if not labeller.panoptic:  # the likeliest label by the network's own words
        inputs = labeller.loaded.processor(images=images[1], return_tensors="pt")
        with torch.no_grad():
            output = labeller.loaded.network(pixel_values=inputs["pixel_values"])
        logits = torch.nn.functional.interpolate(output.logits, (64, 64), mode="bilinear", align_corners=False)
        assert np.array_equal(readings[1].labels, labeller.number_of_label[logits.argmax(1)[0].numpy()])


def test_segments_become_instances(folder):
    labeller = load_labeller(str(folder), CLASSES)
    labels = np.full((2, 4), VOID, dtype=np.uint8)
    segmentation = np.array([[7, 7, 9, -1], [7, 7, 9, 9]])
    reading = labeller._segments(labels, segmentation, [{"id": 7, "label_id": 1}, {"id": 9, "label_id": 2}])
    car = CLASSES.names.index("car")
    assert reading.class_id.tolist() == [[car, car, VOID, VOID], [car, car, VOID, VOID]]
    assert len(np.unique(reading.segment_id[reading.class_id == car])) == 1


def test_what_cannot_be_loaded_is_explained(tmp_path, folder):
    with pytest.raises(ConfigError, match="Cannot load the segmenter"):
        load_labeller(str(tmp_path / "nowhere"), CLASSES)
    with pytest.raises(ConfigError, match="None of the labels"):
        load_labeller(
            str(folder),
            Classes.of(
                Taxonomy.from_dict(
                    {
                        "name": "sea",
                        "void_id": 9,
                        "classes": [{"id": 0, "name": "ship", "thing": True, "colour": [0, 0, 0]}],
                    }
                )
            ),
        )
