"""Two real processes, as torchrun starts them."""

import json
from pathlib import Path

import pytest

from apart import mamoe_apart

pytestmark = pytest.mark.slow

ONE, TWO = 1, 2


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the segmenter's training adds up in another order otherwise


def run(count: int, says: Path, *words: str | Path) -> str:
    outcome = mamoe_apart(words, says, count)
    assert outcome.code == 0, outcome.err
    return outcome.out


def test_one_and_two_processes_give_the_same_numbers(finished_run, tmp_path):
    words = ["evaluate", finished_run, "--steps", "2", "--batch-size", "1", "--extractor", "pixels"]
    words += ["--modes", "cond,cfg", "--device", "cpu"]
    one, two = tmp_path / "one", tmp_path / "two"
    for count, out in ((ONE, one), (TWO, two)):
        said = run(count, tmp_path / f"said{count}.txt", *words, "--out", out, "--cache", out / "features")
        assert said.count("| FD-pixels") == 1
    assert json.loads((one / "metrics.json").read_text()) == json.loads((two / "metrics.json").read_text())
    for path in one.glob("c*/*.png"):
        assert path.read_bytes() == (two / path.parent.name / path.name).read_bytes()


def test_one_and_two_processes_draw_the_same_pictures(finished_run, scenes, tmp_path):
    words = ["sample", finished_run, "--panoptic", scenes / "panoptic/test", "--steps", "2", "--batch-size", "1"]
    for count, out in ((ONE, tmp_path / "one"), (TWO, tmp_path / "two")):
        said = run(count, tmp_path / f"said{count}.txt", *words, "--device", "cpu", "--out", out)
        assert said.count("all of them:") == 1
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and "contact_sheet.png" in one
