"""Two processes against one."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_fakes import train_watched

import apart
from mamoe.training.loop.metrics import read_rows


def rank(folder: Path) -> None:
    torch.save(train_watched(folder / "run", 2), folder / f"rank{os.environ['LOCAL_RANK']}.test")


def metrics(run: Path) -> dict[tuple[int, str], float]:
    rows = read_rows(run / "metrics.csv")
    return {(int(r["step"]), k): float(v) for r in rows for k, v in r.items() if v and k != "step"}


@pytest.mark.slow
def test_two_processes_keep_equal_weights_and_see_what_one_sees(tmp_path):
    alone = train_watched(tmp_path / "alone", 1)
    assert apart.exit_codes(apart.ranks(2, rank, tmp_path)) == [0, 0]

    first, second = (torch.load(tmp_path / f"rank{rank}.test") for rank in (0, 1))
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
        torch.testing.assert_close(value, alone["weights"][name], rtol=1e-5, atol=1e-6)
    for whole, a, b in zip(alone["seen"], first["seen"], second["seen"], strict=True):
        assert len(a) == len(b) == 2
        assert sorted(whole) == sorted(a + b)
    together = {**first["drawn"], **second["drawn"]}
    assert together.keys() == alone["drawn"].keys() and len(together) > 16
    assert all(torch.equal(draw, together[key]) for key, draw in alone["drawn"].items())  # timestep, dropout, noise
    one, two = metrics(tmp_path / "alone"), metrics(tmp_path / "run")
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert two[key] == pytest.approx(value, rel=1e-5), key
    saved = load_file(tmp_path / "run/checkpoints/latest/unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in first["weights"].items())
