"""`kill -9` again and again, and the same command again: the result is that of a run nobody touched."""

import random
import time
from pathlib import Path

import pytest

from apart import Command, mamoe_apart
from factories import only_run, short_run
from wholeruns import assert_equal, tensors

STEPS, KILLS, INSIDE_SAVES = 30, 6, 2  # two after a save, two inside one, and two at any moment


class Killer:
    """Decides when to kill: inside a save, after one, or a random moment after the training has said some things."""

    def __init__(self, runs: Path, when: str, lines: int, delay: float) -> None:
        self._runs, self._when, self._lines, self._delay = runs, when, lines, delay
        self._before, self._saved = self._said(), saves(runs)
        self._since: float | None = None

    def __call__(self) -> bool:
        if self._when == "inside":
            return bool(partial_saves(self._runs) and self._said() > self._before)
        if self._since is None and self._due():
            self._since = time.monotonic()
        return self._since is not None and time.monotonic() - self._since > self._delay

    def _due(self) -> bool:
        if self._when == "after":
            return bool(saves(self._runs) - self._saved)
        return self._said() >= self._before + self._lines

    def _said(self) -> int:
        lines = [line for path in self._runs.glob("*/*-*/log.txt") for line in path.read_text().splitlines()]
        return sum(" Note: " not in line for line in lines)  # what every session says before its first step


def saves(runs: Path) -> set[Path]:
    return set(runs.glob("*/*/checkpoints/step-*"))


def partial_saves(runs: Path) -> list[Path]:
    return list(runs.glob("*/*/checkpoints/.step-*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_six_times_equals_untouched(base_model, scenes, tmp_path, processes):
    words = [
        *short_run(base_model, scenes, tmp_path / "runs"),
        f"trainer.max_steps={STEPS}",
        "callbacks.validation={every: 3, images: 2}",
        "callbacks.samples=null",
        "callbacks.checkpoints.every=3",
        f"trainer.devices={processes}",
        *(["trainer.strategy=ddp"] if processes > 1 else []),
    ]
    untouched = mamoe_apart(["train", *words, f"runs={tmp_path / 'whole'}"], tmp_path / "whole.txt", processes)
    assert untouched.code == 0, untouched

    runs, rng = tmp_path / "runs", random.Random(processes)
    again = ["train", *words, "resume=auto"], tmp_path / "killed.txt", processes
    inside = kills = 0
    while kills < KILLS or inside < INSIDE_SAVES:
        assert kills < 5 * KILLS
        # After a save in every fourth session: else a machine's timing may let none of them get that far.
        when = "after" if kills % 4 == 0 else "inside" if kills % 2 and inside < INSIDE_SAVES else "any"
        command = Command(*again)
        due = command.wait(Killer(runs, when, rng.randint(1, 5), rng.uniform(0, 0.1)))
        command.kill()
        assert due, f"ended before it could be killed: {command.outcome()}"
        kills += 1
        inside += bool(partial_saves(runs))  # what only a save cut short leaves
    last = mamoe_apart(*again)
    assert last.code == 0, last
    a, b = only_run(tmp_path / "whole"), only_run(runs)
    assert_equal(tensors(a, STEPS), tensors(b, STEPS))
    name = f"checkpoints/step-{STEPS:08d}/trainer/state.json"
    assert (a / name).read_text() == (b / name).read_text()
    assert (a / "metrics.csv").read_bytes() == (b / "metrics.csv").read_bytes()
    assert "Resuming from" in (b / "log.txt").read_text()
    print(f"{processes} processes: killed {kills} times, {inside} of them inside a save")
