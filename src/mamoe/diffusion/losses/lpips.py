"""LPIPS (Zhang et al. 2018, arXiv 1801.03924): the distance of two pictures in the features of an image network.

The linear weights are those of the paper, version 0.1, which torchmetrics ships. The image network is torchvision's.
"""

from __future__ import annotations

from enum import StrEnum
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from mamoe.errors import ConfigError
from mamoe.machine.skeleton import without_memory

_EPS = 1e-8  # below the square root that normalises a feature


class LpipsNet(StrEnum):
    """Image networks that LPIPS knows."""

    ALEX = "alex"  # AlexNet, the paper's choice for measuring
    VGG = "vgg"  # VGG16, the paper's choice for optimizing


# Where each network is looked into: behind these layers of torchvision's ``features``.
_LOOKED_AT = {LpipsNet.ALEX: (1, 4, 7, 9, 11), LpipsNet.VGG: (3, 8, 15, 22, 29)}


class Lpips(nn.Module):
    """The distance of pictures in [-1, 1]; values outside are taken as they are.

    Args:
        net: which layers of ``convolutions`` are looked at.
        convolutions: torchvision's ``features`` of that network.
        linear: weight of each channel of each layer looked at, 0 or more.
    """

    def __init__(self, net: LpipsNet, convolutions: nn.Sequential, linear: list[Float[Tensor, "_"]]) -> None:
        super().__init__()
        self._looked_at = _LOOKED_AT[net]
        self.convolutions = convolutions[: self._looked_at[-1] + 1]
        for i, weight in enumerate(linear):
            self.register_buffer(f"linear{i}", weight.view(1, -1, 1, 1))
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, a: Float[Tensor, "B 3 H W"], b: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
        distance = torch.zeros(len(a), device=a.device)
        for i, (left, right) in enumerate(zip(self._features(a), self._features(b), strict=True)):
            difference = (_normalised(left.float()) - _normalised(right.float())).square()
            distance = distance + (difference * self.get_buffer(f"linear{i}")).sum(1).mean((1, 2))
        return distance

    def _features(self, pictures: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        value, found = (pictures - self.get_buffer("shift")) / self.get_buffer("scale"), []
        for i, layer in enumerate(self.convolutions):
            value = layer(value)
            if i in self._looked_at:
                found.append(value)
        return found


def _normalised(features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    return features / (features.square().sum(1, keepdim=True) + _EPS).sqrt()


def load_lpips(net: LpipsNet, weights: Path | None = None) -> Lpips:
    """LPIPS with a trained image network.

    Args:
        net: the image network.
        weights: torchvision's weights of it as .safetensors or .pth; None lets torchvision fetch them.

    Raises:
        ConfigError: the weights are not there, do not fit or cannot be fetched.
    """
    return Lpips(net, trained_convolutions(net, weights), linear_weights(net))


def trained_convolutions(net: LpipsNet, weights: Path | None) -> nn.Sequential:
    """torchvision's ``features`` of an image network. Raises as :func:`load_lpips`."""
    from torchvision.models import AlexNet_Weights, VGG16_Weights, alexnet, vgg16

    make: Any = {LpipsNet.ALEX: alexnet, LpipsNet.VGG: vgg16}[net]
    try:
        if weights is None:
            published = {LpipsNet.ALEX: AlexNet_Weights.IMAGENET1K_V1, LpipsNet.VGG: VGG16_Weights.IMAGENET1K_V1}[net]
            stored = published.get_state_dict(progress=False, check_hash=True)
        elif weights.suffix == ".safetensors":
            stored = load_file(weights)
        else:
            stored = torch.load(weights, map_location="cpu", weights_only=True)
        with without_memory():
            convolutions = make(weights=None).features
        kept = {k.removeprefix("features."): v.float() for k, v in stored.items() if not k.startswith("classifier.")}
        convolutions.load_state_dict(kept, assign=True)
    except Exception as error:  # downloads and files that are something else end in errors of many kinds
        came = "torchvision's download" if weights is None else f"loss.weights={weights}"
        raise ConfigError(
            f"loss=lpips needs torchvision's {make.__name__} and {came} does not give it: "
            f"{(str(error).splitlines() or [type(error).__name__])[0].rstrip('.')}. Without a network, fetch the file "
            "elsewhere and give its path (.pth or .safetensors, keys features.N.weight and features.N.bias): "
            "loss.weights=FILE."
        ) from None
    return convolutions


def linear_weights(net: LpipsNet) -> list[Float[Tensor, "_"]]:
    """The paper's weight of every channel, layer by layer."""
    with as_file(files("torchmetrics.functional.image") / "lpips_models" / f"{net.value}.pth") as path:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    return [stored[f"lin{i}.model.1.weight"].flatten() for i in range(len(_LOOKED_AT[net]))]
