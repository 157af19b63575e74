"""Train a small KL autoencoder (f8) from nothing, in minutes on a CPU.

Trained end to end, a small autoencoder spends its first hours on the mean colour of every cell: the decoder ignores
latents that carry no detail, so the encoder has no reason to put any there. Here the latents are decided beforehand:

    Components.  The principal components of 8x8 patches, scaled half-way to unit variance, so that coarse colour
                 stays louder than detail and a diffusion model learns it first.
    Encoder.     Learns to tell them from a picture, by regression.
    Decoder.     Learns to draw the picture from the encoder's latents; it sees neighbouring cells and may be sharper
                 than any linear code.

The posterior's standard deviation is a constant, small against the latents: the latents are what matters here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from mamoe.machine.precision import autocast_where_faster
from mamoe.models.autoencoder import decoded, posterior_of
from mamoe.randomness import generator_for

FACTOR = 8  # pixels per side of a latent cell
SAMPLE_PICTURES = 400  # whose patches decide the components
POSTERIOR_LOG_VARIANCE = -5.0

Report = Callable[[int, float, AutoencoderKL], None]  # (step, loss, averaged weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderRecipe:
    """Sizes and schedule of the training."""

    block_out_channels: tuple[int, ...] = (32, 64, 96, 128)
    latent_channels: int = 12
    crop: int = 64  # pixels
    batch_size: int = 8
    encoder_steps: int = 1500
    decoder_steps: int = 2500
    learning_rate: float = 1.5e-3  # highest, of a one-cycle schedule
    ema_decay: float = 0.995
    seed: int = 0


def new_autoencoder(recipe: AutoencoderRecipe) -> AutoencoderKL:
    """An untrained f8 autoencoder with a posterior of constant width.

    Raises:
        ValueError: not four block widths, which a factor of 8 needs.
    """
    levels = len(recipe.block_out_channels)
    if levels != 4:
        raise ValueError(f"An f8 autoencoder has 4 block widths, got {recipe.block_out_channels}.")
    # diffusers declares tuples of one element where it means any number.
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        block_out_channels=recipe.block_out_channels,  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        latent_channels=recipe.latent_channels,
        norm_num_groups=16,
        sample_size=128,
        force_upcast=False,
    )
    assert model.quant_conv is not None and model.quant_conv.bias is not None
    with torch.no_grad():
        model.quant_conv.weight[recipe.latent_channels :] = 0.0
        model.quant_conv.bias[recipe.latent_channels :] = POSTERIOR_LOG_VARIANCE
    return model


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PatchComponents:
    """The first principal components of 8x8 RGB patches, as a convolution."""

    mean: Float[Tensor, "192 1 1"]
    weight: Float[Tensor, "C 192 1 1"]  # eigenvectors over the fourth root of their variance

    def __call__(self, x: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b C H/8 W/8"]:
        return F.conv2d(F.pixel_unshuffle(x, FACTOR) - self.mean, self.weight)


def patch_components(pictures: Float[Tensor, "n 3 H W"], count: int) -> PatchComponents:
    """Principal component analysis (Pearson 1901) of the non-overlapping 8x8 patches of ``pictures``."""
    patches = F.pixel_unshuffle(pictures, FACTOR).permute(0, 2, 3, 1).flatten(0, 2)
    mean = patches.mean(0)
    variance, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
    variance, vectors = variance.flip(0)[:count], vectors.flip(1)[:, :count]
    weight = (vectors * variance.pow(-0.25)).T
    return PatchComponents(mean=mean.view(-1, 1, 1), weight=weight[..., None, None].contiguous())


def train_autoencoder(
    pictures: UInt8[np.ndarray, "n H W 3"], recipe: AutoencoderRecipe, *, report: Report | None = None
) -> AutoencoderKL:
    """Train encoder, then decoder; returns averaged weights with ``scaling_factor`` = 1 / latent std."""
    torch.manual_seed(recipe.seed)  # diffusers initialises from the global generator
    encoded = train_encoder(new_autoencoder(recipe), pictures, recipe, report=report)
    return train_decoder(encoded, pictures, recipe, report=report)


def train_encoder(
    model: AutoencoderKL,
    pictures: UInt8[np.ndarray, "n H W 3"],
    recipe: AutoencoderRecipe,
    *,
    report: Report | None = None,
) -> AutoencoderKL:
    """Teach ``model``'s encoder the components of ``pictures``; its decoder stays as it is."""
    components = patch_components(to_unit(pictures[:SAMPLE_PICTURES]), recipe.latent_channels)

    def loss(model: AutoencoderKL, x: Tensor, generator: torch.Generator) -> Tensor:
        error = posterior_of(model, x).mean.float() - components(x)
        return error.abs().mean() + error.square().mean()

    averaged = _train(model, model.encoder, pictures, recipe, recipe.encoder_steps, loss, report)
    averaged.register_to_config(scaling_factor=1.0 / latent_std(averaged, pictures[:64]))
    return averaged


def train_decoder(
    model: AutoencoderKL,
    pictures: UInt8[np.ndarray, "n H W 3"],
    recipe: AutoencoderRecipe,
    *,
    report: Report | None = None,
) -> AutoencoderKL:
    """Teach ``model``'s decoder to draw ``pictures`` from its encoder's latents; the encoder stays as it is."""

    def loss(model: AutoencoderKL, x: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            latents = posterior_of(model, x).sample(generator)
        error = decoded(model, latents).float() - x
        return error.abs().mean() + error.square().mean()

    return _train(model, model.decoder, pictures, recipe, recipe.decoder_steps, loss, report)


def _train(
    model: AutoencoderKL,
    part: nn.Module,
    pictures: UInt8[np.ndarray, "n H W 3"],
    recipe: AutoencoderRecipe,
    steps: int,
    loss_of: Callable[[AutoencoderKL, Tensor, torch.Generator], Tensor],
    report: Report | None,
) -> AutoencoderKL:
    """Adam on ``part`` alone; returns a copy of the model with its weights averaged."""
    model = (
        model.train()
    )  # channels as they are: last, a CPU needs ten times as long for group norms' gradients in bf16
    averaged = deepcopy(model).requires_grad_(False).eval()
    weights = list(part.parameters())
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.05)
    for step, x in enumerate(_crops(pictures, recipe, steps)):
        with autocast_where_faster("cpu", training=True):
            loss = loss_of(model, x, generator_for(recipe.seed, "posterior", step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        decay = min(recipe.ema_decay, (1 + step) / (10 + step))
        for mean, value in zip(averaged.parameters(), model.parameters(), strict=True):
            mean.lerp_(value.detach(), 1 - decay)
        if report is not None:
            report(step + 1, loss.item(), averaged)
    return averaged.requires_grad_(True)


def _crops(
    pictures: UInt8[np.ndarray, "n H W 3"], recipe: AutoencoderRecipe, steps: int
) -> Iterator[Float[Tensor, "b 3 size size"]]:
    for step in range(steps):
        yield random_crops(pictures, recipe.batch_size, recipe.crop, generator_for(recipe.seed, "crops", step))


def random_crops(
    pictures: UInt8[np.ndarray, "n H W 3"], count: int, size: int, generator: torch.Generator
) -> Float[Tensor, "count 3 size size"]:
    """Crops in [-1, 1] of random pictures at random places, half of them mirrored."""
    n, height, width, _ = pictures.shape
    crops = []
    for _ in range(count):
        i, y, x, flip = (
            int(torch.randint(high, (1,), generator=generator)) for high in (n, height - size + 1, width - size + 1, 2)
        )
        crop = pictures[i, y : y + size, x : x + size]
        crops.append(crop[:, ::-1] if flip else crop)
    return to_unit(np.stack(crops))


def to_unit(pictures: UInt8[np.ndarray, "n H W 3"]) -> Float[Tensor, "n 3 H W"]:
    """Bytes to [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


@torch.no_grad()
def latent_std(model: AutoencoderKL, pictures: UInt8[np.ndarray, "n H W 3"]) -> float:
    """Standard deviation of the latents, all channels together: what ``scaling_factor`` undoes."""
    return float(torch.cat([posterior_of(model, x).mean for x in to_unit(pictures).split(8)]).std())


@torch.no_grad()
def reconstruction_psnr(model: AutoencoderKL, pictures: UInt8[np.ndarray, "n H W 3"]) -> float:
    """PSNR in dB of decode(encode(x)) over all pictures, pixel range 255."""
    parts = [decoded(model, posterior_of(model, x).mode()).clamp(-1, 1) - x for x in to_unit(pictures).split(8)]
    return float(10 * torch.log10(4.0 / torch.cat(parts).square().mean()))
