"""Whole runs that stop when nothing becomes better, and that are evaluated once they are done."""

import json

import pytest

from factories import mamoe, only_run, short_run
from wholeruns import run_folders, trained

STOP = "callbacks.early_stopping={metric: val/loss, mode: min, patience: 1, min_delta: 99}"  # nothing is better by 99
AFTER = "evaluate_after={scores: [fid, kid], extractors: [pixels], modes: [cond, cfg], steps: 2, keep_pictures: false}"


@pytest.fixture(scope="module")
def stopped(base_model, scenes, tmp_path_factory):
    """A run, what it said, and its words."""
    runs = tmp_path_factory.mktemp("stopped") / "runs"
    words = [*short_run(base_model, scenes, runs), "callbacks.samples=null", "callbacks.checkpoints.every=4", STOP]
    said = trained(*words, AFTER)
    return only_run(runs), said, words


def test_it_is_done_at_the_first_measurement_that_is_no_better(stopped):
    run, _, _ = stopped
    assert (run / "checkpoints/latest").resolve().name == "step-00000002"
    log = (run / "log.txt").read_text()
    assert "Done at step 2 of 4: val/loss is best at step 0" in log and "in the 1 measurements since" in log


def test_the_evaluation_is_that_of_the_command(stopped, tmp_path):
    run, said, _ = stopped
    folder = run / "eval/test/step-00000002"
    assert "FD-pixels" in said.out and f"Written to {folder}" in said.out
    assert not list(folder.glob("*/*.png"))  # keep_pictures: false
    words = ["--scores", "fid,kid", "--extractor", "pixels", "--modes", "cond,cfg", "--steps", 2, "--out", tmp_path]
    assert mamoe("evaluate", run, *words, "--device", "cpu").code == 0
    ours = json.loads((folder / "metrics.json").read_text())
    assert ours == json.loads((tmp_path / "metrics.json").read_text())


def test_resumed_it_is_done_and_auto_begins_anew(stopped):
    run, _, words = stopped
    trained(f"resume={run}", "evaluate_after=null")
    assert (run / "checkpoints/latest").resolve().name == "step-00000002"
    trained(*words, AFTER, "resume=auto")
    assert len(run_folders(run.parents[1], "demo")) == 2


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ("{scores: [fidelity]}", "There is no score fidelity"),
        ("{split: nothing, extractors: [pixels]}", "nothing"),
        ("{extractors: ['alexnet=/nowhere']}", "/nowhere"),
    ],
)
def test_what_the_evaluation_lacks_is_said_before_the_training(base_model, scenes, tmp_path, after, why):
    said = mamoe("train", *short_run(base_model, scenes, tmp_path / "runs"), f"evaluate_after={after}")
    assert said.code in (2, 3) and why in said.err and "Traceback" not in said.err
    assert not (tmp_path / "runs/demo").exists()
