"""float16: steps that overflow are left out, counted and no error, unless it never ends."""

import json

import pytest
import torch
from training_fakes import CPU, fit, make_data, make_module, tiny_unet, weights

from mamoe.errors import NonFiniteLossError
from mamoe.training.scale.loss_scale import ScaledPrecision, with_scaling


def run(folder, steps, scale, resume=None):
    module, precision = make_module(), ScaledPrecision("cpu", first_scale=scale)
    settings = {**CPU, "accumulate_grad_batches": 2, "plugins": [precision]}
    fit(
        module,
        make_data(),
        folder,
        max_steps=steps,
        checkpoint_every_n_steps=2,
        log_every_n_steps=1,
        trainer=settings,
        resume=resume,
    )
    return module, precision


@pytest.mark.slow
def test_overflowing_steps_are_left_out_and_a_resumed_run_goes_on_alike(tmp_path):
    scale = 2.0**24
    whole, precision = run(tmp_path / "whole", 8, scale)
    skipped = whole.watch.skipped
    assert 1 <= skipped < 8 and whole.watch.skipped_in_a_row == 0
    assert precision.scaler is not None and precision.scaler.get_scale() == scale / 2**skipped
    assert whole.ema is not None and whole.ema.updates == 8 - skipped
    assert f"left out, the {skipped}. in all" in (tmp_path / "whole/log.txt").read_text()
    state = json.loads((tmp_path / "whole/checkpoints/latest/trainer/state.json").read_text())
    assert state["counters"]["loss_scale"]["scale"] == scale / 2**skipped

    run(tmp_path / "parts", 2, scale)
    parts, _ = run(tmp_path / "parts", 8, 1.0, resume=tmp_path / "parts")
    assert parts.watch.skipped == skipped
    mine, first = weights(parts.unet), weights(tiny_unet())
    assert all(torch.equal(value, mine[name]) for name, value in weights(whole.unet).items())
    assert not torch.equal(mine["conv_in.weight"], first["conv_in.weight"])


def test_an_overflow_that_never_ends_is_an_error_and_leaves_the_weights(tmp_path):
    module = make_module()
    kept = weights(module.unet)
    module.unet.conv_out.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteLossError, match=r"Step 21: .*weights were not changed"):
        fit(
            module,
            make_data(),
            tmp_path,
            max_steps=40,
            checkpoint_every_n_steps=40,
            trainer={**CPU, "precision": "16-mixed"},
        )
    assert module.watch.skipped == 20
    assert all(torch.equal(value, kept[name]) for name, value in weights(module.unet).items())


def test_a_loss_that_is_not_finite_stops_at_once(tmp_path):
    module = make_module(loss=lambda batch: batch.output.float().flatten(1).sum(1) * float("nan"))
    with pytest.raises(NonFiniteLossError, match="Step 1: loss nan"):
        fit(
            module,
            make_data(),
            tmp_path,
            max_steps=3,
            checkpoint_every_n_steps=3,
            trainer={**CPU, "precision": "16-mixed"},
        )


def test_other_precisions_are_left_to_lightning():
    assert with_scaling({"precision": "bf16-mixed"}) == {"precision": "bf16-mixed"}
    scaled = with_scaling({"precision": "16-mixed", "accelerator": "cpu", "devices": 1})
    assert scaled.keys() == {"accelerator", "devices", "plugins"} and scaled["plugins"][0].device == "cpu"
