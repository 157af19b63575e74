import io

import pytest
from rich.console import Console
from training_fakes import make_data, make_module

from mamoe.training.loop.progress import Smoothed, TrainingProgress


class Run:
    """What the progress line asks of a trainer."""

    max_steps, global_step, accumulate_grad_batches, is_global_zero = 100, 0, 2, True

    def __init__(self):
        self.datamodule = make_data(batch_size=8)
        self.datamodule.take_waited = lambda: 0.25


def drive(console, clock, monkeypatch, steps):
    monkeypatch.setattr("mamoe.training.loop.progress.time.monotonic", lambda: clock[0])
    run, module, progress = Run(), make_module(), TrainingProgress(console)
    module.watch.loss = 0.5
    progress.on_train_start(run, module)
    for batch_idx in range(2 * steps):
        clock[0] += 0.5
        run.global_step = (batch_idx + 1) // 2
        progress.on_train_batch_end(run, module, None, None, batch_idx)
    progress.on_train_end(run, module)


def test_plain_lines_come_every_ten_seconds_with_right_figures(monkeypatch):
    out = io.StringIO()
    drive(Console(file=out, width=200), [0.0], monkeypatch, 25)
    assert out.getvalue().splitlines() == [
        "step 10/100  loss 0.5000  16.0 images/s  waiting for data 25%  left 0:01:30",
        "step 20/100  loss 0.5000  16.0 images/s  waiting for data 25%  left 0:01:20",
    ]


def test_a_terminal_gets_one_bar(monkeypatch):
    out = io.StringIO()
    drive(Console(file=out, width=200, force_terminal=True), [0.0], monkeypatch, 25)
    assert "25/100" in out.getvalue() and "16.0 images/s" in out.getvalue()
    assert "step 10/100" not in out.getvalue()


def test_smoothing_is_unbiased_and_forgets():
    smoothed = Smoothed(window=10)
    smoothed.add(4.0)
    assert smoothed.mean == pytest.approx(4.0)
    for _ in range(100):
        smoothed.add(1.0)
    assert smoothed.mean == pytest.approx(1.0, abs=1e-3)
