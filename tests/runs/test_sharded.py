"""A UNet dealt out over two processes (FSDP2), against the same training in one."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import ModelMixin

from apart import mamoe_apart
from factories import only_run, short_run
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.training.loop.metrics import read_rows
from wholeruns import assert_equal, cut_back, tensors, trained

SGD = [
    "optimizer._target_=torch.optim.SGD",
    "~optimizer.name",
    "~optimizer.betas",
    "+optimizer.momentum=0.9",
    "optimizer.lr=0.05",
]
SHARDED = ["trainer.devices=2", "trainer.strategy=fsdp"]


def trained_by_two(says: Path, *words: str) -> None:
    done = mamoe_apart(["train", *words, *SHARDED], says, count=2)
    assert done.code == 0, done.err[-3000:]


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and a
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-4, atol=1e-6, msg=name)


def metrics(run: Path) -> list[float]:
    return [float(value) for row in read_rows(run / "metrics.csv") for value in row.values() if value]


@pytest.mark.slow
def test_weights_dealt_out_over_two_processes_learn_what_whole_ones_do(base_model, scenes, tmp_path):
    """And a checkpoint goes on with as many processes, to the bit, and with one."""
    # Evaluations that the processes have unequal shares of: the first draws the only picture, and has the odd batch.
    odd = ["callbacks.samples={every: 2, images: 1, steps: 1}", "callbacks.validation={every: 1, images: 5}"]
    few = ["trainer.max_steps=2", "callbacks.checkpoints.every=1"]  # the second goes by the first one's momentum
    words = [*short_run(base_model, scenes, tmp_path / "alone"), *SGD, *odd, *few, "model.channels_last=false"]
    trained(*words)
    alone = only_run(tmp_path / "alone")
    trained_by_two(tmp_path / "two.txt", *words, f"runs={tmp_path / 'two'}")
    two = only_run(tmp_path / "two")
    assert_close(tensors(two, 2), tensors(alone, 2))
    assert metrics(two) == pytest.approx(metrics(alone), rel=1e-4)

    unet = two / "checkpoints/step-00000002/unet"
    assert json.loads((unet / "config.json").read_text())["_class_name"] == MaMoEUNet2DConditionModel.__name__
    loaded: ModelMixin = MaMoEUNet2DConditionModel.from_pretrained(unet)
    saved = tensors(two, 2)
    assert all(torch.equal(value, saved[f"{place(unet)}:{name}"]) for name, value in loaded.state_dict().items())

    again = cut_back(two, tmp_path / "again", 1)
    trained_by_two(tmp_path / "again.txt", f"resume={again}")
    assert_equal(tensors(again, 2), tensors(two, 2))
    single = cut_back(two, tmp_path / "single", 1)
    trained(f"resume={single}", "trainer.devices=1", "trainer.strategy=auto")
    assert_close(tensors(single, 2), tensors(two, 2))


def place(unet: Path) -> str:
    return f"{unet.name}/diffusion_pytorch_model.safetensors"
