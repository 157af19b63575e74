"""When a training ends because nothing becomes better, also where it was interrupted on the way."""

import os
import signal

import pytest
from lightning.pytorch import Callback
from training_fakes import CPU, fit, make_data, make_module

from mamoe.training.loop.metrics import MetricsFile, log_metrics, read_rows
from mamoe.training.loop.saving import BestBy
from mamoe.training.watch.patience import Patience

NAN = float("nan")
# Measured after every second step: best at step 6, and not better in the three measurements up to step 12.
VALUES = {2: 3.0, 4: 5.0, 6: 7.0, 8: 7.0, 10: NAN, 12: 6.0, 14: 9.0, 16: 9.5, 18: 9.9, 20: 10.0}


class Score(Callback):
    """Logs what the step is worth; kills where it is told to."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step in VALUES:
            log_metrics(trainer, {"my/score": VALUES[trainer.global_step]})
        if trainer.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGTERM)


def limit(measurements: int, mode="max", min_delta: float = 0.0) -> Patience:
    return Patience(by=BestBy(metric="my/score", mode=mode), measurements=measurements, min_delta=min_delta)


def train(run, *, patience: Patience | None, kill_at: int | None = None, resume=None):
    return fit(
        make_module(),
        make_data(),
        run,
        max_steps=20,
        checkpoint_every_n_steps=50,
        trainer=CPU,
        callbacks=[Score(kill_at)],
        patience=patience,
        resume=resume,
    )


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], (None, 0)),
        ([NAN, NAN], (None, 2)),
        ([1.0, 2.0, 3.0], (2, 0)),
        ([1.0, 2.0, 2.0, 1.5], (1, 2)),  # as good is not better
        ([NAN, 2.0, float("inf")], (1, 1)),
    ],
)
def test_what_counts_as_better(values, found):
    assert limit(3).waited(values) == found
    assert limit(3, mode="min").waited([-value for value in values]) == found


def test_small_gains_do_not_count_but_add_up():
    """1.0, 1.4, 1.8 with steps of 0.4: the third is 0.8 above the first, the best that counts."""
    assert limit(3, min_delta=0.5).waited([1.0, 1.4, 1.8, 2.1]) == (2, 1)


def test_it_stops_with_a_checkpoint_and_says_why(tmp_path):
    result = train(tmp_path, patience=limit(3))
    assert (result.step, result.exit_code, result.stopped_by) == (12, 0, None)
    assert "my/score is best at step 6 (7)" in result.message and "3 measurements" in result.message
    assert os.readlink(tmp_path / "checkpoints/latest") == "step-00000012"
    # The same command again finds it done; with more patience it goes on.
    again = train(tmp_path, patience=limit(3), resume=tmp_path)
    assert (again.step, again.exit_code) == (12, 0) and "best at step 6" in again.message
    assert train(tmp_path, patience=limit(4), resume=tmp_path).step == 20


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [8, 11])
def test_the_count_survives_an_interruption(tmp_path, kill_at):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, patience=limit(3))
    assert train(parts, patience=limit(3), kill_at=kill_at).exit_code == 75
    assert train(parts, patience=limit(3), resume=parts).step == 12
    assert read_rows(parts / "metrics.csv") == read_rows(whole / "metrics.csv")


def test_rows_behind_the_checkpoint_do_not_count(tmp_path):
    metrics = MetricsFile(tmp_path)
    for step, value in VALUES.items():
        metrics.log_metrics({"my/score": value}, step)
    assert limit(3).spent(metrics.path, until=12) is not None
    assert limit(3).spent(metrics.path, until=10) is None


def test_a_metric_nobody_logs_is_said(tmp_path, caplog):
    nobodys = Patience(by=BestBy(metric="my/scores"), measurements=1)
    assert train(tmp_path, patience=nobodys).step == 20
    assert "goes by my/scores, but only my/score" in caplog.text
