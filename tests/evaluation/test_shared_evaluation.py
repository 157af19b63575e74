"""Two real processes, as torchrun starts them."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_one_and_two_processes_give_the_same_numbers(finished_run, tmp_path):
    words = ["evaluate", str(finished_run), "--steps", "2", "--batch-size", "1", "--extractor", "pixels"]
    words += ["--modes", "cond,cfg", "--device", "cpu"]
    one, two = tmp_path / "one", tmp_path / "two"
    shared = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mamoe.cli"]
    for launcher, out in (([sys.executable, "-m", "mamoe.cli"], one), (shared, two)):
        outcome = subprocess.run(
            [*launcher, *words, "--out", out, "--cache", out / "features"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # the segmenter's training adds up in another order otherwise
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert outcome.returncode == 0, outcome.stderr
    assert json.loads((one / "metrics.json").read_text()) == json.loads((two / "metrics.json").read_text())
    for path in one.glob("c*/*.png"):
        assert path.read_bytes() == (two / path.parent.name / path.name).read_bytes()
    assert outcome.stdout.count("| FD-pixels") == 1
