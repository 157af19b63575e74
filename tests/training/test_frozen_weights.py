"""Trainings whose frozen weights are kept in bfloat16: checkpoints hold those of before, and nothing trains in less."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_recorded import again
from training_fakes import CPU, fit, make_data, make_module, tiny_unet, tiny_vae, weights

import apart
from mamoe.errors import ConfigError
from mamoe.models.precast import precast
from mamoe.training.step import module as step_module
from mamoe.training.step.module import DiffusionModule
from mamoe.training.step.recorded import recorded_if_it_works

HALF = {**CPU, "precision": "bf16-mixed"}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def decoder_module(*, cast=True, shift=0.0, **changes):
    """One whose UNet trains in its up blocks alone; ``shift``: of all weights of the base model."""
    unet, vae = tiny_unet(), tiny_vae().requires_grad_(False)
    with torch.no_grad():
        for weight in unet.parameters():
            weight.add_(shift)
    unet.requires_grad_(False).up_blocks.requires_grad_(True)
    originals = precast(unet, torch.bfloat16, keep=True) if cast else {}
    if cast:
        precast(vae, torch.bfloat16)
    return make_module(unet=unet, vae=vae, originals=originals, **changes)


def saved(run: Path, step: int, folder: str = "unet"):
    return load_file(run / f"checkpoints/step-{step:08d}/{folder}/{WEIGHTS}")


def assert_equal(a, b):
    assert a.keys() == b.keys() and a
    for name, value in a.items():
        assert value.dtype == torch.float32 and torch.equal(value, b[name]), name


def train(run, module, *, steps=4, trainer=HALF, **options):
    fit(module, make_data(), run, max_steps=steps, checkpoint_every_n_steps=2, trainer=trainer, **options)


def test_a_checkpoint_of_the_whole_network_holds_the_weights_of_before(tmp_path):
    train(tmp_path / "whole", decoder_module(cast=False))
    train(tmp_path / "cast", decoder_module())
    for folder in ("unet", "unet_ema"):
        assert_equal(saved(tmp_path / "cast", 4, folder), saved(tmp_path / "whole", 4, folder))


def test_what_is_resumed_are_the_weights_of_the_checkpoint(tmp_path):
    train(tmp_path / "run", decoder_module(shift=0.01))
    wanted = saved(tmp_path / "run", 4)
    # The base model is another by now: a checkpoint of the whole network needs it no more.
    train(tmp_path / "run", decoder_module(), steps=4, resume=tmp_path / "run/checkpoints/step-00000002")
    assert_equal(saved(tmp_path / "run", 4), wanted)


def test_weights_that_are_let_train_later_are_refused(tmp_path):
    module = decoder_module()
    module.unet.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"weights to be trained must be float32, got torch\.bfloat16"):
        train(tmp_path, module)


def test_memory_is_that_of_two_bytes_a_weight_and_optimizers_see_none_of_them(tmp_path):
    module, whole = decoder_module(), decoder_module(cast=False)
    less = sum(weight.nbytes for weight in whole.unet.parameters())
    less -= sum(weight.nbytes for weight in module.unet.parameters())
    assert less == sum(value.nbytes for value in module.originals.values()) // 2 > 0
    seen = []
    make = partial(torch.optim.SGD, lr=0.1)

    def noted(groups):
        optimizer = make(groups)
        seen.extend(weight for group in optimizer.param_groups for weight in group["params"])
        return optimizer

    train(tmp_path, decoder_module(optimizer=noted), steps=1)
    assert seen and {weight.dtype for weight in seen} == {torch.float32}
    assert sum(map(torch.numel, seen)) == sum(p.numel() for p in whole.unet.parameters() if p.requires_grad)


def test_a_recorded_step_learns_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(DiffusionModule, "_can_record", lambda self: True)
    monkeypatch.setattr(step_module, "recorded_if_it_works", partial(recorded_if_it_works, record=again))
    train(tmp_path / "whole", decoder_module(cast=False, compile="graph"))
    train(tmp_path / "cast", decoder_module(compile="graph"))
    assert_equal(saved(tmp_path / "cast", 4), saved(tmp_path / "whole", 4))


def rank(folder: Path) -> None:
    for cast in (False, True):
        module = decoder_module(cast=cast)
        train(folder / str(cast), module, trainer={**HALF, "devices": 2, "strategy": "ddp"})
        torch.save(weights(module.unet), folder / f"{cast}-{os.environ['LOCAL_RANK']}.test")


@pytest.mark.slow
def test_two_processes_learn_the_same(tmp_path):
    assert apart.exit_codes(apart.ranks(2, rank, tmp_path)) == [0, 0]
    assert_equal(saved(tmp_path / "True", 4), saved(tmp_path / "False", 4))
    mine, theirs = (torch.load(tmp_path / f"True-{number}.test") for number in (0, 1))
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
