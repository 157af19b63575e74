from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch.nn import functional as F

from mamoe.training.autoencoder import (
    FACTOR,
    POSTERIOR_LOG_VARIANCE,
    AutoencoderRecipe,
    latent_std,
    new_autoencoder,
    patch_components,
    random_crops,
    reconstruction_psnr,
    to_unit,
    train_autoencoder,
    train_decoder,
    train_encoder,
)

RECIPE = AutoencoderRecipe(
    block_out_channels=(16, 16, 32, 32),
    latent_channels=4,
    crop=32,
    batch_size=4,
    encoder_steps=40,
    decoder_steps=40,
    learning_rate=4e-3,
    ema_decay=0.9,
)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Smooth random pictures u8 [16 48 48 3]: colours that change over 24 pixels."""
    coarse = torch.rand(16, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, size=(48, 48), mode="bilinear")
    return (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def fresh() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return new_autoencoder(RECIPE)


def state(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def unchanged(before, after) -> bool:
    return all(torch.equal(value, after[name]) for name, value in before.items())


@torch.no_grad()
def distance(model, pictures) -> float:
    """How far the encoder is from the components, mean square."""
    x = to_unit(pictures)
    return float((model.encode(x).latent_dist.mean - patch_components(x, 4)(x)).square().mean())


# Components.


def test_components_are_principal(pictures):
    x = to_unit(pictures).double()
    components = patch_components(x, 6)
    codes = components(x).permute(0, 2, 3, 1).flatten(0, 2)
    # Independent oracle: the singular values of the centred patches.
    patches = F.pixel_unshuffle(x, FACTOR).permute(0, 2, 3, 1).flatten(0, 2)
    variance = torch.linalg.svdvals(patches - patches.mean(0)).square()[:6] / (len(patches) - 1)
    covariance = torch.cov(codes.T)
    # Half-way to unit variance: the code's standard deviation is the fourth root of the component's variance.
    torch.testing.assert_close(covariance.diagonal(), variance.sqrt(), rtol=1e-6, atol=0)
    off = covariance - torch.diag(covariance.diagonal())
    assert off.abs().max() < 1e-9
    assert codes.mean(0).abs().max() < 1e-9
    assert (variance.diff() <= 0).all()


def test_components_are_orthogonal(pictures):
    weight = patch_components(to_unit(pictures).double(), 6).weight.flatten(1)
    gram = weight @ weight.T
    assert (gram - torch.diag(gram.diagonal())).abs().max() < 1e-9 * gram.max()


def test_all_components_give_the_picture_back(pictures):
    noise = np.random.default_rng(0).integers(256, size=(8, 48, 48, 3), dtype=np.uint8)
    x = to_unit(noise).double()
    components = patch_components(x, 192)
    weight = components.weight.flatten(1)
    patches = torch.einsum("bchw,cp->bphw", components(x), torch.linalg.inv(weight).T) + components.mean
    torch.testing.assert_close(F.pixel_shuffle(patches, FACTOR), x, rtol=0, atol=1e-8)


# Crops.


def test_crops_lie_in_their_pictures():
    places = np.arange(48 * 48).reshape(1, 48, 48, 1) // 9  # below 256
    pictures = np.broadcast_to(places, (1, 48, 48, 3)).astype(np.uint8)
    crops = random_crops(pictures, 16, 32, torch.Generator().manual_seed(0))
    assert crops.shape == (16, 3, 32, 32)
    windows = {
        window.tobytes()
        for y in range(17)
        for x in range(17)
        for window in (pictures[0, y : y + 32, x : x + 32, 0], pictures[0, y : y + 32, x : x + 32, 0][:, ::-1])
    }
    values = ((crops + 1) * 127.5).round().to(torch.uint8).numpy()
    assert all(np.ascontiguousarray(value[0]).tobytes() in windows for value in values)
    mirrored = sum(int(value[0, 0, 0]) > int(value[0, 0, -1]) for value in values)
    assert 0 < mirrored < 16


def test_to_unit_covers_the_range():
    assert to_unit(np.array([[[[0, 255, 51]]]], dtype=np.uint8)).flatten().tolist() == pytest.approx([-1, 1, -0.6])


# The model.


def test_the_posterior_is_of_constant_width(pictures):
    model = fresh()
    x = to_unit(pictures[:2])
    assert (model.encode(x).latent_dist.logvar == POSTERIOR_LOG_VARIANCE).all()
    noise = model.encode(x).latent_dist.sample(torch.Generator().manual_seed(0)) - model.encode(x).latent_dist.mean
    assert noise.std().item() == pytest.approx(np.exp(POSTERIOR_LOG_VARIANCE / 2), rel=0.1)


def test_the_factor_is_eight():
    assert fresh().encode(torch.zeros(1, 3, 64, 32)).latent_dist.mean.shape == (1, 4, 8, 4)
    with pytest.raises(ValueError, match="4 block widths"):
        new_autoencoder(replace(RECIPE, block_out_channels=(16, 16)))


def test_encoder_learns_the_components_and_nothing_else_changes(pictures):
    model, losses = fresh(), []
    before = state(model)
    trained = train_encoder(model, pictures, RECIPE, report=lambda step, loss, _: losses.append((step, loss)))
    assert [step for step, _ in losses] == list(range(1, 41))
    assert distance(trained, pictures) < 0.75 * distance(fresh(), pictures)

    after = trained.state_dict()
    others = {name: value for name, value in before.items() if not name.startswith("encoder.")}
    assert others and unchanged(others, after)
    moved = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert len(moved) > 10 and all(name.startswith("encoder.") for name in moved)

    x = to_unit(pictures)
    assert (trained.encode(x).latent_dist.logvar == POSTERIOR_LOG_VARIANCE).all()
    scaled = trained.encode(x).latent_dist.mean * trained.config["scaling_factor"]
    assert float(scaled.std()) == pytest.approx(1, rel=1e-4)
    assert latent_std(trained, pictures) == pytest.approx(1 / trained.config["scaling_factor"])


@pytest.mark.slow
def test_decoder_learns_and_the_encoder_stays(pictures):
    model = fresh()
    before, psnr = state(model), reconstruction_psnr(model, pictures)
    trained = train_decoder(model, pictures, RECIPE)
    assert reconstruction_psnr(trained, pictures) > psnr + 1
    others = {name: value for name, value in before.items() if not name.startswith("decoder.")}
    assert others and unchanged(others, trained.state_dict())


def test_the_seed_decides_everything(pictures):
    short = replace(RECIPE, encoder_steps=2, decoder_steps=2)
    one, two = (train_autoencoder(pictures, short) for _ in range(2))
    other = train_autoencoder(pictures, replace(short, seed=1))
    assert unchanged(one.state_dict(), two.state_dict())
    assert not unchanged(one.state_dict(), other.state_dict())
    assert one.config["scaling_factor"] == two.config["scaling_factor"]
    assert all(p.requires_grad for p in one.parameters())


def test_psnr_in_closed_form(pictures):
    class Shifted(torch.nn.Module):
        """Gives every pixel back 0.1 too bright (of a range of 2)."""

        config: ClassVar = {"latent_channels": 3}

        def encode(self, x):
            return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(torch.cat([x * 0.5, x * 0], dim=1)))

        def decode(self, z):
            return DecoderOutput(sample=2 * z + 0.1)

    grey = np.full((3, 16, 16, 3), 100, dtype=np.uint8)
    assert reconstruction_psnr(Shifted(), grey) == pytest.approx(10 * np.log10(4 / 0.01), abs=1e-3)
