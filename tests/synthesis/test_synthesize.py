"""`mamoe synthesize` from end to end, with a model that has learned next to nothing: what is written, and when."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factories import drawn_data, mamoe
from mamoe.assemble.synthesis import material_of, settings_of_pipeline, settings_of_run
from mamoe.console import silent
from mamoe.data.folder.prompts import read_instance_prompts, read_prompts_csv
from mamoe.evaluation.table import Table
from mamoe.prepare import writer
from mamoe.runs.lookup import find_checkpoint
from mamoe.sampling import filling
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.synthesis import layouts, reading
from mamoe.vocabulary.panoptic import read_panoptic
from mamoe.vocabulary.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load("scenes")
FEW = ("--pictures", "6", "--steps", "1", "--batch-size", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def town(tmp_path_factory) -> Path:
    return drawn_data(tmp_path_factory.mktemp("town") / "data", {"train": 6, "test": 3})


def synthesize(run: Path, town: Path, out: Path, *more: str | Path):
    return mamoe("synthesize", run, "--data", town, "--out", out, *FEW, "--floor", "0", *more)


@pytest.fixture(scope="module")
def made(finished_run, town, tmp_path_factory) -> Path:
    """A finished set. Look, do not touch."""
    out = tmp_path_factory.mktemp("made") / "set"
    outcome = synthesize(finished_run, town, out)
    assert outcome.code == 0, outcome.err
    assert "6 pictures of" in outcome.out and "became void" in outcome.out
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows_of(folder: Path) -> dict:
    return json.loads((folder / "provenance_train.json").read_text())


def test_the_set_is_a_data_set_that_passes_every_check(made, tmp_path):
    checked = mamoe("check", made)
    assert checked.code == 0, checked.err
    outcome = mamoe("prepare", "export", "coco-panoptic", made, tmp_path / "coco")
    assert outcome.code == 0, outcome.err
    table = json.loads((tmp_path / "coco/annotations/panoptic_train.json").read_text())
    assert len(table["images"]) == len(table["annotations"]) == 6
    assert not [path for path in made.rglob(".*")]


def test_every_picture_says_where_it_comes_from(made, town):
    rows, drawn = rows_of(made), made.with_name("set.work")
    assert sorted(rows) == [f"synthetic_{i:06d}.png" for i in range(6)]
    prompts = read_prompts_csv(made / "prompts_train.csv")
    by_segment = read_instance_prompts(made / "instance_prompts_train.json")
    theirs = read_prompts_csv(town / "prompts_train.csv")
    given = read_instance_prompts(town / "instance_prompts_train.json")
    for name, row in rows.items():
        source = Path(row["map"]).name
        record = json.loads((drawn / "drawn" / name).with_suffix(".json").read_text())
        assert row["seed"] == record["seed"] and row["model_hash"] == record["model_hash"] and row["steps"] == 1
        assert prompts[name] == record["prompt"] == theirs[source]
        layout = read_panoptic(drawn / "layouts/maps" / name)
        own = read_panoptic(town / "panoptic" / row["map"])
        kept = own.segment_id[:, ::-1] if row["flipped"] else own.segment_id
        new = {here for put in row["pasted"] for here in put["segments"].values()}
        here = ~np.isin(layout.segment_id, list(new))
        assert np.array_equal(layout.segment_id[here], kept[here]) and new <= layout.classes.keys()
        for put in row["pasted"]:
            for there, segment in put["segments"].items():
                told = given[Path(put["from"]).name].get(int(there))
                assert told is None or record["instance_prompts"][str(segment)] == told
        cleaned = read_panoptic(made / "panoptic/train" / name)
        same = cleaned.class_id != TAXONOMY.void_id
        assert np.array_equal(cleaned.segment_id[same], layout.segment_id[same])
        assert np.array_equal(cleaned.class_id[same], layout.class_id[same])
        assert row["voided"] == pytest.approx((~same & (layout.class_id != TAXONOMY.void_id)).mean(), abs=0.05)
        assert all(by_segment[name][i] == text for i, text in prompts_left(record, cleaned).items())


def prompts_left(record: dict, cleaned) -> dict[int, str]:
    return {int(i): text for i, text in record["instance_prompts"].items() if int(i) in cleaned.classes}


def test_asked_again_it_says_that_the_set_is_there(made, finished_run, town):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    outcome = synthesize(finished_run, town, made)
    assert outcome.code == 0 and "nothing to do" in outcome.out
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*")}


def test_other_rules_need_no_new_pictures(made, finished_run, town, tmp_path, monkeypatch):
    work = tmp_path / "work"
    shutil.copytree(made.with_name("set.work"), work)
    monkeypatch.setattr(filling, "write_picture", None)  # none is drawn
    more = ("--work", work, "--tolerance", "1000")
    assert synthesize(finished_run, town, tmp_path / "loose", *more).code == 0
    assert all(row["voided"] == 0 for row in rows_of(tmp_path / "loose").values())
    agreements = sorted(row["agreement"] for row in rows_of(made).values())
    outcome = synthesize(finished_run, town, tmp_path / "strict", "--work", work, "--floor", str(agreements[-2]))
    assert outcome.code == 0 and "4 of them were dropped" in outcome.out
    assert sorted(row["agreement"] for row in rows_of(tmp_path / "strict").values()) == agreements[-2:]
    assert len(json.loads((tmp_path / "strict/synthesis.json").read_text())["dropped"]) == 4
    outcome = synthesize(finished_run, town, tmp_path / "none", "--work", work, "--floor", "1")
    assert outcome.code == 3 and "None of 6 pictures reaches the floor" in outcome.err
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name"),
    [(layouts, "_write"), (filling, "write_picture"), (reading, "_judge"), (writer, "put_picture")],
)
def test_stopped_in_any_stage_it_goes_on(module, name, made, finished_run, town, tmp_path, monkeypatch):
    real, number = getattr(module, name), itertools.count(1)  # which threads may ask at the same time

    def stopped(*words, **more):
        if next(number) == 4:
            raise KeyboardInterrupt
        return real(*words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, stopped)
        outcome = synthesize(finished_run, town, tmp_path / "set")
    assert outcome.code == 130 and "goes on from there" in outcome.err, outcome
    assert not (tmp_path / "set").exists()
    counted = []
    monkeypatch.setattr(module, name, lambda *words, **more: counted.append(words) or real(*words, **more))
    assert synthesize(finished_run, town, tmp_path / "set").code == 0
    assert 1 <= len([one for one in counted if "contact_sheet" not in str(one)]) <= 4  # the rest was kept
    assert contents(tmp_path / "set") == contents(made)


def test_maps_of_another_data_set(finished_run, town, tmp_path):
    other = drawn_data(tmp_path / "other", {"val": 4})
    more = ("--layouts", other, "--split", "val", "--flip", "1", "--mix", "0")
    outcome = synthesize(finished_run, town, tmp_path / "set", *more)
    assert outcome.code == 0, outcome.err
    rows = rows_of(tmp_path / "set")
    assert len(rows) == 6 and all(row["map"].startswith("val/") and row["flipped"] for row in rows.values())


def test_mistakes_are_explained(made, finished_run, town, tmp_path):
    def refusal(*words) -> str:
        outcome = mamoe("synthesize", *words, *FEW)
        assert outcome.code in (2, 3) and "Traceback" not in outcome.err and not (tmp_path / "set").exists(), outcome
        return outcome.err

    where = ("--data", town, "--out", tmp_path / "set")
    assert "is no model" in refusal(town, *where)
    assert "no class tram to call rare" in refusal(finished_run, *where, "--rare", "tram")
    assert "'nowhere'" in refusal(finished_run, *where, "--split", "nowhere")
    work = ("--work", made.with_name("set.work"))
    assert "made otherwise: flip was" in refusal(finished_run, *where, *work, "--flip", "1")
    assert "is not empty and would be overwritten" in refusal(finished_run, "--data", town, "--out", town)
    foreign = tmp_path / "foreign"
    shutil.copytree(town, foreign)
    (foreign / "data.yaml").write_text("taxonomy: camvid\n")
    assert "camvid" in refusal(finished_run, *where, "--layouts", foreign)


def test_a_saved_pipeline_serves_as_a_run_does(made, finished_run, town, tmp_path):
    """Its size is that of the maps' data.yaml; nobody saying one, it must be given."""
    outcome = mamoe("export", finished_run, tmp_path / "pipe", "--weights", "fp32")
    assert outcome.code == 0, outcome.err
    outcome = synthesize(tmp_path / "pipe", town, tmp_path / "set")
    assert outcome.code == 0, outcome.err
    ours, theirs = (
        {n: c for n, c in contents(f / "layouts/maps").items()}
        for f in (tmp_path / "set.work", made.with_name("set.work"))
    )
    assert ours == theirs
    plain = tmp_path / "plain"
    shutil.copytree(town, plain)
    (plain / "data.yaml").write_text("taxonomy: scenes\n")
    refused = synthesize(tmp_path / "pipe", plain, tmp_path / "no")
    assert refused.code == 2 and "give --size HEIGHT WIDTH" in refused.err
    settings = LayoutPipeline.from_pretrained(tmp_path / "pipe").settings
    for config in (
        settings_of_pipeline(settings, plain, (32, 64)),
        settings_of_run(find_checkpoint(finished_run), (32, 64)),
    ):
        material = material_of(config, plain, None, split="test", bar=silent)
        assert [material.layouts[i].panoptic.size for i in range(3)] == [(32, 64)] * 3
    refused = synthesize(Path("package:tiny"), town, tmp_path / "no")
    assert refused.code == 2 and "knows no layout" in refused.err and not (tmp_path / "no").exists()


def test_the_use_of_a_set_is_measured_beside_real_pictures(made, town, tmp_path, monkeypatch):
    from mamoe.evaluation.layout import use_of_sets

    monkeypatch.setattr(use_of_sets.compare_sets, "__kwdefaults__", {"steps": 2, "progress": None})
    words = ("evaluate", made, "--data", town, "--scores", "use", "--seeds", "2", "--out", tmp_path / "out")
    outcome = mamoe(*words)
    assert outcome.code == 0, outcome.err
    rows = {r.label: r for r in Table.from_dict(json.loads((tmp_path / "out/metrics.json").read_text())).rows}
    assert list(rows) == ["real", "synthetic", "both", "synthetic - real", "both - real"]
    for label in ("synthetic", "both"):
        for name in ("use/mIoU", "use/IoU/road"):
            gain = rows[label].score(name).value - rows["real"].score(name).value
            assert rows[f"{label} - real"].score(name).value == pytest.approx(gain)
            assert rows[f"{label} - real"].score(name).interval.over == "over seeds"
    before = (tmp_path / "out/metrics.json").read_bytes()
    monkeypatch.setattr(use_of_sets, "train_segmenter", None)  # what the networks reached was kept
    assert mamoe(*words).code == 0 and (tmp_path / "out/metrics.json").read_bytes() == before
    assert "--scores use" in mamoe("evaluate", made, "--data", town, "--scores", "layout").err
    assert "--data" in mamoe("evaluate", made, "--scores", "use").err
    assert "leave --clip out" in mamoe("evaluate", made, "--data", town, "--clip", "x").err
    assert "is no data set: leave --seeds out" in mamoe("evaluate", made / "images/train", "--seeds", "3").err


def test_identical_sets_differ_by_nothing(town, tmp_path):
    """The set is the real training split itself: alone it is of the same use."""
    from mamoe.evaluation.layout.asked import Classes
    from mamoe.evaluation.layout.use_of_sets import Examples, compare_sets

    classes = Classes.of(TAXONOMY)
    files = sorted((town / "images/train").glob("*.png"))
    images = [np.array(Image.open(path).convert("RGB")) for path in files]
    numbers = [classes.numbers(read_panoptic(town / "panoptic/train" / path.name)) for path in files]
    same = Examples(images=images, numbers=numbers, names=[path.name for path in files], hashed="a")
    table = compare_sets(same, same, same, classes, seeds=(0, 1), store=tmp_path, steps=4)
    rows = {row.label: row for row in table.rows}
    assert {score.value for score in rows["synthetic - real"].scores} <= {0.0, None}
    pixels = np.bincount(np.concatenate([one.ravel() for one in numbers]), minlength=256)[: len(classes)]
    rare = {name for i, name in enumerate(classes.names) if 0 < pixels[i] < 0.01 * pixels.sum()}
    assert {s.name[len("use/IoU/") :] for s in rows["real"].scores if "(rare)" in s.name} == {
        f"{r} (rare)" for r in rare
    }
