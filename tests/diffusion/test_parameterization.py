import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from mamoe.diffusion.levels import NoiseLevels
from mamoe.diffusion.parameterization import (
    Prediction,
    alpha_sigma,
    noised,
    snr,
    target_of,
    to_eps,
    to_x0,
    velocity,
)
from mamoe.diffusion.sampler import sampler_for, set_steps, stock_sampler
from mamoe.diffusion.schedules import is_flow, make_flow, make_scheduler, prediction_of, schedule_from, shift_of
from mamoe.errors import ConfigError

DIFFUSIONS = [one for one in Prediction if one is not Prediction.FLOW]


@pytest.fixture
def picture():
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 6, 4, 5, 3, dtype=torch.float64, generator=generator)
    kept = torch.tensor([0.999, 0.9, 0.5, 0.1, 0.01, 0.001], dtype=torch.float64)
    alpha, sigma = alpha_sigma(kept, torch.arange(6))
    return x0, eps, alpha, sigma


@pytest.mark.parametrize("prediction", list(Prediction))
def test_every_prediction_gives_back_the_picture_and_the_noise(picture, prediction):
    x0, eps, alpha, sigma = picture
    if prediction is Prediction.FLOW:
        alpha = 1 - sigma
    x_t = noised(x0, eps, alpha, sigma)
    output = target_of(prediction, x0, eps, alpha, sigma)
    torch.testing.assert_close(to_x0(prediction, output, x_t, alpha, sigma), x0, rtol=0, atol=1e-11)
    torch.testing.assert_close(to_eps(prediction, output, x_t, alpha, sigma), eps, rtol=0, atol=1e-11)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_levels_of_a_flow_are_those_of_diffusers(shift):
    scheduler = make_flow(shift=shift)
    levels = NoiseLevels.of(scheduler)
    assert levels.prediction is Prediction.FLOW and len(levels) == 1000
    torch.testing.assert_close(levels.told, scheduler.timesteps.flip(0))
    torch.testing.assert_close(levels.alpha + levels.sigma, torch.ones(1000))
    x0, eps = torch.randn(2, 3, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 400, 999])
    oracle = scheduler.scale_noise(x0, scheduler.timesteps.flip(0)[t], eps)
    torch.testing.assert_close(noised(x0, eps, *levels.at(t)), oracle)
    assert levels.sigma[999] == 1 and levels.told_at(t)[2] == 1000


def test_euler_steps_along_a_true_flow_end_at_the_picture():
    x0, eps = torch.randn(2, 2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    for steps in (1, 7):
        scheduler = sampler_for(make_flow(shift=3.0).config)
        scheduler.set_timesteps(steps)
        x = eps
        for t in scheduler.timesteps:
            x = scheduler.step(eps - x0, t, x).prev_sample
        torch.testing.assert_close(x, x0)


def test_a_flow_is_known_from_any_config_that_speaks_of_it():
    flow = make_flow(shift=2.5)
    stock = stock_sampler(flow.config)
    for config in (flow.config, stock.config):
        assert is_flow(config) and prediction_of(config) is Prediction.FLOW
        assert schedule_from(config).config["shift"] == 2.5
    assert not is_flow(make_scheduler("v", zero_snr=True).config)
    with pytest.raises(ConfigError, match=r"time_shift_type linear.*use_dynamic_shifting false"):
        schedule_from({**flow.config, "use_dynamic_shifting": True, "time_shift_type": "linear"})


def test_a_shift_that_grows_with_the_picture_is_that_of_the_stock_pipeline():
    growing = schedule_from(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0).config)
    for patches in (256, 1024, 4096, 9216):
        mu = calculate_shift(patches)
        assert shift_of(growing.config, patches) == pytest.approx(math.exp(mu))
        levels = NoiseLevels.of(growing, patches)
        growing.set_timesteps(sigmas=torch.linspace(1, 1 / 1000, 1000).tolist(), mu=mu)  # every level, noisiest first
        torch.testing.assert_close(levels.sigma.flip(0), growing.sigmas[:-1], rtol=1e-5, atol=1e-6)
        set_steps(growing, 8, patches=patches, even=True)
        stock = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        stock.set_timesteps(sigmas=np.linspace(1.0, 1 / 8, 8), mu=mu)
        torch.testing.assert_close(growing.timesteps, stock.timesteps)
    assert shift_of(make_flow(shift=3.0).config, 4096) == 3.0


@pytest.mark.parametrize("zero_snr", [False, True])
def test_levels_of_a_diffusion_are_those_of_its_betas(zero_snr):
    scheduler = make_scheduler("v", zero_snr=zero_snr)
    levels, t = NoiseLevels.of(scheduler), torch.arange(1000)
    for got, wanted in zip(levels.at(t), alpha_sigma(scheduler.alphas_cumprod, t), strict=True):
        assert torch.equal(got, wanted)
    assert torch.equal(levels.told_at(t), t)


def test_velocity_keeps_the_length_and_agrees_with_diffusers(picture):
    x0, eps, alpha, sigma = picture
    x_t, v = noised(x0, eps, alpha, sigma), velocity(x0, eps, alpha, sigma)
    torch.testing.assert_close(x_t**2 + v**2, x0**2 + eps**2)

    scheduler = make_scheduler("v", zero_snr=False)
    t = torch.tensor([0, 100, 400, 700, 998, 999])
    alpha, sigma = alpha_sigma(scheduler.alphas_cumprod.double(), t)
    oracle = scheduler.get_velocity(x0, eps, t)
    torch.testing.assert_close(velocity(x0, eps, alpha, sigma), oracle, rtol=0, atol=1e-6)
    torch.testing.assert_close(noised(x0, eps, alpha, sigma), scheduler.add_noise(x0, eps, t), rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction", DIFFUSIONS)
def test_conversions_agree_with_a_diffusers_step(picture, prediction):
    # The last DDPM step returns the picture the output stands for, so diffusers is the oracle of to_x0.
    x_t, output, _, _ = picture
    scheduler = make_scheduler(prediction, zero_snr=False)
    alpha, sigma = alpha_sigma(scheduler.alphas_cumprod, torch.tensor([300]))
    step = scheduler.step(output, 300, x_t, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_x0(prediction, output, x_t, alpha, sigma), step.pred_original_sample)


def test_names_are_known_both_ways():
    assert [Prediction.parse(m.diffusers_name) for m in Prediction] == list(Prediction)
    with pytest.raises(
        ValueError, match=r"epsilon \(epsilon\), v \(v_prediction\), x0 \(sample\), flow \(flow_prediction\)"
    ):
        Prediction.parse("velocity")


def test_zero_snr_ends_in_pure_noise_and_refuses_epsilon():
    last = torch.tensor([999])
    zero = make_scheduler("v", zero_snr=True)
    plain = make_scheduler("v", zero_snr=False)
    assert snr(zero.alphas_cumprod, last).item() < 1e-6 < snr(plain.alphas_cumprod, last).item()
    torch.testing.assert_close(zero.alphas_cumprod[0], plain.alphas_cumprod[0])
    zero.set_timesteps(50)
    assert zero.timesteps[0] == 999 and len(zero.timesteps) == 50
    with pytest.raises(ValueError, match="zero_snr to false"):
        make_scheduler("epsilon", zero_snr=True)


def test_schedule_is_stable_diffusions():
    # Closed form: betas are squares of numbers evenly spaced between the square roots of the ends.
    scheduler = make_scheduler("epsilon", zero_snr=False)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), (1 - betas).cumprod(0), rtol=1e-5, atol=1e-7)
