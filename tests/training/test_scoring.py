import json
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from training_fakes import CPU, Pictures, fit, make_data, make_module

from factories import mamoe, only_run, short_run
from mamoe.errors import ConfigError
from mamoe.evaluation.distances.family import Kind, measure
from mamoe.evaluation.features.extractors import load_extractor
from mamoe.evaluation.features.store import Features
from mamoe.training.loop.metrics import read_rows
from mamoe.training.watch.scoring import FixedScores

DATA = Pictures(8)
SAMPLES = [DATA[0, i] for i in range(8)]


@contextmanager
def dimmed(module):
    """A sampler that returns the real pictures, darker."""
    assert not module.unet.training

    def draw(samples, drawing, seeds):
        assert drawing.mode == "cfg"
        return [Image.fromarray(s.picture // 2) for s in samples]

    yield draw


def scored(folder, **changes):
    options = {"sampler": dimmed, "samples": SAMPLES, "extractor": load_extractor("pixels")}
    options |= {"kinds": [Kind.FID, Kind.COVERAGE, Kind.FID_INFINITY], "every_n_steps": 2, **changes}
    callback = FixedScores(folder, **options)
    fit(
        make_module(),
        make_data(),
        folder,
        max_steps=3,
        checkpoint_every_n_steps=3,
        trainer=CPU,
        callbacks=[callback],
    )
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return scored(tmp_path_factory.mktemp("run"))


def test_logged_scores_are_those_of_the_pictures(run):
    """At every second and at the last step; what cannot be measured on eight pictures is said and not logged."""
    extractor = load_extractor("pixels")
    real = [s.picture for s in SAMPLES]
    drawn, held = (
        Features(values=extractor(images), extractor="p", preprocessing="", names=())
        for images in ([image // 2 for image in real], real)
    )
    wanted = measure([Kind.FID], drawn, held)[Kind.FID].value
    rows = [row for row in read_rows(run / "metrics.csv") if row.get("val/FD-pixels")]
    assert [int(row["step"]) for row in rows] == [2, 3]
    assert wanted is not None and wanted > 0
    assert [float(row["val/FD-pixels"]) for row in rows] == pytest.approx([wanted, wanted])
    assert all(0 <= float(row["val/coverage-pixels"]) <= 1 for row in rows)
    assert "val/FD-infinity-pixels" not in rows[0]
    assert "val/FD-infinity-pixels n/a (wants 30 pictures" in (run / "log.txt").read_text()


def test_pictures_are_deleted_unless_kept(run, tmp_path):
    assert not list((run / "scored").glob("*"))
    kept = scored(tmp_path, keep_pictures=True) / "scored/step-00000003"
    assert len(list(kept.glob("*.png"))) == 8
    first = np.asarray(Image.open(kept / f"{SAMPLES[0].key.partition('.')[0]}.png"))
    assert (first == SAMPLES[0].picture // 2).all()
    records = [json.loads(path.read_text()) for path in sorted(kept.glob("*.json"))]
    assert [(one["key"], one["mode"], one["step"]) for one in records] == [(s.key, "cfg", 3) for s in SAMPLES]


def test_settings_that_measure_nothing_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="0 pictures"):
        scored(tmp_path, samples=[])
    with pytest.raises(ConfigError, match="0 scores"):
        scored(tmp_path, kinds=[])


def test_configured_scores_are_logged(base_model, scenes, tmp_path):
    """From the command line to metrics.csv, with the run's own networks."""
    scores = "callbacks.scores={every: 4, images: 3, steps: 2, scores: [kid, fid], extractor: pixels}"
    outcome = mamoe("train", *short_run(base_model, scenes, tmp_path), scores)
    assert outcome.code == 0, outcome.err
    (row,) = [r for r in read_rows(only_run(tmp_path) / "metrics.csv") if r.get("val/KD-pixels")]
    assert int(row["step"]) == 4 and float(row["val/FD-pixels"]) > 0
