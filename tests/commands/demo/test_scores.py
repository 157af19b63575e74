"""The demo's figures come from `mamoe evaluate`; here they are worked out once more from the pictures themselves."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from factories import drawn_data, mamoe
from mamoe.commands.demo.scores import measured, side_by_side
from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.description import data_folder
from mamoe.data.geometry.joint import Geometry
from mamoe.evaluation.layout.attributes import colour_hits, fit_vocabulary, named_colours, swap_colours
from mamoe.models.segmenter import train_segmenter
from mamoe.scenes import COLOURS

WORDS = tuple(COLOURS)


def samples(data, split):
    parts = data_folder(data)
    where = {name: getattr(parts, name) for name in ("images", "panoptic_maps", "prompts", "instance_prompts")}
    source = LayoutDataset(**where, split=split, taxonomy=parts.taxonomy, geometry=Geometry(size=(64, 128)), seed=0)
    return [source.unaugmented()[i] for i in range(len(source))]


def words_of(sample):
    return named_colours(sample.prompts.by_segment, WORDS)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What a demo leaves: data, and three folders of pictures of its test layouts."""
    out = tmp_path_factory.mktemp("demo")
    data = drawn_data(out / "data", {"train": 24, "test": 8}, height=64, width=128)
    rng, told = np.random.default_rng(0), {}
    for name in ("mamoe", "swapped", "base"):
        (out / "drawn" / name).mkdir(parents=True)
    for sample in samples(data, "test"):
        prompts = swap_colours(sample.prompts.by_segment, WORDS, rng)
        told[sample.key] = {str(segment): prompt for segment, prompt in prompts.items()}
        picture = sample.picture
        painted = picture.copy()
        for segment, word in named_colours(prompts, WORDS).items():
            painted[sample.panoptic.segment_id == segment] = COLOURS[word]
        noisy = (picture + rng.normal(0, 40, picture.shape)).clip(0, 255).astype(np.uint8)
        for name, drawn in (("mamoe", noisy), ("swapped", painted), ("base", np.full_like(picture, 128))):
            Image.fromarray(drawn).save(out / "drawn" / name / f"{sample.key.removesuffix('.png')}.png")
    (out / "prompts.json").write_text(json.dumps(told))
    return out


@pytest.fixture(scope="module")
def tables(demo):
    return {
        name: measured(demo / "drawn" / name, demo / "data", demo / "eval" / name, seed=0, prompts=prompts)
        for name, prompts in (("mamoe", None), ("swapped", demo / "prompts.json"), ("base", None))
    }


@pytest.mark.slow
def test_they_are_what_the_pictures_show(demo, tables):
    trains, tests = samples(demo / "data", "train"), samples(demo / "data", "test")
    maps, told = [sample.panoptic for sample in tests], json.loads((demo / "prompts.json").read_text())
    vocabulary = fit_vocabulary(
        [s.picture for s in trains], [s.panoptic for s in trains], [words_of(s) for s in trains]
    )
    segmenter = train_segmenter(
        np.stack([s.picture for s in trains]), np.stack([s.panoptic.class_id for s in trains]), num_classes=19, seed=0
    )
    asked = [words_of(sample) for sample in tests]
    swapped = [named_colours({int(i): text for i, text in told[s.key].items()}, WORDS) for s in tests]

    def drawn(name):
        return [np.array(Image.open(path)) for path in sorted((demo / "drawn" / name).glob("*.png"))]

    def rate(images, colours):
        found = colour_hits(images, maps, colours, vocabulary)
        return found.hits / found.n

    def accuracy(images):
        wanted, labels = np.stack([m.class_id for m in maps]), np.stack(segmenter.predict(images))
        return (labels == wanted)[wanted < 19].mean()

    real = [sample.picture for sample in tests]
    count = colour_hits(real, maps, asked, vocabulary).n
    scores = side_by_side(tables, instances=count, chance=1 / len(WORDS), caption_chance=0.3)
    plain = json.loads(json.dumps(scores.to_dict()))
    wanted = {
        "colour_real": rate(real, asked),
        "colour_mamoe": rate(drawn("mamoe"), asked),
        "colour_swapped": rate(drawn("swapped"), swapped),
        "colour_base": rate(drawn("base"), asked),
        "layout_accuracy_real": accuracy(real),
        "layout_accuracy_mamoe": accuracy(drawn("mamoe")),
    }
    assert {name: plain[name] for name in wanted} == {name: round(float(value), 4) for name, value in wanted.items()}
    assert plain["colour_swapped"] > 0.8 > 0.4 > plain["colour_base"] and plain["colour_instances"] == count
    assert plain["layout_accuracy_real"] > plain["layout_accuracy_mamoe"]
    assert plain["colour_swapped_to_real"] == round(wanted["colour_swapped"] / wanted["colour_real"], 4)
    assert plain["layout_mamoe_to_real"] == round(scores.layout_share, 4)


def test_the_command_gives_the_same_table(demo, tables, tmp_path):
    words = ["--data", demo / "data", "--scores", "layout", "--out", tmp_path / "eval", "--device", "cpu"]
    shutil.copytree(demo / "drawn" / "swapped", tmp_path / "swapped")
    outcome = mamoe("evaluate", tmp_path / "swapped", *words, "--instance-prompts", demo / "prompts.json")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "eval/metrics.json").read_text() == (demo / "eval/swapped/metrics.json").read_text()


def test_other_prompts_are_another_reference(tables):
    """Numbers measured against other prompts do not stand in one table."""
    of = {name: table.rows[0].scores[0].protocol.reference for name, table in tables.items()}
    assert of["mamoe"] == of["base"] != of["swapped"]


def test_prompts_without_maps_are_refused(demo, tmp_path):
    prompts = demo / "prompts.json"
    outcome = mamoe("evaluate", demo / "drawn/base", "--against", demo / "drawn/mamoe", "--instance-prompts", prompts)
    assert outcome.code == 2 and "name their data set with --data" in outcome.err
