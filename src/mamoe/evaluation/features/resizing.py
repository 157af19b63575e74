"""From an 8-bit picture of any size to a network's input, each way with a name that goes into the protocol.

Legacy and clean resizing give different features, and so different scores (Parmar et al. 2022, arXiv 2104.11222).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """How one picture becomes an input f32[3 S S]; ``name`` says it in words."""

    name: str
    apply: Callable[[UInt8[np.ndarray, "H W 3"]], Float[Tensor, "3 S S"]]


def legacy_inception(side: int = 299) -> Preprocessing:
    """As TensorFlow 1 did for the first FIDs: bilinear without antialiasing; torch-fidelity's resizing."""

    def apply(image: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "3 S S"]:
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        return (
            interpolate_bilinear_2d_like_tensorflow1x(pixels, size=(side, side), align_corners=False)[0] - 128
        ) / 128

    return Preprocessing(name=f"legacy: bilinear to {side}x{side} as TensorFlow 1, no antialiasing", apply=apply)


def clean_inception(side: int = 299) -> Preprocessing:
    """As clean-fid: bicubic with antialiasing, in floating point."""

    def apply(image: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "3 S S"]:
        return (clean_resize(image, side) - 128) / 128

    return Preprocessing(name=f"clean: bicubic to {side}x{side} by Pillow in float, antialiased", apply=apply)


def normalised(side: int, mean_and_deviation: tuple[tuple[float, ...], tuple[float, ...]], whose: str) -> Preprocessing:
    """Clean resizing, then mean and deviation of ``whose`` pictures."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in mean_and_deviation)

    def apply(image: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "3 S S"]:
        return (clean_resize(image, side) / 255 - mean) / deviation

    return Preprocessing(
        name=f"bicubic to {side}x{side} by Pillow in float, antialiased, {whose} normalisation", apply=apply
    )


def published_cmmd(side: int) -> Preprocessing:
    """As CMMD's published code: torch's bicubic without antialiasing, nothing cropped."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in CLIP)

    def apply(image: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "3 S S"]:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        return (F.interpolate(pixels, size=(side, side), mode="bicubic")[0] - mean) / deviation

    return Preprocessing(name=f"bicubic to {side}x{side} without antialiasing, CLIP normalisation", apply=apply)


def thumbnail(side: int) -> Preprocessing:
    """Every picture as side x side mean colours in [0, 1]."""

    def apply(image: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "3 S S"]:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        return F.adaptive_avg_pool2d(pixels, side)[0]

    return Preprocessing(name=f"mean colours of {side}x{side} cells", apply=apply)


def clean_resize(image: UInt8[np.ndarray, "H W 3"], side: int) -> Float[Tensor, "3 S S"]:
    """Pillow's antialiased bicubic resizing of every channel in float, clipped to [0, 255]: clean-fid's way."""
    channels = [
        np.asarray(
            Image.fromarray(image[..., c].astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
        ).clip(0, 255)
        for c in range(3)
    ]
    return torch.from_numpy(np.stack(channels))
