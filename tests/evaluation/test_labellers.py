"""Networks of transformers as segmenters: tiny ones with random weights, and the names they bring."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    OneFormerImageProcessor,
    OneFormerProcessor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
)

from mamoe.bases.tiny import new_tokenizer
from mamoe.errors import ConfigError
from mamoe.evaluation.layout.asked import Classes
from mamoe.evaluation.layout.labellers import load_labeller, matched
from mamoe.evaluation.layout.panoptic_quality import VOID
from mamoe.vocabulary.taxonomy import Taxonomy

CLASSES = Classes.of(Taxonomy.load("cityscapes"))
LABELS = {0: "road, route", 1: "car, auto", 2: "chandelier", 3: "persons"}
SIDE = 64


def test_labels_are_matched_by_name():
    labels = ["Traffic-Light", "tree-merged", "vegetation", "road;route", "buses", "bus", "grass", "sky-other-merged"]
    names = [CLASSES.names[i] if i != VOID else None for i in matched(labels, CLASSES.names)]
    assert names == ["traffic light", None, "vegetation", "road", None, "bus", None, "sky"]


def segformer(folder):
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        id2label=LABELS,
        num_labels=4,
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


SWIN = SwinConfig(
    image_size=SIDE,
    embed_dim=8,
    depths=[1, 1, 1, 1],
    num_heads=[1, 1, 1, 1],
    window_size=2,
    out_features=["stage1", "stage2", "stage3", "stage4"],
)


def mask2former(folder):
    config = Mask2FormerConfig(
        backbone_config=SWIN,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=8,
        id2label=LABELS,
        num_labels=4,
    )
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


def oneformer(folder):
    config = OneFormerConfig(
        backbone_config=SWIN,
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=8,
        text_encoder_width=32,
        text_encoder_num_layers=1,
        text_encoder_context_length=77,
        task_seq_len=77,
        is_training=False,
        id2label=LABELS,
        num_labels=4,
    )
    OneFormerForUniversalSegmentation(config).save_pretrained(folder)
    info = {str(i): {"name": name, "isthing": int(name in ("car, auto", "persons"))} for i, name in LABELS.items()}
    (folder / "classes.json").write_text(json.dumps(info))
    pictures = OneFormerImageProcessor(
        repo_path=str(folder), class_info_file="classes.json", num_text=4, size={"height": SIDE, "width": SIDE}
    )
    OneFormerProcessor(pictures, new_tokenizer(["the task is panoptic"])).save_pretrained(folder)


@pytest.fixture(scope="module", params=[segformer, mask2former, oneformer])
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp("labeller") / request.param.__name__
    with torch.random.fork_rng():
        torch.manual_seed(1)
        request.param(made)
    return made


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
        inputs = labeller.processor(images=images[1], return_tensors="pt")
        with torch.no_grad():
            output = labeller.network(pixel_values=inputs["pixel_values"])
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
