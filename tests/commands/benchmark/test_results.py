"""Grids of fake cells: gone on with, failed, changed."""

import json
from dataclasses import replace

import pytest
from benchmark_fakes import a_cell, result

from mamoe.commands.benchmark.results import (
    RESULT,
    Result,
    Stopped,
    read_cell,
    read_result,
    run_cells,
    write_result,
)
from mamoe.errors import ConfigError

GRID = [a_cell(method, seed) for seed in (0, 1) for method in ("full", "mamoe")]
SCORING = {"pictures": {"steps": 12}, "keep_weights": True}


class Worker:
    """Stands for the process of a cell."""

    def __init__(self, stop_at: str | None = None, fail: tuple[str, ...] = ()) -> None:
        self.stop_at, self.fail, self.started = stop_at, fail, []

    def __call__(self, cell, folder) -> None:
        self.started.append(cell.key)
        if cell.key == self.stop_at:
            raise Stopped(75)
        if cell.key in self.fail:
            raise RuntimeError("out of memory: halve the batch")
        write_result(result({"mIoU": 0.5 + cell.seed}), folder)


def run(worker, out, cells=GRID, scoring=SCORING):
    said = []
    outcomes = run_cells(cells, out, scoring=scoring, start=worker, say=said.append)
    return outcomes, said


def test_killed_grid_goes_on_where_it_was(tmp_path):
    first = Worker(stop_at=GRID[2].key)
    with pytest.raises(Stopped) as stop:
        run(first, tmp_path)
    assert stop.value.code == 75 and first.started == [cell.key for cell in GRID[:3]]
    before = (tmp_path / "cells" / GRID[0].key / RESULT).stat().st_mtime_ns

    second = Worker()
    outcomes, said = run(second, tmp_path)
    assert second.started == [cell.key for cell in GRID[2:]]
    assert [outcome.result.drawn.score("mIoU").value for outcome in outcomes] == [0.5, 0.5, 1.5, 1.5]
    assert "done before" in said[0] and "done before" not in said[2]
    assert (tmp_path / "cells" / GRID[0].key / RESULT).stat().st_mtime_ns == before

    third = Worker()
    run(third, tmp_path)
    assert third.started == []


def test_failed_cell_is_shown_and_tried_again(tmp_path):
    outcomes, said = run(Worker(fail=(GRID[1].key,)), tmp_path)
    assert [outcome.error for outcome in outcomes] == [None, "out of memory: halve the batch", None, None]
    assert outcomes[1].result is None and any("failed: out of memory" in line for line in said)
    folder = tmp_path / "cells" / GRID[1].key
    assert json.loads((folder / "error.json").read_text())["error"] == "out of memory: halve the batch"
    again = Worker()
    outcomes, _ = run(again, tmp_path)
    assert again.started == [GRID[1].key] and outcomes[1].error is None
    assert not (folder / "error.json").exists()


def test_cell_that_leaves_nothing_has_failed(tmp_path):
    outcomes, _ = run(lambda cell, folder: None, tmp_path, GRID[:1])
    assert "ended without a result" in outcomes[0].error


def test_damaged_result_is_made_again(tmp_path):
    run(Worker(), tmp_path, GRID[:1])
    (tmp_path / "cells" / GRID[0].key / RESULT).write_text('{"drawn":')
    again = Worker()
    run(again, tmp_path, GRID[:1])
    assert again.started == [GRID[0].key]


def test_other_settings_are_refused_before_anything_runs(tmp_path):
    run(Worker(), tmp_path)
    for cells, scoring, says in (
        ([replace(cell, steps=200) for cell in GRID], SCORING, "steps 100 before, now 200"),
        (GRID, {**SCORING, "pictures": {"steps": 50}}, "pictures {'steps': 12} before, now {'steps': 50}"),
    ):
        worker = Worker()
        with pytest.raises(ConfigError) as caught:
            run(worker, tmp_path, [*cells, a_cell("new")], scoring)
        assert says in str(caught.value) and worker.started == []


def test_results_and_cells_round_trip(tmp_path):
    found = result({"mIoU": 0.5, "IoU/bus": None}, pictures=tmp_path / "p")
    assert Result.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    write_result(found, tmp_path)
    assert read_result(tmp_path) == found and read_result(tmp_path / "nowhere") is None
    run(Worker(), tmp_path, GRID[:1])
    assert read_cell(tmp_path / "cells" / GRID[0].key) == (GRID[0], SCORING)
    with pytest.raises(ConfigError, match="no cell of a benchmark"):
        read_cell(tmp_path)
