import errno
import functools
import json
import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file
from training_fakes import CPU, RECIPE, Pictures, collate, fit, make_data, make_module, tiny_unet, weights

from mamoe.errors import CheckpointError, ConfigError, DatasetError
from mamoe.storage.staging import DiskFullError
from mamoe.training.loop.explaining import OutOfMemoryError
from mamoe.training.loop.fit import Endurance
from mamoe.training.loop.interruption import Stop
from mamoe.training.loop.metrics import MetricsFile, log_metrics, read_rows
from mamoe.training.loop.saving import BestBy
from mamoe.training.optim import make_adam
from mamoe.training.watch.validation import FixedLoss

SETTINGS = {**CPU, "accumulate_grad_batches": 2}


class Act(Callback):
    """Does something after a given optimizer step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.act()


def train(run, *, max_steps=7, resume=None, extra=(), module=None, data=None, condition=None, **changes):
    # 10 pictures in batches of 4 x 2: every checkpoint falls into the middle of an epoch.
    module = module or make_module(unet=tiny_unet(dropout=0.1))
    changes = {"best_by": BestBy(metric="val/loss"), **changes}
    loss = FixedLoss(name="val/loss", data=Pictures(6), collate=collate, count=5, batch_size=3, every_n_steps=1)
    settings = {"checkpoint_every_n_steps": 2, "log_every_n_steps": 1, "trainer": SETTINGS, **changes}
    result = fit(
        module,
        data or make_data(),
        run,
        max_steps=max_steps,
        recipe=replace(RECIPE, terms=replace(RECIPE.terms, condition=condition)),
        callbacks=[loss, *extra],
        resume=resume,
        **settings,
    )
    return result, module


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = tmp_path_factory.mktemp("uninterrupted")
    result, module = train(run)
    return run, result, module


def test_what_the_optimizer_kept_is_not_moved_when_a_training_ends(tmp_path):
    kept = []

    class Ending(Callback):
        def on_fit_end(self, trainer, pl_module):
            kept.append(trainer.optimizers)

    train(tmp_path, max_steps=1, extra=[Ending()])
    assert kept == [[]]  # Lightning's last act is to move those it still knows


def files_equal(a, b):
    a, b = load_file(a), load_file(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def assert_same_run(run, uninterrupted):
    whole_run, _, _ = uninterrupted
    whole, parts = whole_run / "checkpoints" / "latest", run / "checkpoints" / "latest"
    assert os.readlink(whole) == os.readlink(parts) == "step-00000007"
    for name in ("unet", "unet_ema"):
        file = f"{name}/diffusion_pytorch_model.safetensors"
        assert files_equal(whole / file, parts / file), name
    assert files_equal(whole / "trainer/optimizer.safetensors", parts / "trainer/optimizer.safetensors")
    assert (whole / "trainer/state.json").read_text() == (parts / "trainer/state.json").read_text()
    assert read_rows(run / "metrics.csv") == read_rows(whole_run / "metrics.csv")


def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(tmp_path, uninterrupted):
    before = signal.getsignal(signal.SIGINT)
    result, _ = train(tmp_path, extra=[Act(3, lambda: os.kill(os.getpid(), signal.SIGINT))])
    assert (result.step, result.exit_code) == (3, 130)
    assert f"Go on with resume={tmp_path}" in result.message
    assert signal.getsignal(signal.SIGINT) is before
    result, _ = train(tmp_path, resume=tmp_path, extra=[Act(5, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    assert (result.step, result.exit_code) == (5, 75)
    result, _ = train(tmp_path, resume=tmp_path)
    assert (result.step, result.exit_code, result.stopped_by) == (7, 0, None)
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_schedulers_signal_saves_and_asks_to_be_started_again(tmp_path, number):
    before = signal.getsignal(signal.SIGUSR1)
    told = Endurance(preemption=(signal.SIGUSR1,))
    result, _ = train(tmp_path, extra=[Act(3, lambda: os.kill(os.getpid(), number))], endurance=told)
    assert (result.step, result.exit_code, result.stopped_by) == (3, 75, Stop.PREEMPTED)
    assert os.readlink(tmp_path / "checkpoints/latest") == "step-00000003"
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_run_out_of_time_saves_and_asks_to_be_started_again(tmp_path):
    result, _ = train(tmp_path, endurance=Endurance(max_seconds=0.0))
    assert (result.step, result.exit_code, result.stopped_by) == (1, 75, Stop.OUT_OF_TIME)
    assert os.readlink(tmp_path / "checkpoints/latest") == "step-00000001"
    # A run whose time is up at its last step is done.
    result, _ = train(tmp_path, max_steps=2, resume=tmp_path, endurance=Endurance(max_seconds=0.0))
    assert (result.step, result.exit_code) == (2, 0)


def test_the_best_checkpoint_goes_by_any_logged_metric(tmp_path, caplog):
    class Score(Callback):
        values = iter((3.0, 9.0, float("nan"), 5.0, 1.0))

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
                log_metrics(trainer, {"my/score": next(self.values)})

    common = {"extra": [Score()], "checkpoint_every_n_steps": 1, "best_by": BestBy(metric="my/score", mode="max")}
    train(tmp_path, max_steps=4, **common)
    assert os.readlink(tmp_path / "checkpoints/best") == "step-00000002"
    train(tmp_path, max_steps=5, resume=tmp_path, **common)  # remembered: 1 is not better than 9
    assert os.readlink(tmp_path / "checkpoints/best") == "step-00000002"
    train(tmp_path / "none", max_steps=1, best_by=BestBy(metric="val/los"))
    assert "goes by val/los, but only train/grad_norm, train/loss, train/lr, val/loss was logged" in caplog.text


def test_a_crashed_run_with_a_damaged_checkpoint_equals_an_uninterrupted_one(tmp_path, uninterrupted, caplog):
    def crash():
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path, extra=[Act(5, crash)])
    assert int(read_rows(tmp_path / "metrics.csv")[-1]["step"]) == 5
    weights_file = tmp_path / "checkpoints/step-00000004/unet/diffusion_pytorch_model.safetensors"
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1
    weights_file.write_bytes(content)
    train(tmp_path, resume=tmp_path)
    assert "step-00000004 is damaged" in caplog.text
    assert "Resuming from" in caplog.text and "at step 2" in caplog.text
    assert_same_run(tmp_path, uninterrupted)


def test_resuming_needs_the_run_it_came_from(tmp_path, uninterrupted):
    run, _, _ = uninterrupted
    with pytest.raises(CheckpointError, match="seed was 5 and is 6; data_size was 10 and is 9"):
        train(tmp_path, resume=run, module=make_module(seed=6), data=make_data(9))
    with pytest.raises(CheckpointError, match="condition was None and is classes"):
        train(tmp_path, resume=run, condition="classes")
    with pytest.raises(CheckpointError, match="no sound checkpoint"):
        train(tmp_path, resume=tmp_path)


def test_cost_is_that_of_the_networks(uninterrupted):
    run, _, module = uninterrupted
    cost = json.loads((run / "cost.json").read_text())
    parameters = sum(p.numel() for p in module.unet.parameters())
    assert cost["parameters"] == cost["trained_parameters"] == parameters > 0
    assert 0 < cost["seconds_per_step"] < 30 and cost["peak_mib"] > 10


def test_run_folder_holds_what_the_design_says(uninterrupted):
    run, result, module = uninterrupted
    assert {p.name for p in run.iterdir()} == {"log.txt", "metrics.csv", "cost.json", "checkpoints"}
    assert {p.name for p in result.checkpoint.iterdir()} == {
        "unet",
        "unet_ema",
        "trainer",
        "recipe.json",
        "MANIFEST.json",
    }
    unet = type(module.unet).from_pretrained(result.checkpoint / "unet", use_safetensors=True)
    assert all(torch.equal(value, unet.state_dict()[name]) for name, value in module.unet.state_dict().items())
    assert not list(run.rglob("*.ckpt")) and not list(run.rglob("*.pt"))
    rows = read_rows(run / "metrics.csv")
    losses = {int(row["step"]): float(row["val/loss"]) for row in rows if row["val/loss"]}
    assert sorted(losses) == list(range(8))
    kept = {int(p.name[5:]): p for p in (run / "checkpoints").glob("step-*")}
    saved = {step: losses[step] for step in (2, 4, 6, 7)}
    best = min(saved, key=saved.__getitem__)
    assert os.readlink(run / "checkpoints" / "best") == f"step-{best:08d}"
    assert set(kept) == {6, 7, best}


def test_training_learns_something(uninterrupted):
    run, _, _ = uninterrupted
    losses = [float(row["val/loss"]) for row in read_rows(run / "metrics.csv") if row["val/loss"]]
    assert losses[-1] < 0.95 * losses[0]


def test_learning_rate_of_each_step_is_logged(uninterrupted):
    run, _, _ = uninterrupted
    rates = [float(row["train/lr"]) for row in read_rows(run / "metrics.csv") if row["train/lr"]]
    assert rates[:3] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])


def test_a_bad_picture_is_named(tmp_path):
    data = make_data(train=Pictures(10, fails_at=6))
    with pytest.raises(DatasetError, match=r"^images/006\.png cannot be read\.$"):
        train(tmp_path, data=data)


@pytest.mark.usefixtures("data_workers")
@pytest.mark.slow
def test_a_workers_error_reads_like_the_data_sets_own(tmp_path):
    data = make_data(train=Pictures(10, fails_at=6), num_workers=1)
    with pytest.raises(DatasetError, match=r"^images/006\.png cannot be read\.$") as caught:
        train(tmp_path, data=data)
    assert caught.value.exit_code == 3


@pytest.mark.usefixtures("data_workers")
@pytest.mark.slow
def test_workers_survive_a_signal_to_the_whole_group(tmp_path):
    def signal_all():
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGINT)
            os.kill(worker.pid, signal.SIGTERM)

    def stop():
        assert len(multiprocessing.active_children()) == 1
        os.kill(os.getpid(), signal.SIGTERM)

    result, _ = train(tmp_path, data=make_data(num_workers=1), extra=[Act(2, signal_all), Act(5, stop)])
    assert (result.step, result.exit_code) == (5, 75)


@pytest.mark.parametrize(
    ("raised", "error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskFullError, 6),
        (MemoryError(), OutOfMemoryError, 5),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemoryError, 5),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), OutOfMemoryError, 5),
    ],
)
def test_a_full_memory_or_disk_says_how_to_go_on(tmp_path, raised, error, code):
    def fail():
        raise raised

    with pytest.raises(error, match=f"resume={tmp_path}") as caught:
        train(tmp_path, extra=[Act(3, fail)])
    assert caught.value.exit_code == code
    assert (tmp_path / "checkpoints" / "latest" / "MANIFEST.json").exists()


def test_settings_are_checked_together(tmp_path):
    settings = {"logger": None, "precision": "64-true", "gradient_clip_val": -1}
    with pytest.raises(ConfigError, match=r"sets logger itself.*max_steps.*precision must.*gradient_clip_val"):
        train(tmp_path, max_steps=0, trainer=settings)
    with pytest.raises(ConfigError, match="keep_last must be at least 2"):
        train(tmp_path, keep_last=1)


def test_any_torch_schedule_works_and_resumes(tmp_path):
    def module():
        one_cycle = functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1e-3, total_steps=5)
        optimizer = functools.partial(make_adam, name="adam", lr=1e-3)
        return make_module(lr_scheduler=one_cycle, optimizer=optimizer, ema_decay=None)

    _, whole = train(tmp_path / "whole", max_steps=4, module=module())
    train(tmp_path / "parts", max_steps=2, module=module())
    _, parts = train(tmp_path / "parts", max_steps=4, module=module(), resume=tmp_path / "parts")
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())


def test_metrics_file_appends_grows_columns_and_cuts_back(tmp_path):
    first = MetricsFile(tmp_path)
    first.log_metrics({"a": 1.0}, step=1)
    first.log_metrics({"b": 2.0}, step=2)
    first.log_metrics({"a": 3.0, "b": 4.0}, step=3)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,")  # a crash in the middle of a row
    second = MetricsFile(tmp_path, 2)
    second.log_metrics({"c": 5.0}, step=3)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,a,b,c", "1,1.0,,", "2,,2.0,", "3,,,5.0"]
