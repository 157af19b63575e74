"""Classifier-free guidance as pure functions."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def guide(
    unconditional: Float[Tensor, "B C h w"], conditional: Float[Tensor, "B C h w"], scale: float, rescale: float
) -> Float[Tensor, "B C h w"]:
    """``u + scale * (c - u)`` (Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022), then rescaled.

    Args:
        unconditional: prediction u without prompt and layout.
        conditional: prediction c with them.
        scale: 0 gives u, 1 gives c, more goes beyond c.
        rescale: in [0, 1], see :func:`rescale_guidance`.
    """
    return rescale_guidance(unconditional + scale * (conditional - unconditional), conditional, rescale)


def rescale_guidance(
    guided: Float[Tensor, "B C h w"], conditional: Float[Tensor, "B C h w"], rescale: float
) -> Float[Tensor, "B C h w"]:
    """Bring each picture's standard deviation back towards that of the conditional prediction.

    Lin et al., "Common Diffusion Noise Schedules and Sample Steps Are Flawed", 2023, equations 15 and 16: guidance
    over-exposes pictures under a zero-terminal-SNR schedule. ``rescale`` 0 changes nothing, 1 restores fully.
    """
    if rescale == 0.0:
        return guided
    over_picture = (1, 2, 3)
    ratio = conditional.std(over_picture, keepdim=True) / guided.std(over_picture, keepdim=True)
    return guided * (rescale * ratio + (1.0 - rescale))
