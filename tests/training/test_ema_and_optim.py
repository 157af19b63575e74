import pytest
import torch
from torch import nn
from training_fakes import weights

from mamoe.training.optim import cosine_with_warmup, make_adam
from mamoe.training.optim.ema import WeightAverage


def test_average_follows_its_closed_form():
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.0)
        average = WeightAverage({"unet": layer}, decay=0.5)
        expected = 0.0
        for n, value in enumerate([1.0, -2.0, 4.0, 3.0, 0.5, 7.0, 1.0, 1.0, 2.0]):
            layer.weight.fill_(value)
            average.update()
            decay = min(0.5, (1 + n) / (10 + n))
            expected = decay * expected + (1 - decay) * value
    assert average.state_dict("unet")["weight"].item() == pytest.approx(expected, rel=1e-6)
    assert (1 + 8) / (10 + 8) == 0.5  # the series above leaves the warm-up at its end


def test_swap_gives_the_average_and_then_the_own_weights_back():
    layer = nn.Linear(3, 2)
    average = WeightAverage({"unet": layer}, decay=0.9)
    start = weights(layer)
    with torch.no_grad():
        layer.weight.add_(1.0)
    own = weights(layer)
    with pytest.raises(KeyError), average.in_place():
        assert torch.equal(layer.weight, start["weight"])
        raise KeyError
    assert torch.equal(layer.weight, own["weight"])


def test_frozen_weights_are_not_averaged_but_stay_in_the_state():
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    average = WeightAverage({"unet": layer}, decay=0.9)
    with torch.no_grad():
        layer.bias.fill_(5.0)
        layer.weight.fill_(5.0)
    state = average.state_dict("unet")
    assert state["bias"].tolist() == [5.0, 5.0]
    assert (state["weight"] != 5.0).all()


def test_averages_restore_by_name():
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    source, target = WeightAverage({"unet": a}, decay=0.9), WeightAverage({"unet": b}, decay=0.9)
    target.load_state_dict("unet", source.state_dict("unet"))
    assert torch.equal(target.state_dict("unet")["weight"], a.weight)


def test_average_is_float32_beside_bfloat16_weights():
    layer = nn.Linear(1, 1, bias=False).bfloat16()
    with torch.no_grad():
        layer.weight.fill_(1.0)
        average = WeightAverage({"unet": layer}, decay=0.999)
        average.updates = 100_000  # past the warm-up
        layer.weight.fill_(2.0)
        for _ in range(3):
            average.update()  # each adds a thousandth, which bfloat16 would round away
        with average.in_place():
            assert layer.weight.dtype == torch.bfloat16
    value = average.state_dict("unet")["weight"]
    assert value.dtype == torch.float32 and value.item() == pytest.approx(2 - 0.999**3, rel=1e-6)


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0])
def test_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        WeightAverage({}, decay)


def test_cosine_rises_and_falls_to_zero():
    optimizer = make_adam([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = cosine_with_warmup(optimizer, total_steps=10, warmup_steps=2)
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert rates[6] == pytest.approx(1.0)
    assert rates[10] == 0.0
    with pytest.raises(ValueError, match="got -1 and 5"):
        cosine_with_warmup(optimizer, total_steps=5, warmup_steps=-1)


@pytest.mark.parametrize("warmup_steps", [3, 4])
def test_a_run_no_longer_than_its_warmup_only_rises(warmup_steps):
    optimizer = make_adam([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = cosine_with_warmup(optimizer, total_steps=3, warmup_steps=warmup_steps)
    rates = []
    for _ in range(3):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([(step + 1) / (warmup_steps + 1) for step in range(3)])


def test_optimizer_names():
    parameter = nn.Parameter(torch.zeros(1))
    assert type(make_adam([parameter], name="adam")) is torch.optim.Adam
    with pytest.raises(ValueError, match="adam, adamw; got 'sgd'"):
        make_adam([parameter], name="sgd")  # type: ignore[arg-type]
