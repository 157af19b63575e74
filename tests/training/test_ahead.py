"""Steps on a device that works ahead of the host: no waits, and what is not finite ends the run all the same."""

import functools
import json

import pytest
import torch
from lightning.pytorch import Callback
from test_failing_steps import Unlucky, seen_in_step
from training_fakes import CPU, fit, make_data, make_module, weights

from factories import short_run
from fakedevice import FakeDevice
from mamoe.errors import NonFiniteLossError
from mamoe.training.loop.metrics import read_rows
from mamoe.training.optim import make_adam
from mamoe.training.step.ahead import NoiseAhead
from mamoe.training.step.draws import picture_noise, posterior_noise
from mamoe.training.step.module import DiffusionModule
from wholeruns import SMALL, assert_equal, tensors, trained

LOOSE = {**CPU, "gradient_clip_val": 1e6}  # never binds; where it does, the optimizer's rounding is another


@pytest.fixture
def ahead(monkeypatch):
    """The CPU counts as a device that works ahead, and the thread that trains encodes, as for a GPU."""
    monkeypatch.setattr("mamoe.training.step.module.works_ahead", lambda device: True)
    monkeypatch.setattr("mamoe.training.step.latents._SMALL", 0)  # a fake device sees its own thread alone


class Waits(Callback):
    """Waits of every whole step between the ends of two steps."""

    def __init__(self, device):
        self.device, self.of_steps = device, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.of_steps.append(self.device.tick())


def train(run, module, **changes):
    settings = {"max_steps": 6, "checkpoint_every_n_steps": 100, "trainer": CPU, "log_every_n_steps": 100}
    return fit(module, changes.pop("data", None) or make_data(batch_size=5), run, **{**settings, **changes})


def waits_per_step(tmp_path, module):
    with FakeDevice() as device:
        device.put(module, module.vae, module.conditioner.args[0])
        counted = Waits(device)
        train(tmp_path, module, callbacks=[counted])
    return counted.of_steps[1:-1]  # the first makes the optimizer's state, the last one saves


def test_no_step_waits_for_the_device(tmp_path, ahead):
    assert waits_per_step(tmp_path, make_module()) == [[]] * 4


def test_no_step_walks_through_all_modules(tmp_path):
    # Collecting weights does: on a GPU the host is what a step waits for.
    module, walks = make_module(), []

    class Walks(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            walks.append(0)

    class Counted(DiffusionModule):
        def named_modules(self, *args, **named):
            if walks:
                walks[-1] += 1
            return super().named_modules(*args, **named)

    module.__class__ = Counted
    train(tmp_path, module, callbacks=[Walks()])
    assert walks[:-1] == [0] * 5  # the last one saves


def test_the_fake_device_sees_waits(tmp_path):
    # The plain path looks at every step before the weights change.
    assert all("just sent for" in " ".join(waits) for waits in waits_per_step(tmp_path, make_module()))
    with FakeDevice() as device:
        there = torch.zeros(3, device=torch.device("cpu"))
        float(there.sum())
        assert [wait.split()[0] for wait in device.waits] == ["__float__"]
        torch.ones(3) + there
        assert "host and device" in device.waits[-1]
        torch.ones(3).to(torch.device("cpu"))
        assert "blocking copy" in device.waits[-1] and len(device.waits) == 3
        torch.ones(3).to(torch.device("cpu"), non_blocking=True) + there
        assert len(device.waits) == 3


def states(run, step):
    return json.loads((run / f"checkpoints/step-{step:08d}/trainer/state.json").read_text())


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_working_ahead_gives_the_same_weights_and_average(tmp_path, monkeypatch, name):
    def learned(run):
        module = make_module(optimizer=functools.partial(make_adam, name=name, lr=1e-3))
        train(run, module, trainer=LOOSE, log_every_n_steps=2, checkpoint_every_n_steps=4)
        return run

    plain = learned(tmp_path / "plain")
    monkeypatch.setattr("mamoe.training.step.module.works_ahead", lambda device: True)
    later = learned(tmp_path / "later")
    for step in (4, 6):
        assert_equal(tensors(plain, step), tensors(later, step))
        assert states(plain, step) == states(later, step)
    assert read_rows(plain / "metrics.csv") == read_rows(later / "metrics.csv")


@pytest.mark.parametrize("accumulated", [1, 2])
def test_working_ahead_clips_in_the_optimizer(tmp_path, monkeypatch, accumulated):
    # Divided there, multiplied here: the same to rounding, in every group of weights, and the norm is that before.
    def learned(run):
        settings = {**CPU, "gradient_clip_val": 0.02, "accumulate_grad_batches": accumulated}
        train(run, make_module(lr_factors={"rest": 0.5}), trainer=settings, log_every_n_steps=2)
        return run

    plain = learned(tmp_path / "plain")
    monkeypatch.setattr("mamoe.training.step.module.works_ahead", lambda device: True)
    monkeypatch.setattr(torch.nn.utils, "clip_grads_with_norm_", lambda *_: pytest.fail("a pass over all gradients"))
    later = learned(tmp_path / "later")
    torch.testing.assert_close(tensors(plain, 6), tensors(later, 6), rtol=1e-4, atol=1e-6)
    assert states(plain, 6) == states(later, 6)
    for one, other in zip(read_rows(plain / "metrics.csv"), read_rows(later / "metrics.csv"), strict=True):
        numbers = {name: float(value) for name, value in one.items()}
        assert numbers["train/grad_norm"] > 0.02
        assert numbers == pytest.approx({name: float(value) for name, value in other.items()}, rel=1e-4)


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_step_that_is_not_finite_ends_the_run_as_on_a_cpu(tmp_path, monkeypatch, log_every):
    def failed(run):
        module = make_module(kind=Unlucky)
        module.unlucky = seen_in_step(3)[7]
        twice = {**LOOSE, "accumulate_grad_batches": 2}
        with pytest.raises(NonFiniteLossError) as caught:
            train(run, module, trainer=twice, log_every_n_steps=log_every)
        return str(caught.value).replace(str(run), "run"), weights(module.unet)

    said, kept = failed(tmp_path / "plain")
    monkeypatch.setattr("mamoe.training.step.module.works_ahead", lambda device: True)
    later, kept_later = failed(tmp_path / "later")
    assert said == later and "Step 3: loss nan" in said and "resume=run/nonfinite-step-00000003.json" in said
    assert_equal(kept, kept_later)
    assert_equal(tensors(tmp_path / "plain", 2), tensors(tmp_path / "later", 2))
    for name in ("nonfinite-step-00000003.json", "checkpoints/step-00000002/trainer/state.json"):
        assert (tmp_path / "plain" / name).read_text() == (tmp_path / "later" / name).read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "waits_for"),
    [
        (["cache.latents=true"], None),
        (["cache.latents=false"], None),
        (["layout.expert_resize=avg_pool"], "nonzero"),  # how many rows there are, only the device knows
    ],
)
def test_no_step_of_a_whole_run_waits(tmp_path, base_model, scenes, monkeypatch, ahead, words, waits_for):
    # Regions, experts in grouped products, prompts and pictures from the caches or through the autoencoder.
    monkeypatch.setattr("mamoe.models.experts.grouped.grouped_suits", lambda rows: True)
    device, of_steps = FakeDevice(), []
    fit_start, batch_start = DiffusionModule.on_fit_start, DiffusionModule.on_train_batch_start

    def on_fit_start(module):
        device.put(module, *module._frozen)
        fit_start(module)

    def on_train_batch_start(module, batch, batch_idx):
        of_steps.append(device.tick())
        batch_start(module, batch, batch_idx)

    monkeypatch.setattr(DiffusionModule, "on_fit_start", on_fit_start)
    monkeypatch.setattr(DiffusionModule, "on_train_batch_start", on_train_batch_start)
    with device:
        trained(*short_run(base_model, scenes, tmp_path), "trainer.max_steps=6", *SMALL, *words)
    if waits_for is None:
        assert of_steps[2:] == [[]] * 4
    else:
        assert all(wait.startswith(waits_for) for waits in of_steps[2:] for wait in waits) and all(of_steps[2:])


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}])
def test_noise_is_drawn_a_step_ahead(tmp_path, monkeypatch, ahead, options):
    here = []
    asked = NoiseAhead.of

    def of(noise, keys, shape):
        drawn = asked(noise, keys, shape)
        here.append(drawn is None)
        epoch, index = zip(*keys, strict=True)
        if drawn is not None:
            assert torch.equal(drawn[0], posterior_noise(5, epoch, index, shape))
            assert torch.equal(drawn[1], picture_noise(5, epoch, index, shape))
        return drawn

    monkeypatch.setattr(NoiseAhead, "of", of)
    train(tmp_path, make_module(), trainer={**CPU, **options}, max_steps=4)
    batches = 4 * options.get("accumulate_grad_batches", 1)
    assert here == [True, True] + [False, False] * (batches - 1)  # twice a batch, only the first one's are not there


def test_noise_of_other_pictures_or_another_size_is_not_taken_for_it():
    noise = NoiseAhead(0, iter([[(0, 1)], [(0, 2)], [(0, 3)]]))
    assert noise.of([(0, 1)], (4, 2, 2)) is None
    noise.begin()
    assert noise.of([(0, 3)], (4, 2, 2)) is None and noise.of([(0, 2)], (4, 2, 3)) is None
    drawn = noise.of([(0, 2)], (4, 2, 2))
    assert drawn is not None
    posterior, added = drawn
    assert posterior.shape == added.shape == (1, 4, 2, 2) and not torch.equal(posterior, added)
    noise.begin()
    noise.begin()  # there are no more
    assert noise.of([(0, 3)], (4, 2, 2)) is not None


def test_the_next_batch_has_another_size(tmp_path, monkeypatch):
    # Buckets: what was drawn ahead does not fit, and is drawn anew.
    def learned(run):
        module = make_module(optimizer=functools.partial(make_adam, lr=1e-3))
        of = {False: module.encode, True: lambda batch: torch.nn.functional.pad(of[False](batch), (0, 4))}
        seen = []

        def encode(batch):
            seen.append(0)
            return of[len(seen) % 3 == 0](batch)

        module.encode = encode
        train(run, module, trainer=LOOSE)
        return weights(module.unet)

    plain = learned(tmp_path / "plain")
    monkeypatch.setattr("mamoe.training.step.module.works_ahead", lambda device: True)
    assert_equal(plain, learned(tmp_path / "later"))
