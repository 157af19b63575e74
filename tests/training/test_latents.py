"""Encoded pictures that are remembered are the ones that would be encoded anew."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL

from mamoe.training.latents import LatentMemory


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    widths = (4, 4, 4, 4)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        norm_num_groups=2,
    ).eval()


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (count, 3, 16, 24), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_remembered_moments_equal_fresh_ones_bit_for_bit_in_any_company(vae):
    memory = LatentMemory(vae, 10)
    x = pictures(4)
    memory.moments(x[:2])
    late = memory.moments(x.flip(0))
    alone = LatentMemory(vae, 10).moments(x[3:])
    assert torch.equal(late[0][0], alone[0][0]) and torch.equal(late[1][0], alone[1][0])
    assert len(memory) == 4


def test_moments_are_those_of_the_posterior(vae):
    x = pictures(3)
    with torch.no_grad():
        posterior = vae.encode(x / 127.5 - 1).latent_dist
    for memory in (LatentMemory(vae, 0), LatentMemory(vae, 10)):
        mean, std = memory.moments(x)
        torch.testing.assert_close(mean, posterior.mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(std, posterior.std, atol=1e-5, rtol=1e-4)


def test_a_picture_is_encoded_once_and_its_mirror_image_is_another(vae, monkeypatch):
    calls = []
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda x: calls.append(len(x)) or encode(x))
    memory = LatentMemory(vae, 10)
    x = pictures(1)
    for _ in range(3):
        memory.moments(x)
        memory.moments(x.flip(-1))
    assert calls == [1, 1]


def test_a_full_memory_forgets_nothing_and_still_answers(vae):
    memory = LatentMemory(vae, 10)
    memory._room = 2 * 4 * 2 * 3 * 4  # one picture: two moments of 4 channels of 2x3 cells, float32
    x = pictures(3)
    first = memory.moments(x)
    again = memory.moments(x)
    assert len(memory) == 1
    assert torch.equal(first[0], again[0])
