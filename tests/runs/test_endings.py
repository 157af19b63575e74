"""Every way a training can end."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from apart import mamoe_apart
from factories import drawn_data, only_run, short_run
from mamoe.assemble.checking import check_data
from mamoe.assemble.data import layout_settings, splits
from mamoe.config.compose import compose
from mamoe.config.train import validated
from mamoe.console import silent
from mamoe.training.order.epochs import epoch_order
from wholeruns import SMALL, WEIGHTS, trained


def test_a_loss_out_of_hand_stops_before_the_weights_change(base_model, scenes, tmp_path):
    words = [
        "optimizer.lr=1e30",
        "trainer.gradient_clip_val=null",
        "callbacks.validation=null",
        "callbacks.samples=null",
        "callbacks.checkpoints.every=1",
    ]
    words += ["lr_scheduler.warmup_steps=0"]
    outcome = trained(*short_run(base_model, scenes, tmp_path), *words, code=4)
    run = only_run(tmp_path)
    assert "The weights were not changed" in outcome.err and "scene_00000" in outcome.err
    assert "NonFiniteLossError" in (run / "log.txt").read_text()
    latest = run / "checkpoints/latest"
    assert outcome.err.startswith(f"Error: Step {int(latest.resolve().name.removeprefix('step-')) + 1}:")
    assert all(torch.isfinite(value).all() for value in load_file(latest / "unet" / WEIGHTS).values())


def check_and_break(words: list[str], *pictures: Path) -> None:
    """Damage pictures when the check at the start has seen them, which knows files by their size and time."""
    config = validated(compose(words))
    check_data(config, splits(config, layout_settings(config).taxonomy), silent)
    for path in pictures:
        whole, times = path.read_bytes(), path.stat()
        path.write_bytes(whole[:200].ljust(len(whole), b"x"))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_broken_picture_is_named_and_nothing_is_lost(base_model, scenes, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    words = [
        *short_run(base_model, data, tmp_path / "runs"),
        "callbacks.validation=null",
        "callbacks.samples=null",
        "callbacks.checkpoints.every=1",
        "cache.latents=false",
    ]
    name = f"scene_{int(epoch_order(0, 0, 6)[-1]):06d}.png"  # seen in the third step
    check_and_break(words, data / "images/train" / name)
    outcome = trained(*words, code=3)
    assert outcome.err.startswith("Error: ") and str(data / "images/train" / name) in outcome.err
    run = only_run(tmp_path / "runs")
    assert (run / "checkpoints/latest").resolve().name == "step-00000002"
    # Mended, the run goes on from where it was.
    shutil.copy(scenes / "images/train" / name, data / "images/train")
    trained(f"resume={run}")
    assert (run / "checkpoints/latest").resolve().name == "step-00000004"


@pytest.mark.usefixtures("data_workers")
@pytest.mark.slow
def test_a_broken_picture_is_named_by_data_workers_too(base_model, tmp_path):
    data = drawn_data(tmp_path / "data", {"train": 4, "val": 1})
    words = [*short_run(base_model, data, tmp_path / "runs"), *SMALL, "data.num_workers=2"]
    check_and_break(words, *(data / "images/train").iterdir())
    done = mamoe_apart(["train", *words], tmp_path / "said.txt")
    assert done.code == 3
    assert "data/images/train/scene_" in done.err and "Traceback" not in done.err
