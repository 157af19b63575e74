import json
import os

import pytest
import torch
from training_fakes import tiny_unet

from mamoe.errors import CheckpointError
from mamoe.runs.checkpoint import checkpoint_dir, checkpoints_of, link, prune, sound_checkpoint, write_checkpoint
from mamoe.runs.manifest import problems_of
from mamoe.runs.weights import load_trainer, read_network, save_network, save_trainer, trainer_state
from mamoe.training.optim import cosine_with_warmup, make_adam


def write(run, step, text="weights"):
    def fill(folder):
        (folder / "unet").mkdir()
        (folder / "unet" / "w.bin").write_text(f"{text} {step}")
        (folder / "recipe.json").write_text("{}")

    return write_checkpoint(run, step, fill)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_finished_checkpoint_is_sound_and_latest(tmp_path):
    first, second = write(tmp_path, 5), write(tmp_path, 10)
    assert checkpoints_of(tmp_path) == [first, second] == [checkpoint_dir(tmp_path, s) for s in (5, 10)]
    assert problems_of(second) == []
    assert os.readlink(tmp_path / "checkpoints" / "latest") == "step-00000010"
    assert sound_checkpoint(tmp_path) == sound_checkpoint(tmp_path / "checkpoints" / "latest") == second.resolve()
    assert set(json.loads((second / "MANIFEST.json").read_text())["files"]) == {"unet/w.bin", "recipe.json"}


@pytest.mark.parametrize("damage", [flip_a_bit, os.remove, lambda path: path.write_text("short")])
def test_damage_is_named_and_the_checkpoint_before_is_taken(tmp_path, damage, caplog):
    first, second = write(tmp_path, 5), write(tmp_path, 10)
    damage(second / "unet" / "w.bin")
    (problem,) = problems_of(second)
    assert str(second / "unet" / "w.bin") in problem
    assert sound_checkpoint(tmp_path) == first.resolve()
    assert "step-00000010 is damaged" in caplog.text
    with pytest.raises(CheckpointError, match="step-00000010 is damaged"):
        sound_checkpoint(second)
    damage(first / "unet" / "w.bin")
    with pytest.raises(CheckpointError, match="no sound checkpoint"):
        sound_checkpoint(tmp_path)


@pytest.mark.parametrize("manifest", [None, "{", "[]", '{"format": 1}', '{"format": 99, "files": {}}'])
def test_a_manifest_that_says_nothing_is_damage(tmp_path, manifest):
    path = write(tmp_path, 5) / "MANIFEST.json"
    path.unlink() if manifest is None else path.write_text(manifest)
    assert len(problems_of(path.parent)) == 1


def test_a_named_checkpoint_that_is_missing_is_an_error(tmp_path):
    write(tmp_path, 5)
    with pytest.raises(CheckpointError, match=r"no checkpoint .*step-00000007.* holds: step-00000005"):
        sound_checkpoint(tmp_path / "checkpoints" / "step-00000007")
    with pytest.raises(CheckpointError, match="no sound checkpoint"):
        sound_checkpoint(tmp_path / "elsewhere")


def test_a_failed_write_leaves_nothing_and_hurts_nothing(tmp_path):
    first = write(tmp_path, 5)

    def fails(folder):
        (folder / "half").write_text("x")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_checkpoint(tmp_path, 10, fails)
    assert sound_checkpoint(tmp_path) == first.resolve()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["latest", "step-00000005"]


def test_a_step_can_be_written_again(tmp_path):
    write(tmp_path, 5, "old")
    again = write(tmp_path, 5, "new")
    assert (again / "unet" / "w.bin").read_text() == "new 5"
    assert problems_of(again) == []


def test_pruning_keeps_the_newest_and_the_linked(tmp_path):
    for step in (1, 2, 3, 4, 5):
        path = write(tmp_path, step)
        if step == 2:
            link(path, "best")
    (tmp_path / "checkpoints" / ".step-00000009.partial").mkdir()
    prune(tmp_path, keep_last=2)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["best", "latest", "step-00000002", "step-00000004", "step-00000005"]


def test_latest_tells_an_abandoned_branch_apart(tmp_path):
    for step in (5, 20, 10):  # resumed from 5 on purpose, after 20 had been reached
        newest = write(tmp_path, step)
    assert sound_checkpoint(tmp_path) == newest.resolve()


@pytest.mark.parametrize("channels_last", [False, True])
def test_networks_come_back_bit_by_bit_through_our_reader_and_diffusers(tmp_path, channels_last):
    unet = tiny_unet()
    if channels_last:
        unet.to(memory_format=torch.channels_last)
    save_network(unet, unet.state_dict(), tmp_path / "unet")
    again = type(unet).from_pretrained(tmp_path / "unet", use_safetensors=True)
    ours = read_network(unet, tmp_path / "unet")
    for name, value in unet.state_dict().items():
        assert torch.equal(ours[name], value)
        assert torch.equal(again.state_dict()[name], value)


def test_a_text_encoder_comes_back_bit_by_bit(tmp_path):
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = CLIPTextModel(
        CLIPTextConfig(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    average = {name: value + 1 for name, value in encoder.state_dict().items()}
    save_network(encoder, average, tmp_path / "text_encoder_ema")
    state = read_network(encoder, tmp_path / "text_encoder_ema")
    for name, value in average.items():
        assert torch.equal(state[name], value)


def test_weights_of_another_architecture_are_refused(tmp_path):
    layer, wider = tiny_unet(), tiny_unet()
    wider.conv_in = torch.nn.Conv2d(5, 8, 3)
    save_network(layer, layer.state_dict(), tmp_path)
    with pytest.raises(CheckpointError, match=r"1 differ, first 'conv_in.weight' \(model \(8, 5, 3, 3\)"):
        read_network(wider, tmp_path)


def optimizer_of(values, name="adamw", steps=3):
    parameters = [torch.nn.Parameter(v.clone()) for v in values]
    optimizer = make_adam(parameters, name=name, lr=0.1)
    schedule = cosine_with_warmup(optimizer, total_steps=9)
    for step in range(steps):
        train(parameters, optimizer, schedule, step)
    return parameters, optimizer, schedule


def train(parameters, optimizer, schedule, step):
    for p in parameters:
        p.grad = torch.cos(p.detach() * (step + 1))
    optimizer.step()
    schedule.step()


def test_optimizer_and_schedule_continue_bit_by_bit(tmp_path):
    values = [torch.randn(3), torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)]
    parameters, optimizer, schedule = optimizer_of(values)
    save_trainer(tmp_path, trainer_state(optimizer, schedule, {"step": 3}))
    others, other, other_schedule = optimizer_of([p.detach() for p in parameters], steps=0)
    load_trainer(tmp_path, other, other_schedule)
    assert other.state[others[1]]["exp_avg"].is_contiguous(memory_format=torch.channels_last)
    for step in range(3, 6):
        train(parameters, optimizer, schedule, step)
        train(others, other, other_schedule, step)
        assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    for a, b in zip(parameters, others, strict=True):
        assert torch.equal(a, b)


def test_state_of_another_optimizer_is_refused(tmp_path):
    _, optimizer, schedule = optimizer_of([torch.zeros(3)])
    save_trainer(tmp_path, trainer_state(optimizer, schedule, {}))
    _, other, other_schedule = optimizer_of([torch.zeros(3)], name="adam")
    with pytest.raises(CheckpointError, match=r"AdamW over \[1\] weights, this configuration has Adam over \[1\]"):
        load_trainer(tmp_path, other, other_schedule)
    with pytest.raises(CheckpointError, match="with an LR schedule"):
        load_trainer(tmp_path, optimizer, None)
