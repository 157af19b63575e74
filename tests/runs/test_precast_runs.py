"""Runs whose frozen weights are kept in bfloat16 are those of before to the bit: checkpoints, grids, losses, exports."""

import numpy as np
import pytest
import torch
from PIL import Image

from factories import only_run, short_run
from mamoe.assemble import model
from wholeruns import assert_equal, cut_back, tensors, trained

HALF = ["trainer.precision=bf16-mixed", "trainer.threads=1"]
RANK = ["method.rank=4", "method.alpha=4"]
METHODS = {
    "decoder": [],
    "lora": RANK,
    "dora": [*RANK, "method.conv=false", "method.projection=false"],
    "lora_experts": RANK,
    "controlnet_xs": ["data.condition=classes"],
}


def words_of(name, base_model, scenes, runs):
    return [*short_run(base_model, scenes, runs), f"method={name}", *METHODS[name], *HALF]


def run_of(runs, *words):
    said = trained(*words)
    return only_run(runs), said


@pytest.fixture
def in_float32(monkeypatch):
    """Lets trainings keep what they were told to, as they did before."""

    def of(*words, runs):
        with monkeypatch.context() as patched:
            patched.setattr(model, "frozen_dtype", lambda config: None)
            patched.setattr("mamoe.assemble.training.frozen_dtype", lambda config: None)
            patched.setattr("mamoe.assemble.training.frozen_notes", lambda config, module: [])
            return run_of(runs, *words)[0]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_the_one_of_before(name, base_model, scenes, tmp_path, in_float32):
    before = in_float32(*words_of(name, base_model, scenes, tmp_path / "before"), runs=tmp_path / "before")
    now, _ = run_of(tmp_path / "now", *words_of(name, base_model, scenes, tmp_path / "now"))
    log = (now / "log.txt").read_text()
    assert " are kept in bfloat16 (" in log and "are kept in bfloat16" not in (before / "log.txt").read_text()
    for step in (2, 4):
        assert_equal(tensors(now, step), tensors(before, step))
    assert all(value.dtype == torch.float32 for key, value in tensors(now, 4).items() if key.startswith("unet"))
    assert (now / "metrics.csv").read_text() == (before / "metrics.csv").read_text()
    grids = [Image.open(run / "samples/step-00000004/grid.png") for run in (now, before)]
    np.testing.assert_array_equal(*map(np.asarray, grids))
    # Resumed, also from what an earlier version wrote.
    for source in (now, before):
        copy = cut_back(source, tmp_path / f"copy of {source.parts[-3]}", 2)
        trained(f"resume={copy}")
        assert_equal(tensors(copy, 4), tensors(before, 4))
