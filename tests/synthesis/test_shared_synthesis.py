"""Real processes: two as torchrun starts them, and one that is killed again and again."""

import random
import time
from pathlib import Path

import pytest

from apart import Command, mamoe_apart
from factories import drawn_data

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def town(tmp_path_factory) -> Path:
    return drawn_data(tmp_path_factory.mktemp("town") / "data", {"train": 8})


def words(run: Path, town: Path, out: Path) -> list[str | Path]:
    few = ["--pictures", "10", "--steps", "2", "--batch-size", "2", "--device", "cpu", "--floor", "0"]
    return ["synthesize", run, "--data", town, "--out", out, *few]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_one_and_two_processes_and_one_that_is_killed_make_the_same_set(finished_run, town, tmp_path):
    began = time.monotonic()
    outcome = mamoe_apart(words(finished_run, town, tmp_path / "one"), tmp_path / "said1.txt")
    took = time.monotonic() - began
    assert outcome.code == 0, outcome.err
    outcome = mamoe_apart(words(finished_run, town, tmp_path / "two"), tmp_path / "said2.txt", 2)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("became void") == 1
    assert contents(tmp_path / "one") == contents(tmp_path / "two")

    moments = random.Random(0)
    for attempt in range(5):
        command = Command(words(finished_run, town, tmp_path / "killed"), tmp_path / f"killed{attempt}.txt")
        end = time.monotonic() + moments.uniform(0.2, 0.9) * took
        command.wait(until=lambda end=end: time.monotonic() > end)
        command.kill()
    outcome = mamoe_apart(words(finished_run, town, tmp_path / "killed"), tmp_path / "last.txt")
    assert outcome.code == 0, outcome.err
    assert contents(tmp_path / "one") == contents(tmp_path / "killed")
