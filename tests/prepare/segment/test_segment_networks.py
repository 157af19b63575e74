"""What networks answer, against transformers' own post-processing; in half precision; the domain segmenter."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mamoe.errors import ConfigError
from mamoe.models.segmenter import Segmenter
from mamoe.models.segmenter_files import WEIGHTS, write_segmenter
from mamoe.prepare.segment import networks
from mamoe.prepare.segment.labels import meaning_of
from mamoe.prepare.segment.networks import describe, load_network, load_transformers
from mamoe.prepare.segment.reading import Reader
from mamoe.vocabulary.taxonomy import Taxonomy
from tiny_segmenters import LABELS, SIDE

TAXONOMY = Taxonomy.from_dict(
    {
        "name": "labels",
        "void_id": 9,
        "classes": [
            {"id": i, "name": name, "thing": i in (1, 3), "colour": [i, i, i]}
            for i, name in enumerate(["road", "car", "chandelier", "person"])
        ],
    }
)
MEANING = meaning_of(list(LABELS.values()), TAXONOMY, {}, "tiny")


def pictures(*sizes):
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def reader_of(folder):
    return Reader(network=load_network(str(folder), "cpu"), meaning=MEANING, least=0.0, tile=0, batch=2)


def test_classes_are_those_of_transformers_itself(network):
    (image,) = pictures((SIDE, SIDE))
    (seen,) = reader_of(network).read([image])
    loaded = load_transformers(str(network), "cpu")
    with torch.no_grad():
        outputs = loaded.outputs([Image.fromarray(image)])
    tools = getattr(loaded.processor, "image_processor", loaded.processor)
    own = tools.post_process_semantic_segmentation(outputs, target_sizes=[(SIDE, SIDE)])[0].numpy()
    assert (seen.class_id == own).mean() > (0.999 if network.name == "segformer" else 0.9), "masks are resized twice"


def test_things_are_those_of_transformers_itself(network):
    if network.name == "segformer":
        return
    (image,) = pictures((SIDE, SIDE))
    (seen,) = reader_of(network).read([image])
    loaded = load_transformers(str(network), "cpu")
    with torch.no_grad():
        outputs = loaded.outputs([Image.fromarray(image)])
    chance, label = outputs.class_queries_logits[0].softmax(-1).max(-1)
    masks = torch.nn.functional.interpolate(outputs.masks_queries_logits, (SIDE, SIDE), mode="bilinear")[0]
    wanted = sorted(
        round(float(p * mask[mask > 0].sigmoid().mean()), 3)
        for p, k, mask in zip(chance, label, masks, strict=True)
        if int(k) in (1, 3) and (mask > 0).any()
    )
    assert wanted and sorted(round(thing.score, 3) for thing in seen.things) == pytest.approx(wanted, abs=2e-3)


def test_any_shape_of_picture(network):
    for image, seen in zip(
        images := pictures((20, 200), (200, 30), (1, 5)), reader_of(network).read(images), strict=True
    ):
        assert seen.class_id.shape == seen.confidence.shape == image.shape[:2]
        assert np.isfinite(seen.confidence).all() and seen.confidence.max() <= 1 + 1e-6


def test_half_precision_answers_nearly_the_same(network, monkeypatch):
    images = np.stack(pictures((48, 80), (48, 80)))
    loaded = load_network(str(network), "cpu")
    exact = loaded.answers(images)
    monkeypatch.setattr(networks, "drawing_format", lambda device: torch.bfloat16)
    for one, other in zip(exact, loaded.answers(images), strict=True):
        assert other.scores.dtype == torch.float32 and not torch.equal(one.scores, other.scores)
        assert (one.scores - other.scores).abs().mean() < 0.05 * one.scores.abs().mean()


def test_the_domain_segmenter_is_a_network(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learned = Segmenter(4).eval()
    write_segmenter(tmp_path, learned, {"classes": ["road", "car", "chandelier", "person"]})
    assert describe(str(tmp_path)).labels == ("road", "car", "chandelier", "person")
    images = pictures((50, 70), (50, 70), (33, 32))
    for seen, labels in zip(reader_of(tmp_path).read(images), learned.predict(images), strict=True):
        assert np.array_equal(seen.class_id, labels) and seen.things is None
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-1])
    for look in (describe, lambda name: load_network(name, "cpu")):
        with pytest.raises(ConfigError, match="damaged"):
            look(str(tmp_path))


def test_pickles_and_foreign_code_are_refused(network, tmp_path):
    folder = tmp_path / "net"
    shutil.copytree(network, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        load_network(str(folder), "cpu")
    told = json.loads((folder / "config.json").read_text())
    told |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(told))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ConfigError, match="Cannot load the segmenter"):
        describe(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_is_not_there_is_no_hub_name(tmp_path):
    with pytest.raises(ConfigError, match="nothing: there is no such folder"):
        load_network(str(tmp_path / "nothing"), "cpu")
