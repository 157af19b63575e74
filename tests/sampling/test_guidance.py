import pytest
import torch
from diffusers import PNDMScheduler

from mamoe.diffusion.sampler import ddim_scheduler
from mamoe.diffusion.schedules import make_scheduler
from mamoe.errors import ConfigError
from mamoe.sampling.guidance import guide, rescale_guidance


def predictions():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn((3, 4, 5, 6), generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_guidance_is_a_line_through_both_predictions(scale):
    unconditional, conditional = predictions()
    wanted = (1 - scale) * unconditional + scale * conditional
    assert torch.allclose(guide(unconditional, conditional, scale, 0.0), wanted)


def test_full_rescale_restores_each_pictures_deviation():
    unconditional, conditional = predictions()
    conditional = conditional * torch.tensor([0.5, 1.0, 3.0]).view(3, 1, 1, 1)
    guided = guide(unconditional, conditional, 5.0, 1.0)
    assert torch.allclose(guided.flatten(1).std(1), conditional.flatten(1).std(1))


def test_partial_rescale_blends():
    """Equations 15 and 16 of Lin et al. 2023, written out for one picture."""
    guided, conditional = (p[:1] for p in predictions())
    rescaled = guided * (conditional.std() / guided.std())
    assert torch.allclose(rescale_guidance(guided, conditional, 0.7), 0.7 * rescaled + 0.3 * guided)


def test_zero_snr_sampling_goes_from_pure_noise_to_the_clean_picture():
    scheduler = ddim_scheduler(make_scheduler("v", zero_snr=True).config)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[0] == 999 and len(scheduler.timesteps) == 50
    assert scheduler.alphas_cumprod[999] == 0
    assert scheduler.final_alpha_cumprod == 1
    # A model that knows the picture ends at it, whatever the noise: v = alpha * noise - sigma * x.
    x, noise = torch.tensor([2.0, -3.0]).double(), torch.tensor([0.3, 0.7]).double()
    latents = noise
    for t in scheduler.timesteps:
        alpha, sigma = scheduler.alphas_cumprod[t].double().sqrt(), (1 - scheduler.alphas_cumprod[t].double()).sqrt()
        knows = (latents - alpha * x) / sigma if sigma > 0 else latents
        latents = scheduler.step(alpha * knows - sigma * x, t, latents).prev_sample
    assert torch.allclose(latents, x, atol=1e-5)


def test_ordinary_schedule_keeps_its_spacing():
    stock = PNDMScheduler(
        beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False, beta_end=0.012
    )
    scheduler = ddim_scheduler(stock.config)
    assert torch.equal(scheduler.alphas_cumprod, stock.alphas_cumprod)
    assert scheduler.config["timestep_spacing"] == "leading" and scheduler.config["steps_offset"] == 1
    assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0]


def test_noise_prediction_cannot_start_from_pure_noise():
    with pytest.raises(ConfigError, match="divides by zero"):
        ddim_scheduler({"prediction_type": "epsilon", "rescale_betas_zero_snr": True})
