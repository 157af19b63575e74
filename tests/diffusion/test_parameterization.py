import pytest
import torch

from mamoe.diffusion.parameterization import (
    Prediction,
    alpha_sigma,
    noised,
    snr,
    target_of,
    to_x0,
    velocity,
)
from mamoe.diffusion.schedules import make_scheduler


@pytest.fixture
def picture():
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 6, 4, 5, 3, dtype=torch.float64, generator=generator)
    kept = torch.tensor([0.999, 0.9, 0.5, 0.1, 0.01, 0.001], dtype=torch.float64)
    alpha, sigma = alpha_sigma(kept, torch.arange(6))
    return x0, eps, alpha, sigma


@pytest.mark.parametrize("prediction", list(Prediction))
def test_every_prediction_gives_back_the_picture(picture, prediction):
    x0, eps, alpha, sigma = picture
    x_t = noised(x0, eps, alpha, sigma)
    output = target_of(prediction, x0, eps, alpha, sigma)
    torch.testing.assert_close(to_x0(prediction, output, x_t, alpha, sigma), x0, rtol=0, atol=1e-11)


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


@pytest.mark.parametrize("prediction", list(Prediction))
def test_conversions_agree_with_a_diffusers_step(picture, prediction):
    # The last DDPM step returns the picture the output stands for, so diffusers is the oracle of to_x0.
    x_t, output, _, _ = picture
    scheduler = make_scheduler(prediction, zero_snr=False)
    alpha, sigma = alpha_sigma(scheduler.alphas_cumprod, torch.tensor([300]))
    step = scheduler.step(output, 300, x_t, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_x0(prediction, output, x_t, alpha, sigma), step.pred_original_sample)


def test_names_are_known_both_ways():
    assert [Prediction.parse(m.diffusers_name) for m in Prediction] == list(Prediction)
    with pytest.raises(ValueError, match=r"epsilon \(epsilon\), v \(v_prediction\), x0 \(sample\)"):
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
