"""Pictures changed by a flow: noise is mixed in along straight lines, and Euler's steps go back."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from mamoe import LayoutPipeline
from mamoe.diffusion.schedules import make_flow
from mamoe.models.autoencoder import posterior_of
from mamoe.models.control.call import predict
from mamoe.models.latents import LatentScaling
from small_pixart_base import write_pixart_base

STEPS, SIZE = 5, (64, 96)
SHIFT = 3.0


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    made = LayoutPipeline.from_pretrained(write_pixart_base(tmp_path_factory.mktemp("pixart")))
    made.scheduler = make_flow(shift=SHIFT)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def photo():
    ramp = np.linspace(0, 255, SIZE[1], dtype=np.uint8)
    return np.stack([np.tile(ramp, (SIZE[0], 1)), np.tile(ramp[::-1], (SIZE[0], 1)), np.full(SIZE, 90, np.uint8)], -1)


def sigmas():
    """Noise levels of the steps and 0, by the formula of the shift (Esser et al. 2024, section 5.3.2)."""
    even = torch.linspace(1, 1 / 1000, STEPS, dtype=torch.float64)
    first, last = (SHIFT * one / (1 + (SHIFT - 1) * one) for one in (even[0], even[-1]))
    even = torch.linspace(first, last, STEPS, dtype=torch.float64)
    return [*(SHIFT * even / (1 + (SHIFT - 1) * even)).tolist(), 0.0]


@torch.no_grad()
def by_hand(pipe, photo, noise, *, skipped, anew=None):
    """Latents after Euler's steps without guidance; cells outside ``anew`` are put back after each."""
    clean = LatentScaling.of(pipe.vae).scaled(
        posterior_of(pipe.vae, torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 127.5 - 1).mean
    )
    inputs = pipe.encode("a street", height=SIZE[0], width=SIZE[1]).phases[0].conditional.unet_inputs()
    levels = sigmas()[skipped:]
    now = levels[0] * noise + (1 - levels[0]) * clean
    for level, following in pairwise(levels):
        now = now + (following - level) * predict(pipe.unet, now, 1000 * level, inputs)
        if anew is not None:
            now = torch.where(anew, now, following * noise + (1 - following) * clean)
    return now


def drawn(pipe, photo, **options):
    seeded = torch.Generator().manual_seed(2)
    asked = {"num_inference_steps": STEPS, "guidance_scale": 1.0, "output_type": "latent", "image": photo, **options}
    return pipe("a street", generator=seeded, **asked).images


def noise_of(pipe):
    assert isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler)
    return torch.randn((1, 4, SIZE[0] // 8, SIZE[1] // 8), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("strength", "skipped"), [(0.4, 3), (0.8, 1), (1.0, 0)])
def test_a_picture_to_begin_with(pipe, photo, strength, skipped):
    got = drawn(pipe, photo, strength=strength)
    torch.testing.assert_close(got, by_hand(pipe, photo, noise_of(pipe), skipped=skipped), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("strength", "skipped"), [(0.6, 2), (1.0, 0)])
def test_a_part_drawn_anew(pipe, photo, strength, skipped):
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[16:40, 24:72] = 255
    anew = torch.zeros(1, 1, SIZE[0] // 8, SIZE[1] // 8, dtype=torch.bool)
    anew[..., 2:5, 3:9] = True
    got = drawn(pipe, photo, strength=strength, mask_image=mask, border=0)
    wanted = by_hand(pipe, photo, noise_of(pipe), skipped=skipped, anew=anew)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    pixels = drawn(pipe, photo, strength=strength, mask_image=mask, border=0, output_type="pil")[0]
    assert (np.asarray(pixels)[mask == 0] == photo[mask == 0]).all()
