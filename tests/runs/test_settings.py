"""Configuration that reaches the training."""

import json
import subprocess

import pytest
import torch
import yaml

from apart import mamoe_apart
from factories import only_run, short_run
from mamoe.training.loop.metrics import read_rows
from mamoe.training.step.module import DiffusionModule
from wholeruns import COMMAND, SMALL, run_folders, tensors, trained


@pytest.mark.parametrize(
    "debug", [pytest.param("default", marks=pytest.mark.slow), "fdr", "limit", "overfit", "profiler"]
)
def test_debugging_runs(debug, base_model, scenes, tmp_path):
    shorter = {"overfit": ["trainer.max_steps=3"], "profiler": ["trainer.max_steps=2"], "limit": []}.get(debug, [])
    own = ("trainer.max_steps", "callbacks")  # what the debug option is to decide itself
    words = [w for w in short_run(base_model, scenes, tmp_path) if not w.startswith(own)]
    few = ["callbacks.samples.steps=1"] if debug in ("limit", "overfit") else []
    trained(*words, f"debug={debug}", *shorter, *few)
    run = only_run(tmp_path, "debug")
    last = max(int(row["step"]) for row in read_rows(run / "metrics.csv"))
    # limit: one epoch of 6 pictures by 2
    assert last == {"default": 4, "fdr": 1, "limit": 3, "overfit": 3, "profiler": 2}[debug]
    assert (run / "checkpoints/latest").is_dir()
    assert (run / "samples").is_dir() == (debug != "profiler")
    profile = run / "fit-profile.txt"
    assert profile.exists() == (debug == "profiler")
    if debug == "profiler":
        assert "optimizer_step" in profile.read_text()
    if debug == "overfit":
        assert json.loads((run / "dataset.json").read_text())["val_images"] == 6  # the training pictures


@pytest.mark.slow
def test_limits_and_anomaly_detection_reach_the_training(base_model, scenes, tmp_path, monkeypatch):
    seen, step = [], DiffusionModule.training_step

    def watched(self, batch, batch_idx):
        seen.append((torch.is_anomaly_enabled(), *batch.index.tolist()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModule, "training_step", watched)
    words = ["trainer.limit_train_images=3", "trainer.limit_val_images=1", "trainer.detect_anomaly=true"]
    words += ["trainer.max_steps=1"]  # autograd's anomaly detection takes a second per step
    trained(*short_run(base_model, scenes, tmp_path), *words, *SMALL, "trainer.accumulate_grad_batches=3")
    assert len(seen) == 3 and all(anomaly for anomaly, *_ in seen)
    assert {index for _, *indices in seen for index in indices} == {0, 1, 2}
    facts = json.loads((only_run(tmp_path) / "dataset.json").read_text())
    assert (facts["train_images"], facts["val_images"]) == (3, 1)


@pytest.mark.slow
def test_loggers_and_callbacks_by_name(base_model, scenes, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    extra = [
        "logger=tensorboard",
        f"logger.extra=[{{_target_: lightning.pytorch.loggers.CSVLogger, save_dir: {tmp_path / 'more'}}}]",
        "callbacks.extra=[{_target_: lightning.pytorch.callbacks.LearningRateMonitor}]",
    ]
    trained(*short_run(base_model, scenes, tmp_path / "runs"), *extra)
    events = EventAccumulator(str(only_run(tmp_path / "runs") / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Images("samples")] == [4]
    assert [event.step for event in events.Scalars("val/loss")] == [0, 2, 4]
    assert any(tag.startswith("lr-") for tag in events.Tags()["scalars"])
    assert "val/loss" in next((tmp_path / "more").rglob("metrics.csv")).read_text()


@pytest.mark.slow
def test_two_processes_share_one_run_folder(base_model, scenes, tmp_path):
    words = [w for w in short_run(base_model, scenes, tmp_path) if not w.startswith(("callbacks", "trainer"))]
    done = subprocess.run(
        [*COMMAND, "train", *words, "debug=data_parallel", "trainer.max_steps=2"],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = run_folders(tmp_path, "debug")
    assert (run / "checkpoints/step-00000002/MANIFEST.json").exists()
    assert "Traceback" not in done.stderr
    assert done.stdout.count("Trained to step 2") == 1


@pytest.mark.slow
def test_a_sweep_makes_a_run_for_every_value(base_model, scenes, tmp_path, monkeypatch):
    words = [*short_run(base_model, scenes, tmp_path / "runs"), *SMALL, "trainer.max_steps=1"]
    monkeypatch.chdir(tmp_path)
    done = mamoe_apart(["train", "-m", *words, "seed=1,2"], tmp_path / "said.txt")
    assert done.code == 0, done.err[-3000:]
    runs = run_folders(tmp_path / "runs", "demo")
    seeds = sorted(yaml.safe_load((run / "config.yaml").read_text())["seed"] for run in runs)
    assert seeds == [1, 2]
    a, b = (tensors(run, 1) for run in runs)
    assert any(not torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_sweep_with_a_mistake_ends_as_a_single_run_does(base_model, scenes, tmp_path, monkeypatch):
    words = [*short_run(base_model, scenes, tmp_path / "runs"), *SMALL]
    monkeypatch.chdir(tmp_path)
    done = mamoe_apart(["train", "-m", *words, "trainer.max_stepz=1,2"], tmp_path / "said.txt")
    assert done.code == 2 and "Traceback" not in done.err
    assert "did you mean trainer.max_steps" in done.err
