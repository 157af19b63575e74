"""Layout scores through `mamoe evaluate`, on drawn scenes whose answers are known."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from factories import drawn_data, mamoe
from mamoe.evaluation.layout import use
from mamoe.evaluation.layout.asked import Classes, Layout
from mamoe.evaluation.layout.domain import data_hash, domain_of
from mamoe.evaluation.layout.family import Asked, fidelity_family
from mamoe.evaluation.layout.panoptic_quality import Reading
from mamoe.evaluation.layout.text_regions import load_text_regions
from mamoe.evaluation.protocol import PictureSet
from mamoe.evaluation.table import Table
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

CLASSES = Classes.of(Taxonomy.load("scenes"))
LAYOUT = ("--scores", "layout", "--taxonomy", "scenes")


@pytest.fixture(scope="module")
def town(tmp_path_factory) -> Path:
    return drawn_data(tmp_path_factory.mktemp("town") / "data", {"train": 32, "val": 2, "test": 8})


def rows_in(folder: Path) -> dict:
    return {row.label: row for row in Table.from_dict(json.loads((folder / "metrics.json").read_text())).rows}


@pytest.fixture(scope="module")
def evaluated(town, tmp_path_factory) -> Path:
    """The test split itself as if it had been drawn, and its noise."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    outcome = mamoe("evaluate", town / "images/test", "--data", town, *LAYOUT, "--out", out)
    assert outcome.code == 0, outcome.err
    return out


def test_several_pictures_of_a_layout_are_held_against_it(evaluated, town, tmp_path):
    for picture in sorted((town / "images/test").iterdir()):
        for place in range(2):
            (tmp_path / "drawn").mkdir(exist_ok=True)
            (tmp_path / "drawn" / f"{picture.stem}_{place}{picture.suffix}").write_bytes(picture.read_bytes())
    outcome = mamoe("evaluate", tmp_path / "drawn", "--data", town, *LAYOUT, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    twice, once = rows_in(tmp_path / "out"), rows_in(evaluated)
    for name in ("mIoU-domain", "PQ-domain", "colour hits"):
        assert twice["generated"].score(name).value == pytest.approx(once["generated"].score(name).value), name
        # No surer than once: pictures of one layout are drawn together.
        intervals = [rows["generated"].score(name).interval for rows in (twice, once)]
        assert [one.over.value for one in intervals] == ["bootstrap over layouts", "bootstrap over images"]
        assert intervals[0].low == pytest.approx(intervals[1].low), name
    assert twice["generated"].score("pixel accuracy-domain").n == 16 and twice["real"].score("PQ-domain").n == 8


def test_real_pictures_reach_their_ceiling(evaluated, town):
    rows = rows_in(evaluated)
    assert list(rows) == ["generated", "real (train)", "autoencoder", "real"]
    for name in ("mIoU-domain", "pixel accuracy-domain", "PQ-domain", "colour hits", "IoU/road-domain"):
        assert rows["generated"].score(name).value == rows["real"].score(name).value > 0, name
    accuracy = rows["real"].score("pixel accuracy-domain")
    assert accuracy.value > 0.5 and accuracy.n == 8 and accuracy.interval is not None
    assert rows["real"].score("colour hits").value > 0.8
    assert rows["real (train)"].score("mIoU-domain").missing == "measured on held-out layouts alone"
    assert rows["autoencoder"].score("PQ-domain").missing == "the autoencoder is not given"
    assert rows["real"].score("IoU/train-domain").missing == "no pixel of it in the maps"  # none is ever drawn
    assert "no CLIP" in rows["real"].score("text agreement").missing
    assert "connected areas" in rows["real"].score("PQ-domain").protocol.name
    assert (town / "segmenter/64x64/manifest.json").is_file()


def test_shuffled_pictures_do_not(evaluated, town, tmp_path):
    """Every layout with the picture of another one: colours and classes are those of a town, the layout is not."""
    paths = sorted((town / "images/test").iterdir())
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for path, other in zip(paths, paths[1:] + paths[:1], strict=True):
        shutil.copy(other, wrong / path.name)
    before = (town / "segmenter/64x64/segmenter.safetensors").stat().st_mtime_ns
    assert mamoe("evaluate", wrong, "--data", town, *LAYOUT, "--out", tmp_path / "out").code == 0
    rows, right = rows_in(tmp_path / "out"), rows_in(evaluated)["real"]
    for name in ("mIoU-domain", "PQ-domain", "colour hits"):
        assert rows["generated"].score(name).value < 0.8 * right.score(name).value, name
        assert rows["real"].score(name).value == right.score(name).value
    assert (town / "segmenter/64x64/segmenter.safetensors").stat().st_mtime_ns == before  # learned once


def test_mistakes_are_explained(town, tmp_path):
    def refusal(*words) -> str:
        outcome = mamoe("evaluate", *words, "--out", tmp_path / "out")
        assert outcome.code in (2, 3) and "Traceback" not in outcome.err, outcome
        return outcome.err

    test = town / "images/test"
    assert "name their data set with --data" in refusal(test, "--against", test, "--scores", "layout")
    assert "no map in the split 'val'" in refusal(test, "--data", town, *LAYOUT, "--split", "val")
    assert "'camvid' was asked for" in refusal(test, "--data", town, "--scores", "layout", "--taxonomy", "camvid")
    assert "Cannot load the segmenter" in refusal(test, "--data", town, *LAYOUT, "--segmenter", tmp_path / "none")
    assert "Cannot load CLIP" in refusal(test, "--data", town, *LAYOUT, "--clip", tmp_path / "none")


def test_run_brings_its_maps(finished_run, tmp_path):
    out = tmp_path / "out"
    words = ("--scores", "layout", "--modes", "cfg", "--steps", 1, "--out", out)
    outcome = mamoe("evaluate", finished_run, *words)
    assert outcome.code == 0, outcome.err
    rows = rows_in(out)
    drawn, real = (rows[label].score("pixel accuracy-domain") for label in ("cfg", "real"))
    assert drawn.n == real.n == 2 and drawn.value is not None and real.value is not None
    assert drawn.protocol.generation.steps == 1 and real.protocol.generation is None


def scene(seed: int) -> tuple[np.ndarray, Layout]:
    rng = np.random.default_rng(seed)
    class_id = np.zeros((32, 32), dtype=np.uint8)
    class_id[int(rng.integers(8, 24)) :] = 13  # a car on the road
    segment = np.where(class_id == 13, 5, 0).astype(np.int32)
    image = np.where(class_id[..., None] == 13, (200, 30, 30), (90, 90, 90)).astype(np.uint8)
    return image, Layout(panoptic=PanopticMap(segment_id=segment, class_id=class_id), prompts={5: "a red car"})


def test_domain_segmenter_is_kept_and_refitted(tmp_path):
    calls = []

    def examples():
        calls.append(1)
        return [scene(i) for i in range(4)]

    def domain(data: str = "one"):
        return domain_of(tmp_path / "s", learned_from=data, examples=examples, classes=CLASSES, words=["red", "blue"])

    first, again = domain(), domain()
    assert len(calls) == 1 and first.vocabulary == {}  # one colour cannot be told from another
    image = scene(9)[0]
    assert np.array_equal(first.read([image])[0].labels, again.read([image])[0].labels)
    assert domain("other").learned_from == "other" and len(calls) == 2
    domain("other")
    assert len(calls) == 2
    weights = tmp_path / "s/segmenter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")  # damaged: the manifest's hash tells
    domain("other")
    assert len(calls) == 3 and not list((tmp_path / "s").glob(".*"))
    with pytest.raises(ValueError, match="at least 32x32"):
        domain_of(
            tmp_path / "t",
            learned_from="x",
            examples=lambda: [(image[:16], scene(0)[1])],
            classes=CLASSES,
            words=[],
        )


def test_data_hash_sees_contents_names_and_treatment(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("x")
    b.write_text("y")
    hashes = {data_hash([a, b], "64"), data_hash([b, a], "64"), data_hash([a, b], "32"), data_hash([a], "64")}
    assert len(hashes) == 4
    before = data_hash([a, b])
    assert data_hash([a, b]) == before
    b.write_text("z")
    assert data_hash([a, b]) != before


@pytest.mark.slow
def test_use_tells_true_pictures_from_empty_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(use, "STEPS", 24)
    scenes = [scene(i) for i in range(8)]
    layouts = {str(i): layout for i, (_, layout) in enumerate(scenes)}
    asked = Asked(layouts=layouts, classes=CLASSES, reference="x", geometry=None, elsewhere={"elsewhere": "not here"})

    def row(label: str, images) -> PictureSet:
        (tmp_path / label).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / label / f"{i}.png")
        return PictureSet(
            label=label, paths=tuple(tmp_path / label / f"{i}.png" for i in range(len(images))), generation=None
        )

    reference = row("real", [image for image, _ in scenes])
    train = [scene(100 + i) for i in range(8)]
    real = use.Real(
        reference=reference, train=[image for image, _ in train], train_layouts=[layout for _, layout in train]
    )
    family = use.use_family(asked, real)

    def scores(of: PictureSet) -> dict:
        return {score.name: score for score in family(of)}

    ceiling = scores(reference)
    same = scores(row("same", [image for image, _ in scenes]))
    assert same["use/mIoU"].value == ceiling["use/mIoU"].value > 0.8
    assert same["use/IoU/car"].value > 0.8 and same["use/IoU/bus"].missing == "no pixel of it in the maps"
    assert same["use+real/mIoU"].value > 0.8 and same["use/mIoU"].n == 8 and same["use/mIoU"].interval is not None
    turned = scores(row("turned", [image[::-1] for image, _ in scenes]))
    assert turned["use/mIoU"].interval.high < ceiling["use/mIoU"].interval.low
    assert scores(row("elsewhere", []))["use/mIoU"].missing == "not here"
    assert "wants 4 layouts" in scores(row("few", [scenes[0][0]]))["use+real/mIoU"].missing


def test_no_network_is_tested_on_a_layout_it_met(tmp_path, monkeypatch):
    """Two pictures of each layout lie in one half."""
    layouts = {str(i): scene(i)[1] for i in range(4)}
    asked = Asked(layouts=layouts, classes=CLASSES, reference="x", geometry=None, elsewhere={})
    for name in layouts:
        Image.fromarray(scene(int(name))[0]).save(tmp_path / f"{name}.png")
    files = tuple(tmp_path / f"{name}.png" for name in layouts)
    reference = PictureSet(label="real", paths=files, generation=None)
    twice = tuple(path for path in files for _ in range(2))
    drawn = PictureSet(label="cfg", paths=twice, generation=None, drawn_from=tuple(path.stem for path in twice))
    tested = []

    class Taught:
        def __init__(self, met):
            self.met = met

        def predict(self, images):
            tested.append((self.met, len(images)))
            return [np.zeros(image.shape[:2], np.uint8) for image in images]

    monkeypatch.setattr(use, "_taught", lambda images, of, asked, seed: Taught(of))
    use.use_family(asked, use.Real(reference=reference, train=[], train_layouts=[]))(drawn)
    (first, n), (second, m) = tested
    assert n == m == 4
    assert {id(one) for one in first} == {id(layouts["1"]), id(layouts["3"])}
    assert {id(one) for one in second} == {id(layouts["0"]), id(layouts["2"])}


def test_text_agreement_is_clips_own(tmp_path):
    """A tiny CLIP of random weights: the cosine of its own features of cut-out and prompt."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from mamoe.bases.tiny import PROMPT_TOKENS, new_tokenizer

    tokenizer = new_tokenizer(["a red car"])
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(tokenizer), "max_position_embeddings": PROMPT_TOKENS}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {**small, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(tmp_path)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tokenizer).save_pretrained(tmp_path)

    clip = load_text_regions(str(tmp_path))
    image, layout = scene(1)
    nameless = replace(layout, prompts={})
    sums = clip([image, image], [layout, nameless])
    assert sums.shape == (2, 2) and sums[1].tolist() == [0, 0] and sums[0, 1] == 1

    rows = np.flatnonzero((layout.panoptic.segment_id == 5).any(axis=1))
    inputs = CLIPProcessor.from_pretrained(tmp_path)(
        images=Image.fromarray(image[rows[0] :]), text=["a red car"], return_tensors="pt", padding=True
    )
    with torch.no_grad():
        output = model.eval()(**inputs)
    wanted = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds)
    assert sums[0, 0] == pytest.approx(float(wanted), abs=1e-5)


def test_pictures_of_another_size_are_refused(tmp_path):
    image, layout = scene(0)
    Image.fromarray(image[:24]).save(tmp_path / "a.png")

    class Blind:
        identity = "blind"

        def read(self, images) -> list[Reading]:
            raise AssertionError("must not be asked")

    asked = Asked(layouts={"a": layout}, classes=CLASSES, reference="x", geometry=None, elsewhere={})
    family = fidelity_family(asked, Blind(), "blind", instances="none")
    with pytest.raises(ValueError, match=r"no\. 0 is 24x32, its map 32x32"):
        family(PictureSet(label="generated", paths=(tmp_path / "a.png",), generation=None))
    with pytest.raises(ValueError, match=r"have no map, such as b\.png"):
        asked.of(PictureSet(label="generated", paths=(tmp_path / "b.png",), generation=None))
