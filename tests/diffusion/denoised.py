"""A batch as losses see it."""

import torch

from mamoe.diffusion.losses import Denoised
from mamoe.diffusion.parameterization import Prediction
from mamoe.vocabulary.conditioning import Conditioning, TextTokens

TEXT_WIDTH = 8


def denoised(prediction: Prediction = Prediction.V, count: int = 3, **changes) -> Denoised:
    """Random latents [count 4 6 5] at alpha 0.8 (in a flow 0.4), sigma 0.6; picture b is one for every ``count``."""
    generators = [torch.Generator().manual_seed(b) for b in range(count)]
    output, clean, noise = torch.stack([torch.randn(3, 4, 6, 5, generator=g) for g in generators], dim=1)
    kept = 0.4 if prediction is Prediction.FLOW else 0.8
    alpha, sigma = (torch.full((count, 1, 1, 1), value) for value in (kept, 0.6))
    values = {"output": output, "clean": clean, "noise": noise, "alpha": alpha, "sigma": sigma}
    values |= {"timesteps": torch.arange(1, count + 1), "seeds": tuple(range(10, 10 + count))}
    return Denoised(**{"prediction": prediction, "conditioning": told(count), **values, **changes})


def told(count: int, own_tokens: int = 0) -> Conditioning:
    """Three tokens of the global prompt, and some of a region."""
    size = 3 + own_tokens
    generator = torch.Generator().manual_seed(3)
    text = TextTokens(
        embeds=torch.randn(1, 9, TEXT_WIDTH, generator=generator)[:, :size].repeat(count, 1, 1),
        valid=torch.ones(count, size, dtype=torch.bool),
        region=(torch.arange(size) > 2).long().repeat(count, 1),
    )
    return Conditioning(text=text, levels=())
