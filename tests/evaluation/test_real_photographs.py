"""Floors between real photographs, and the evaluation of a short run on them, with networks trained on ImageNet."""

import json
import shutil
from pathlib import Path

import pytest

from factories import mamoe, only_run
from mamoe.evaluation.run import SCORES
from mamoe.evaluation.table import Row, Table

REAL = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not REAL.exists(), reason="the real photographs are not here"),
]
ALEXNET = REAL / "backbones/alexnet_features.safetensors"


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    """A cache that all of these share."""
    return tmp_path_factory.mktemp("features")


def scored(folder: Path, against: Path, out: Path, features: Path, *words: str | Path) -> dict[str, Row]:
    outcome = mamoe("evaluate", folder, "--against", against, "--out", out, "--cache", features, *words)
    assert outcome.code == 0, outcome.err
    return {row.label: row for row in Table.from_dict(json.loads((out / "metrics.json").read_text())).rows}


def test_floors_are_sane(features, tmp_path):
    """0 for identical pictures, small within one place, large between two places."""
    for name, paths in {
        "one": sorted((REAL / "camvid/train").glob("*.png"))[0:80:2],
        "other": sorted((REAL / "camvid/train").glob("*.png"))[1:80:2],
        "india": sorted((REAL / "idd_lite/train").rglob("*.jpg"))[:40],
    }.items():
        (tmp_path / name).mkdir()
        assert len(paths) == 40
        for path in paths:
            shutil.copy(path, tmp_path / name)
    found = {}
    for name in ("one", "other", "india"):
        extractor = ("--extractor", f"alexnet={ALEXNET}", "--size", "224", "224")
        rows = scored(tmp_path / name, tmp_path / "one", tmp_path / f"out-{name}", features, *extractor)
        found[name] = {score.name: score.value for score in rows["generated"].scores}
    for name in ("FD-alexnet", "MMD-alexnet"):
        assert found["one"][name] < 1e-6 * found["india"][name]
        assert 0 < found["other"][name] < 0.2 * found["india"][name]
    assert found["other"]["KD-alexnet"] < 0.1 * found["india"]["KD-alexnet"]
    assert found["one"]["precision-alexnet"] == found["one"]["coverage-alexnet"] == 1
    assert found["other"]["coverage-alexnet"] > 0.5 > found["india"]["coverage-alexnet"]


def test_a_short_run_is_evaluated_with_every_number(base_model, features, tmp_path):
    data = tmp_path / "data"
    assert mamoe("prepare", "camvid", REAL / "camvid", data).code == 0
    words = [
        "experiment=camvid",
        f"data.root={data}",
        "data.size=[64,96]",
        f"model.path={base_model}",
        f"runs={tmp_path}",
    ]
    shorter = ["trainer.max_steps=2", "trainer.accelerator=cpu", "callbacks=none", "data.batch_size=2"]
    outcome = mamoe("train", *words, *shorter)
    assert outcome.code == 0, outcome.err
    run = only_run(tmp_path, "camvid")
    options = [
        "--split",
        "val",
        "--steps",
        "1",
        "--images",
        "32",
        "--extractor",
        f"alexnet={ALEXNET}",
        "--cache",
        features,
    ]
    outcome = mamoe("evaluate", run, "--modes", "cfg", *options)
    assert outcome.code == 0, outcome.err
    (path,) = run.glob("eval/val/*/metrics.json")
    rows = {row.label: row for row in Table.from_dict(json.loads(path.read_text())).rows}
    assert list(rows) == ["cfg", "real (train)", "autoencoder", "real"], list(rows)
    for row in rows.values():
        of_features = [score for score in row.scores if score.name.endswith("-alexnet")]
        assert len(of_features) == (0 if row.label == "real" else len(SCORES) + 1)
        assert all(score.value is not None and score.interval is not None for score in of_features)
        assert all((score.value is None) == bool(score.missing) for score in row.scores)
    for name in ("mIoU-domain", "pixel accuracy-domain", "PQ-domain", "IoU/road-domain"):
        ceiling, read = rows["real"].score(name), rows["cfg"].score(name)
        assert ceiling is not None and read is not None and ceiling.value > read.value, name
    floor, drawn = rows["real (train)"].score("FD-alexnet"), rows["cfg"].score("FD-alexnet")
    assert floor is not None and drawn is not None and floor.value < drawn.value
    assert (path.parent / "copies-cfg-alexnet.png").is_file()
