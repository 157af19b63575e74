"""trainer.compile=graph: a step's passes answered from a recording. Here a recording is made of running them again."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from training_fakes import CPU, fit, make_data, make_module, tiny_unet, weights

from mamoe.machine.replay import ReplayedSteps
from mamoe.training.loop.fit import Endurance
from mamoe.training.step import module as step_module
from mamoe.training.step.module import DiffusionModule
from mamoe.training.step.recorded import recorded_if_it_works

made = []


def again(forward, backward):
    """What CUDA graphs do, by the host: the same work into the same places."""
    out, grads = forward().clone(), tuple(None if one is None else one.clone() for one in backward())
    made.append(tuple(out.shape))

    def there():
        out.copy_(forward())

    def back():
        for place, one in zip(grads, backward(), strict=True):
            if one is not None:
                place.copy_(one)

    return there, out, back, grads


@pytest.fixture(autouse=True)
def recording(monkeypatch):
    made.clear()
    monkeypatch.setattr(DiffusionModule, "_can_record", lambda self: True)
    monkeypatch.setattr(step_module, "recorded_if_it_works", partial(recorded_if_it_works, record=again))


def train(run, steps=3, trainer=CPU, **changes):
    module = make_module(**changes)
    fit(module, make_data(), run, max_steps=steps, checkpoint_every_n_steps=50, trainer=trainer)
    return module


def assert_learned_alike(one, other):
    for name, value in weights(one.unet).items():
        torch.testing.assert_close(value, other.unet.state_dict()[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_recorded_network_learns_the_same(tmp_path, accumulated, caplog):
    trainer = {**CPU, "accumulate_grad_batches": accumulated}
    plain = train(tmp_path / "plain", trainer=trainer)
    recorded = train(tmp_path / "recorded", trainer=trainer, compile="graph")
    assert made, "nothing was recorded"
    assert recorded.unet._compiled_call_impl is None  # a recording is of one training
    assert not [record for record in caplog.records if "trainer.compile" in record.message]
    assert_learned_alike(recorded, plain)


def test_what_is_recorded_is_in_the_format_of_the_training(tmp_path):
    module, formats = make_module(compile="graph"), []

    def note(*_):
        formats.append((torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()))

    module.unet.conv_in.register_forward_pre_hook(note)
    trainer = {**CPU, "precision": "bf16-mixed"}
    fit(module, make_data(), tmp_path, max_steps=2, checkpoint_every_n_steps=50, trainer=trainer)
    assert made and set(formats) == {(True, False)}  # a weight that stays cast would be recorded as it was


def test_what_cannot_be_recorded_is_trained_all_the_same(tmp_path, caplog, monkeypatch):
    def refuse(forward, backward):
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setattr(step_module, "recorded_if_it_works", partial(recorded_if_it_works, record=refuse))
    plain, recorded = train(tmp_path / "plain"), train(tmp_path / "recorded", compile="graph")
    said = [record.message for record in caplog.records if "trainer.compile" in record.message]
    assert said == ["trainer.compile=graph: steps are not recorded: operation not permitted when stream is capturing"]
    for name, value in weights(recorded.unet).items():
        assert torch.equal(value, plain.unet.state_dict()[name]), name


def test_gradient_checkpointing_is_not_recorded(tmp_path, caplog):
    train(tmp_path, steps=1, compile="graph", gradient_checkpointing=True)
    assert not made
    assert [record for record in caplog.records if "gradient checkpointing" in record.message]


def test_a_layer_that_checkpoints_gradients_is_enough_to_record_nothing():
    layer = Layer()
    layer.inner = torch.nn.Module()
    layer.inner.gradient_checkpointing = True  # type: ignore[assignment]
    said = recorded_if_it_works(layer, lambda: None, added_up=False, record=again)
    assert said is not None and "gradient checkpointing" in said and layer._compiled_call_impl is None


def test_a_network_is_recorded_anew_in_its_next_training(tmp_path):
    """Whose weights that learn may be others."""
    learned = {}
    for how in ("off", "graph"):
        unet = tiny_unet()
        unet.requires_grad_(False).up_blocks.requires_grad_(True)
        train(tmp_path / how / "one", unet=unet, compile=how)
        unet.requires_grad_(True)
        learned[how] = train(tmp_path / how / "other", unet=unet, compile=how)
    assert len(made) == 2
    assert_learned_alike(learned["graph"], learned["off"])


def test_a_recording_that_lacks_memory_is_made_of_smaller_pieces(tmp_path, monkeypatch, caplog):
    def cramped(forward, backward):
        parts = again(forward, backward)
        if parts[1].shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory: injected")
        return parts

    monkeypatch.setattr(step_module, "recorded_if_it_works", partial(recorded_if_it_works, record=cramped))
    plain, recorded = train(tmp_path / "plain"), make_module(compile="graph")
    data, endurance = make_data(), Endurance(auto_microbatch=True)
    fit(recorded, data, tmp_path, max_steps=3, checkpoint_every_n_steps=50, trainer=CPU, endurance=endurance)
    assert data.pieces == 2 and [shape[0] for shape in made] == [4, 2]
    assert not [record for record in caplog.records if "trainer.compile" in record.message]
    assert_learned_alike(recorded, plain)


def test_steps_are_recorded_on_a_gpu_by_one_process(monkeypatch):
    monkeypatch.undo()

    def records(kind, processes):
        trainer = SimpleNamespace(world_size=processes)
        return DiffusionModule._can_record(SimpleNamespace(device=torch.device(kind), trainer=trainer))

    assert records("cuda", 1) and not records("cpu", 1) and not records("cuda", 2)
    with torch.autograd.set_detect_anomaly(True):
        assert not records("cuda", 1)


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.idle = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.weight


def steps_of(layer, added_up):
    return ReplayedSteps(layer.forward, list(layer.parameters()), added_up=added_up, record=again)


def test_a_recording_draws_none_of_a_training_s_numbers():
    def once(forward, backward):
        return backward, forward(), backward, ()

    steps = ReplayedSteps(lambda x: x * torch.rand(3), [], record=once)
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    steps.record(torch.ones(2, 3))
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("added_up", [False, True])
def test_gradients_are_those_of_what_was_given_last(added_up):
    layer = Layer()
    steps = steps_of(layer, added_up)
    steps.record(torch.zeros(2, 3))
    assert steps.suits(torch.ones(2, 3)) and not steps.suits(torch.ones(1, 3))
    for value in (2.0, 5.0):
        if not added_up:
            layer.weight.grad = None
        out = steps(torch.full((2, 3), value))
        assert torch.equal(out, torch.full((2, 3), value))
        out.sum().backward()
    assert torch.equal(layer.weight.grad, torch.full((3,), 14.0 if added_up else 10.0))
    assert layer.idle.grad is None


def test_gradients_of_a_pass_that_is_gone_are_refused():
    layer = Layer()
    steps = steps_of(layer, False)
    steps.record(torch.zeros(2, 3))
    first = steps(torch.ones(2, 3))
    second = steps(torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="after another pass forward"):
        first.sum().backward()
    second.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="asked for twice"):
        second.sum().backward()
