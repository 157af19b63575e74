"""Two real processes, as torchrun starts them."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


ALONE = [sys.executable, "-m", "mamoe"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mamoe"]


def run(launcher, *words) -> str:
    outcome = subprocess.run(
        [*launcher, *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # the segmenter's training adds up in another order otherwise
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def test_one_and_two_processes_give_the_same_numbers(finished_run, tmp_path):
    words = ["evaluate", finished_run, "--steps", "2", "--batch-size", "1", "--extractor", "pixels"]
    words += ["--modes", "cond,cfg", "--device", "cpu"]
    one, two = tmp_path / "one", tmp_path / "two"
    for launcher, out in ((ALONE, one), (TWO, two)):
        said = run(launcher, *words, "--out", out, "--cache", out / "features")
        assert said.count("| FD-pixels") == 1
    assert json.loads((one / "metrics.json").read_text()) == json.loads((two / "metrics.json").read_text())
    for path in one.glob("c*/*.png"):
        assert path.read_bytes() == (two / path.parent.name / path.name).read_bytes()


def test_one_and_two_processes_draw_the_same_pictures(finished_run, scenes, tmp_path):
    words = ["sample", finished_run, "--panoptic", scenes / "panoptic/test", "--steps", "2", "--batch-size", "1"]
    for launcher, out in ((ALONE, tmp_path / "one"), (TWO, tmp_path / "two")):
        assert run(launcher, *words, "--device", "cpu", "--out", out).count("all of them:") == 1
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and "contact_sheet.png" in one
