"""Presets by memory: trainer=gpu_…gb."""

import functools

import pytest

from mamoe.assemble.device import card_notes, check_card
from mamoe.config.compose import compose
from mamoe.config.train import validated
from mamoe.errors import ConfigError
from mamoe.machine import memory
from mamoe.machine.memory import GPU_PRESETS, smaller_preset
from mamoe.training.loop.explaining import OutOfMemoryError, explained


@functools.cache
def preset(size, *words):
    return validated(compose([f"trainer=gpu_{size}gb", "model=sd21", "data.root=data", "resume=null", *words]))


@pytest.mark.parametrize("size", GPU_PRESETS)
@pytest.mark.parametrize("words", [[], ["experiment=mamoe"]])
def test_a_preset_composes_and_says_what_it_is_for(size, words):
    config = preset(size, *words)
    trainer = config.trainer
    assert (trainer.gpu_gib, trainer.precision, trainer.accelerator) == (size, "bf16-mixed", "gpu")
    assert config.data.batch_size * trainer.accumulate_grad_batches in (8, 10)
    assert config.method.name == ("lora_experts" if size < 24 else "full")
    assert config.model.gradient_checkpointing == (size < 48) and (config.ema_decay is None) == (size < 48)
    # What the user says goes before.
    assert preset(size, *words, "data.batch_size=3").data.batch_size == 3


@pytest.mark.parametrize(
    ("has", "refused", "fits"), [(79.1, None, None), (23.6, 48, "gpu_24gb"), (7.8, 12, "no preset so small")]
)
def test_a_preset_for_a_larger_card_is_refused(monkeypatch, has, refused, fits):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for module in ("mamoe.assemble.device", "mamoe.machine.memory"):
        monkeypatch.setattr(f"{module}.gpu_gib", lambda: has)
    for size in GPU_PRESETS:
        if refused is None or size < refused:
            check_card(preset(size))
        else:
            with pytest.raises(ConfigError, match=rf"gpu_{size}gb is made for a GPU of {size} GB, this one has {has}"):
                check_card(preset(size))
    if refused is not None:
        with pytest.raises(ConfigError, match=fits):
            check_card(preset(refused))


def test_an_optimizer_that_is_too_large_for_the_preset_is_noted():
    assert card_notes(preset(24)) == card_notes(preset(48, "experiment=mamoe")) == card_notes(preset(12)) == []
    (line,) = card_notes(preset(24, "experiment=mamoe"))
    assert "optimizer=adamw_8bit" in line
    assert card_notes(preset(24, "experiment=mamoe", "optimizer=adamw_8bit")) == []


def test_a_preset_needs_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="there is none here"):
        check_card(preset(24))
    check_card(validated(compose(["data.root=data", "resume=null"])))


@pytest.mark.parametrize(
    ("has", "now", "named"), [(23.6, None, "trainer=gpu_24gb"), (79.1, 48, "trainer=gpu_24gb"), (11.8, 12, None)]
)
def test_out_of_memory_names_the_preset_that_would_fit(monkeypatch, tmp_path, has, now, named):
    monkeypatch.setattr(memory, "gpu_gib", lambda: has)
    assert smaller_preset(now) == named
    with pytest.raises(
        OutOfMemoryError, match=f"What fits this GPU is {named}" if named else r"GiB( were in use)?\. Set trainer"
    ):
        with explained(tmp_path, now):
            raise MemoryError("no room")
