"""Runs with frozen weights in bfloat16 are those of before to the bit: checkpoints, grids, losses, resuming."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import alexnet

from factories import only_run, short_run
from mamoe.assemble import model
from mamoe.assemble.model import frozen_dtype, frozen_notes
from mamoe.config.compose import compose
from mamoe.config.train import validated
from mamoe.models.precast import precast
from mamoe.storage.tensor_file import read_metadata
from wholeruns import assert_equal, cut_back, tensors, trained

HALF = ["trainer.precision=bf16-mixed", "trainer.threads=1"]
RANK = ["method.rank=4", "method.alpha=4"]
METHODS = {  # one of every kind of checkpoint; that steps are equal tests/models/test_precast.py asks of all methods
    "decoder": [],
    "lora_experts": RANK,
    "full through the base model": ["loss=perceptual"],
    "lora through pictures": [
        *RANK,
        *("loss=lpips", "loss.net=alex", "loss.every=2"),
        *("cache.latents=false", "callbacks.samples.every=2"),  # drawn with the autoencoder that decodes in the steps
    ],
    "lora beside a text encoder": [*RANK, "model.train_text_encoder=true"],
}


def words_of(name, base_model, scenes, runs):
    words = [*short_run(base_model, scenes, runs), f"method={name.split()[0]}", *METHODS[name], *HALF]
    return [*words, f"loss.weights={image_network(runs.parent)}"] if "pictures" in name else words


def image_network(folder):
    """Weights of LPIPS' image network; they are made once."""
    path = folder / "alex.safetensors"
    if not path.exists():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            save_file({f"features.{name}": w for name, w in alexnet().features.state_dict().items()}, path)
    return path


def metadata(folder):
    return [read_metadata(path) for path in sorted(folder.glob("*.safetensors"))]


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
    told = [metadata(run / "checkpoints/step-00000004/unet") for run in (now, before)]
    assert told[0] == told[1] and told[0]  # what an adapter's file says of its base model
    assert all(value.dtype == torch.float32 for key, value in tensors(now, 4).items() if key.startswith("unet"))
    assert (now / "metrics.csv").read_text() == (before / "metrics.csv").read_text()
    grids = [Image.open(run / "samples/step-00000004/grid.png") for run in (now, before)]
    np.testing.assert_array_equal(*map(np.asarray, grids))
    if "beside" in name:
        return
    # Resumed, also from what an earlier version wrote.
    for source in (now, before):
        copy = cut_back(source, tmp_path / f"copy of {source.parts[-3]}", 2)
        trained(f"resume={copy}")
        assert_equal(tensors(copy, 4), tensors(before, 4))


def test_what_is_kept_is_said(base_model, scenes, tmp_path):
    config = validated(
        compose([*words_of("lora_experts", base_model, scenes, tmp_path), "model.frozen_precision=fp32"])
    )
    unet = nn.Sequential(nn.Linear(1000, 1000, bias=False), nn.LayerNorm(10)).requires_grad_(False)
    module = SimpleNamespace(networks=[unet, nn.Linear(1, 1)])
    precast(unet, torch.bfloat16)
    assert frozen_notes(config, module) == [
        "frozen weights: 1.0 M of 1.0 M are kept in bfloat16 (0.0 GiB less), which is what autocast makes of them in "
        "every step"
    ]
    dealt = config.model_copy(update={"trainer": config.trainer.model_copy(update={"strategy": "fsdp"})})
    assert frozen_dtype(config) == torch.bfloat16 and frozen_dtype(dealt) is None
    assert frozen_notes(dealt, module) == [
        "the frozen weights (1.0 M) stay in float32: trainer.strategy=fsdp deals out one type"
    ]
    whole = config.model_copy(update={"trainer": config.trainer.model_copy(update={"precision": "32-true"})})
    assert frozen_dtype(whole) is None and frozen_notes(whole, module) == []
    module.networks[:] = [nn.Linear(3, 3).requires_grad_(False)]  # of a loss that computes in float32
    assert frozen_notes(config, module) == []
    module.networks[:] = [nn.Linear(3, 3)]
    assert frozen_notes(config, module) == []
