"""A benchmark from the command to its report: two cells that train and are scored, one that cannot."""

import json
from pathlib import Path

import pytest

from apart import mamoe_apart
from factories import drawn_data, mamoe
from mamoe.commands.benchmark import run
from mamoe.commands.benchmark.results import LOG, RESULT, read_result

run_process = run.run_process


def forked(folder: Path, config_dirs: object) -> None:
    """As ``run_process`` runs a cell, but for the time its imports take; one that fails is run as it is."""
    if "broken" in folder.name:
        run_process(folder)
    else:
        outcome = mamoe_apart(["benchmark-cell", folder], folder / LOG)
        assert outcome.code == 0, outcome


@pytest.mark.slow
def test_two_cells_and_one_that_fails(base_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "run_process", forked)
    data = drawn_data(tmp_path / "data", {"train": 16, "val": 2, "test": 6})
    words = [
        "out=bench",
        "scenes=null",
        "~datasets.dusk_town",
        f'+datasets.town=["data.root={data}"]',
        "methods=[full,mamoe,broken]",
        '+method_settings.broken=["model.path=/nowhere"]',
        "seeds=[0]",
        "budget.images=4",
        "budget.wall_clock=true",
        "pictures.images=4",
        "pictures.steps=1",
        "callbacks.validation={every: 1, images: 2}",
        f"model.path={base_model}",
        "data.size=[64,64]",
        "data.batch_size=2",
    ]
    outcome = mamoe("benchmark", *words)
    assert outcome.code == 1 and "3 cells, 1 failed" in outcome.out, outcome
    cells = Path("bench/cells")
    for method in ("full", "mamoe"):
        found = read_result(cells / f"images-town-{method}-seed0")
        assert found is not None
        accuracy = found.drawn.score("pixel accuracy-domain")
        assert accuracy.n == 4 and accuracy.value is not None and accuracy.protocol.generation.steps == 1
        assert [row.label for row in found.floors] == ["real (train)", "autoencoder", "real"]
        assert [x for x, _ in found.curves["val/loss"]] == [0, 1, 2]
        cost = found.cost
        assert cost.seconds_per_step > 0 and cost.seconds_per_picture > 0 and cost.peak_mib > 100
        assert 0 < cost.trained_parameters and 0 < cost.parameters
        assert len(found.pictures) == len(found.real) == 4
        assert not list((cells / f"images-town-{method}-seed0").rglob("checkpoints"))  # keep_weights: false
    costs = [read_result(cells / f"images-town-{method}-seed0").cost for method in ("full", "mamoe")]
    assert costs[0].parameters < costs[1].parameters  # experts
    error = json.loads((cells / "images-town-broken-seed0/error.json").read_text())["error"]
    assert "/nowhere" in error and "Traceback" not in error
    page = Path("bench/report.html").read_text()
    assert "/nowhere" in page and page.count("<img") == 4 * 3 + 2
    assert "| mamoe |" in Path("bench/report.md").read_text()
    assert (data / "segmenter/64x64/manifest.json").exists()

    before = {path: path.stat().st_mtime_ns for path in cells.rglob(RESULT)}
    again = mamoe("benchmark", *words, "methods=[full,mamoe]")  # without the one that fails: the second view
    assert again.code == 0, again
    assert again.out.count("done before") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "equal wall-clock" in Path("bench/report.html").read_text()
