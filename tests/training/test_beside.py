"""Checkpoints written beside the training."""

import threading
import time

import pytest
import torch
from training_fakes import CPU, fit, make_data, make_module, weights

from mamoe.errors import CheckpointError, ConfigError
from mamoe.runs.checkpoint import OPTIMIZER, checkpoints_of, sound_checkpoint
from mamoe.runs.manifest import problems_of
from mamoe.storage.staging import DiskFullError
from mamoe.training.loop import beside, saving
from mamoe.training.loop.beside import HostCopies, Writer
from mamoe.training.loop.steps import stepped
from wholeruns import assert_equal, tensors


def train(run, module=None, **changes):
    settings = {"max_steps": 6, "checkpoint_every_n_steps": 2, "trainer": CPU, "keep_last": 9}
    return fit(module or make_module(), make_data(), run, **{**settings, **changes})


def test_copies_stay_as_they_were_and_keep_the_shape_of_the_tree():
    tree = {"a": {"x": torch.ones(3)}, "b": {0: torch.zeros(2, 2), "n": 7}}
    copies = HostCopies().of(tree)
    tree["a"]["x"].zero_()
    assert copies["a"]["x"].tolist() == [1, 1, 1] and copies["b"]["n"] == 7 and list(copies["b"]) == [0, "n"]


def test_room_for_the_first_copy_is_made_beside_the_training(monkeypatch):
    monkeypatch.setattr(beside, "_is_on_gpu", lambda tensor: True)
    tree, made = {"a": {"x": torch.ones(3)}, "b": {0: torch.zeros(2, 2)}}, []

    def place(tensor):
        made.append((threading.current_thread().name, tuple(tensor.shape)))
        return torch.empty_like(tensor)

    copies = HostCopies(place)
    copies.prepare(tree)
    first = copies.of(tree)
    assert made == [("room for copies", (3,)), ("room for copies", (2, 2))]
    assert first["a"]["x"].tolist() == [1, 1, 1] and copies.of(tree)["a"]["x"] is first["a"]["x"]


def test_room_that_cannot_be_made_is_asked_for_again_by_who_copies(monkeypatch):
    monkeypatch.setattr(beside, "_is_on_gpu", lambda tensor: True)

    def place(tensor):
        raise RuntimeError("CUDA error: out of memory")

    copies = HostCopies(place)
    copies.prepare({"x": torch.ones(3)})
    with pytest.raises(RuntimeError, match="out of memory"):
        copies.of({"x": torch.ones(3)})


def test_a_device_that_works_ahead_has_room_made_from_the_first_step_on(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("mamoe.training.step.module.works_ahead", lambda device: True)
    monkeypatch.setattr(saving, "works_ahead", lambda device: True)
    monkeypatch.setattr(HostCopies, "prepare", lambda self, tree: asked.append(sorted(tree)))
    module = make_module()
    train(tmp_path, module, checkpoint_every_n_steps=3)
    assert asked == [["trainer", "unet", "unet_ema"]]


def test_a_writer_raises_once_and_one_after_another():
    writer, order = Writer(), []

    def slow():
        time.sleep(0.05)
        order.append("slow")

    writer.start(slow)
    writer.start(lambda: order.append(1 / 0))
    with pytest.raises(ZeroDivisionError):
        writer.wait()
    writer.wait()
    writer.raise_failure()
    assert order == ["slow"]


@pytest.fixture
def whole(tmp_path):
    """What the same training writes when it waits for every checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HostCopies, "fit", lambda self, tree: False)
        train(tmp_path / "whole")
    return tmp_path / "whole"


def test_a_slow_disk_changes_nothing_and_keeps_no_step_waiting(tmp_path, whole, monkeypatch):
    write, main, aside, steps_meanwhile = saving.write_checkpoint, threading.current_thread(), [], []

    def slow_write(run, step, fill):
        aside.append(threading.current_thread() is not main)
        if aside[-1]:
            before = len(done)
            deadline = time.monotonic() + 20
            while len(done) == before and time.monotonic() < deadline:  # until the training has taken a step
                time.sleep(0.01)
            steps_meanwhile.append(len(done) - before)
        return write(run, step, fill)

    done = []
    monkeypatch.setattr(saving, "write_checkpoint", slow_write)
    monkeypatch.setattr(
        saving, "stepped", lambda trainer, batch_idx: done.append(batch_idx) or stepped(trainer, batch_idx)
    )
    assert train(tmp_path / "run").step == 6
    assert aside == [True, True, False] and all(count > 0 for count in steps_meanwhile)
    for step in (2, 4, 6):
        assert problems_of(tmp_path / f"run/checkpoints/step-{step:08d}") == []
        assert_equal(tensors(whole, step), tensors(tmp_path / "run", step))
        name = f"checkpoints/step-{step:08d}/trainer/state.json"
        assert (whole / name).read_text() == (tmp_path / "run" / name).read_text()
    # And what was written beside the training is resumed from to the same bits.
    module = make_module()
    train(tmp_path / "again", module, resume=tmp_path / "run/checkpoints/step-00000004")
    assert_equal(
        weights(module.unet), {k.split(":")[1]: v for k, v in tensors(whole, 6).items() if k.startswith("unet/")}
    )


def test_without_memory_for_copies_the_training_waits_and_says_so(tmp_path, whole):
    assert (whole / "log.txt").read_text().count("there is no memory for a copy of all weights") == 1


def test_a_failure_of_the_thread_ends_the_training(tmp_path, monkeypatch):
    write = saving.write_checkpoint

    def fails_at_4(run, step, fill):
        if step == 4:
            raise OSError(28, "No space left on device")
        return write(run, step, fill)

    monkeypatch.setattr(saving, "write_checkpoint", fails_at_4)
    with pytest.raises(DiskFullError, match=r"disk of .* is full"):
        train(tmp_path, max_steps=50)
    assert sound_checkpoint(tmp_path).name == "step-00000002"


def test_older_checkpoints_keep_what_was_learned_alone(tmp_path):
    train(tmp_path, full=2)
    old, *new = checkpoints_of(tmp_path)
    assert not (old / OPTIMIZER).exists() and (old / "unet_ema").is_dir() and problems_of(old) == []
    assert all((path / OPTIMIZER).is_file() for path in new) and len(new) == 2
    with pytest.raises(CheckpointError, match=r"not the optimizer's state any more.*model\.init_from="):
        sound_checkpoint(old)
    for path in new:
        (path / "recipe.json").write_text("damaged")
    with pytest.raises(CheckpointError, match="no sound checkpoint to resume from"):
        sound_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="full >= 1"):
        train(tmp_path / "other", full=0)
