"""Every optimizer: it learns, continues bit by bit, and treats each part of the network as told."""

import functools
import sys

import pytest
import torch
from torch import nn
from training_fakes import CPU, Pictures, collate, fit, make_data, make_module, tiny_unet

from mamoe.config.targets import instantiate
from mamoe.errors import ConfigError
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.randomness import generator_for
from mamoe.runs.weights import load_trainer, save_trainer, trainer_state
from mamoe.training.loop.metrics import read_rows
from mamoe.training.optim import (
    Part,
    apply_lr_factors,
    check_installed,
    constant_with_warmup,
    linear_with_warmup,
    make_adam,
    make_adam8bit,
    make_muon,
    make_schedule_free,
    parameter_groups,
)
from mamoe.training.optim.clipping import divisor, global_norm
from mamoe.training.optim.ema import ScheduleFreeAverage, is_schedule_free
from mamoe.training.optim.groups import part_of
from mamoe.training.watch.validation import FixedLoss

MAKERS = {
    "adam": functools.partial(make_adam, name="adam"),
    "adamw": make_adam,
    "muon": make_muon,
    "adamw_8bit": make_adam8bit,
    "schedule_free": make_schedule_free,
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9),
}
PACKAGES = {"adamw_8bit": "bitsandbytes", "schedule_free": "schedulefree"}


@pytest.fixture(params=MAKERS)
def maker(request):
    if request.param in PACKAGES:
        pytest.importorskip(PACKAGES[request.param])
    return MAKERS[request.param]


def start() -> list[nn.Parameter]:
    """A vector, two matrices (one large enough for 8 bits) and a convolution."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(size, generator=generator) for size in [(5,), (6, 9), (80, 64), (4, 3, 2, 2)]]
    values[3] = values[3].to(memory_format=torch.channels_last)
    return [nn.Parameter(value) for value in values]


def train(parameters, optimizer, schedule, steps) -> None:
    for step in steps:
        for p in parameters:
            p.grad = torch.cos(p.detach() * (step + 1))
        optimizer.step()
        schedule.step()


def test_it_continues_bit_by_bit(tmp_path, maker):
    parameters = start()
    optimizer = maker(parameters, lr=0.01)
    schedule = linear_with_warmup(optimizer, total_steps=9, warmup_steps=2)
    train(parameters, optimizer, schedule, range(3))
    save_trainer(tmp_path, trainer_state(optimizer, schedule, {}))

    others = [nn.Parameter(p.detach().clone()) for p in parameters]
    other = maker(others, lr=0.01)
    other_schedule = linear_with_warmup(other, total_steps=9, warmup_steps=2)
    load_trainer(tmp_path, other, other_schedule)
    train(parameters, optimizer, schedule, range(3, 6))
    train(others, other, other_schedule, range(3, 6))
    for a, b, first in zip(parameters, others, start(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, first)
    assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in other.param_groups]


def test_it_finds_the_bottom_of_a_bowl(maker):
    parameters = start()
    optimizer = maker(parameters, lr=0.01)
    for _ in range(30):
        for p in parameters:
            p.grad = p.detach().clone()
        optimizer.step()
    assert all(p.norm() < 0.97 * q.norm() for p, q in zip(parameters, start(), strict=True))


def test_rates_follow_the_parts(maker):
    # A weight's first step is proportional to its rate, whatever the optimizer makes of the gradient.
    steps = []
    for factor in (1.0, 0.25):
        weights = start()
        groups = [{"params": weights[:2], "lr_factor": factor}, {"params": weights[2:], "lr_factor": 1.0}]
        optimizer = apply_lr_factors(maker(groups, lr=1e-3, weight_decay=0.0))
        for p in weights:
            p.grad = torch.cos(p.detach())
        optimizer.step()
        steps.append([p.detach() - q.detach() for p, q in zip(weights, start(), strict=True)])
    for i, factor in enumerate([0.25, 0.25, 1.0, 1.0]):
        torch.testing.assert_close(steps[1][i], factor * steps[0][i], rtol=1e-2, atol=1e-6)


def test_muon_is_muon_for_matrices_and_adamw_for_the_rest():
    parameters, alone = start(), start()
    both = make_muon([{"params": parameters[:3]}, {"params": parameters[3:]}], lr=0.01, weight_decay=0.1)
    muon = torch.optim.Muon(alone[1:3], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adam = make_adam([alone[0], alone[3]], lr=0.01, weight_decay=0.1)
    for step in range(3):
        for p in [*parameters, *alone]:
            p.grad = torch.cos(p.detach() * (step + 1))
        both.step(), muon.step(), adam.step()
    assert all(torch.equal(p, q) for p, q in zip(parameters, alone, strict=True))


def test_muon_leaves_tables_to_adamw():
    table = nn.Embedding(5, 4)
    groups = parameter_groups(nn.Sequential(table, nn.Linear(4, 4)), {})
    optimizer = make_muon(groups, lr=0.01)
    assert [len(g["params"]) for g in optimizer.param_groups if g["muon"]] == [1]
    assert any(p is table.weight for g in optimizer.param_groups if not g["muon"] for p in g["params"])


def test_parts_of_a_unet():
    unet = MaMoEUNet2DConditionModel.from_unet(tiny_unet(), num_experts=3)
    names = {part: [n for n, _ in unet.named_parameters() if part_of(n) is part] for part in Part}
    assert any(".ff.experts." in n for n in names[Part.EXPERTS]) and any(".ff.net." in n for n in names[Part.EXPERTS])
    assert any(".attn1.to_q" in n for n in names[Part.ATTENTION]) and any(
        ".attn2.to_out" in n for n in names[Part.ATTENTION]
    )
    assert not any(".ff." in n or "to_q" in n for n in names[Part.REST]) and "conv_in.weight" in names[Part.REST]
    unet.conv_in.weight.requires_grad_(False)
    groups = parameter_groups(unet, {"experts": 2.0, "attention": 0.5})
    assert {g["lr_factor"]: len(g["params"]) for g in groups} == {
        2.0: len(names[Part.EXPERTS]),
        0.5: len(names[Part.ATTENTION]),
        1.0: len(names[Part.REST]) - 1,
    }
    assert len(parameter_groups(unet, {"experts": 1.0})) == 1


def test_schedules_rise_and_then_keep_their_shape():
    for make, wanted in (
        (linear_with_warmup, [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25, 0, 0]),
        (constant_with_warmup, [1 / 3, 2 / 3, *[1] * 6]),
    ):
        optimizer = make_adam([nn.Parameter(torch.zeros(1))], lr=2.0)
        schedule = make(optimizer, total_steps=6, warmup_steps=2)
        rates = []
        for _ in wanted:
            rates.append(optimizer.param_groups[0]["lr"] / 2.0)
            optimizer.step()
            schedule.step()
        assert rates == pytest.approx(wanted)


# Schedule-free.


def test_the_average_is_the_one_the_package_swaps_in():
    pytest.importorskip("schedulefree")
    layer = nn.Linear(4, 3)
    optimizer = make_schedule_free(layer.parameters(), lr=0.05)
    assert is_schedule_free(optimizer) and not is_schedule_free(make_adam(layer.parameters()))
    average = ScheduleFreeAverage({"unet": layer}, optimizer)
    assert torch.equal(average.state_dict("unet")["weight"], layer.weight)
    for step in range(5):
        for p in layer.parameters():
            p.grad = torch.cos(p.detach() * (step + 1))
        optimizer.step()
    own, ours = layer.weight.detach().clone(), average.state_dict("unet")["weight"]
    with average.in_place():
        assert torch.equal(layer.weight, ours)
    assert torch.equal(layer.weight, own)
    optimizer.eval()
    torch.testing.assert_close(layer.weight.detach(), ours)
    assert not torch.allclose(ours, own, atol=1e-4)


def run(folder, steps, resume=None, **changes):
    loss = FixedLoss(
        name="val/loss", data=Pictures(4), collate=collate, count=4, batch_size=4, every_n_steps=1, use_ema=True
    )
    module = make_module(ema_decay=None, lr_scheduler=functools.partial(constant_with_warmup, total_steps=4), **changes)
    fit(
        module,
        make_data(),
        folder,
        max_steps=steps,
        checkpoint_every_n_steps=2,
        log_every_n_steps=1,
        trainer=CPU,
        callbacks=[loss],
        resume=resume,
    )
    return module


def test_schedule_free_runs_resume_and_save_their_average(tmp_path):
    pytest.importorskip("schedulefree")
    maker = functools.partial(make_schedule_free, lr=1e-2)
    whole = run(tmp_path / "whole", 4, optimizer=maker)
    run(tmp_path / "parts", 2, optimizer=maker)
    parts = run(tmp_path / "parts", 4, resume=tmp_path / "parts", optimizer=maker)
    for name, value in whole.unet.state_dict().items():
        assert torch.equal(value, parts.unet.state_dict()[name])
    assert read_rows(tmp_path / "whole/metrics.csv") == read_rows(tmp_path / "parts/metrics.csv")
    saved = type(whole.unet).from_pretrained(tmp_path / "whole/checkpoints/latest/unet_ema", use_safetensors=True)
    assert whole.ema is not None
    for name, value in whole.ema.state_dict("unet").items():
        assert torch.equal(value, saved.state_dict()[name])
    assert not torch.equal(saved.conv_out.weight, whole.unet.conv_out.weight)


def test_parts_learn_at_their_own_rates_in_a_run(tmp_path):
    module = run(tmp_path, 2, optimizer=functools.partial(make_adam, lr=1e-3), lr_factors={"rest": 1e-9})
    first = tiny_unet().state_dict()
    moved = {n: float((v - first[n]).abs().max()) for n, v in module.unet.state_dict().items()}
    assert all(
        (change > 1e-4) == (part_of(name) is not Part.REST)
        for name, change in moved.items()
        if "attn1.to_v" in name or "conv" in name
    )
    rates = [float(row["train/lr"]) for row in read_rows(tmp_path / "metrics.csv") if row["train/lr"]]
    assert rates == pytest.approx([1e-3, 1e-3])


# Packages that are not there.


@pytest.mark.parametrize(
    ("name", "package"), [("make_adam8bit", "bitsandbytes"), ("make_schedule_free", "schedulefree")]
)
def test_a_package_that_is_not_installed_is_named(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    target = f"mamoe.training.optim.{name}"
    wanted = rf"^optimizer=\w+ needs the package {package} .*pip install 'mamoe\[optimizers\]'"
    with pytest.raises(ConfigError, match=wanted):
        instantiate({"_target_": target, "lr": 1.0}, "optimizer", start())
    with pytest.raises(ConfigError, match=wanted):
        check_installed(target)
    check_installed("torch.optim.SGD")


def test_the_global_norm_is_torchs():
    gradients = [torch.randn(shape, generator=generator_for(0, "norm")) for shape in [(3,), (4, 5), (2, 3, 4), ()]]
    assert torch.equal(global_norm(gradients), torch.nn.utils.get_total_norm(gradients))
    assert global_norm([]) == 0
    weights = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for most in (0.01, 1.0, 100.0):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        norm = global_norm(gradients)
        torch.nn.utils.clip_grads_with_norm_(weights, most, norm)
        for weight, gradient in zip(weights, gradients, strict=True):
            torch.testing.assert_close(weight.grad, gradient / divisor(norm, most), rtol=1e-6, atol=0)
    assert divisor(torch.tensor(0.5), 0.6) == 1 and divisor(torch.tensor(torch.nan), 0.6).isnan()
