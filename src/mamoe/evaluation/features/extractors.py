"""Networks that turn pictures into features. Each has one fixed preprocessing and a name of its own.

Only scores of ``inception`` and ``inception-clean`` are called FID; what a small network without a hub gives is called
FD-alexnet, FD-vgg16 or FD-pixels, so that no number is mistaken for another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mamoe.errors import ConfigError
from mamoe.evaluation.features import networks
from mamoe.evaluation.features.resizing import IMAGENET, Preprocessing, normalised, thumbnail
from mamoe.machine.skeleton import without_memory
from mamoe.storage.fingerprints import weights_hash

_IMAGENET_SIDE = 224
_THUMBNAIL_SIDE = 8


class ExtractorName(StrEnum):
    """Networks that features can come from."""

    INCEPTION = "inception"  # FID's network, legacy resizing
    INCEPTION_CLEAN = "inception-clean"  # the same network, clean resizing
    CLIP = "clip"  # CLIP ViT-L/14-336, CMMD's network
    DINOV2 = "dinov2"  # DINOv2 ViT-L/14
    ALEXNET = "alexnet"  # AlexNet's convolutions, from a local file
    VGG16 = "vgg16"  # VGG16's convolutions, from a local file
    PIXELS = "pixels"  # no network: 8x8 mean colours


NEED_FILE = (ExtractorName.ALEXNET, ExtractorName.VGG16)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Extractor:
    """A network with its preprocessing.

    Equal input gives equal features whatever else is in the list: batches have one fixed size, and the last one is
    filled up.
    """

    name: ExtractorName
    identity: str  # network and weights, to the bit
    preprocessing: Preprocessing
    network: Callable[[Float[Tensor, "B 3 S S"]], Float[Tensor, "B d"]]
    device: torch.device
    batch_size: int = 16

    @torch.no_grad()
    def __call__(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Float[Tensor, "n d"]:
        """The features of pictures u8 of any sizes, on the CPU."""
        found = []
        for start in range(0, len(images), self.batch_size):
            inputs = torch.stack([self.preprocessing.apply(image) for image in images[start : start + self.batch_size]])
            filled = torch.cat([inputs, inputs[-1:].expand(self.batch_size - len(inputs), -1, -1, -1)])
            found.append(self.network(filled.to(self.device)).float().cpu()[: len(inputs)])
        return torch.cat(found)


def load_extractor(name: ExtractorName | str, source: Path | None = None, device: str = "cpu") -> Extractor:
    """An extractor by name.

    Args:
        name: see :class:`ExtractorName`.
        source: a local folder (CLIP, DINOv2) or file of weights; None takes the pinned revision from the hub, where
            there is one.
        device: where the network runs.

    Raises:
        ConfigError: unknown name, a source that is missing or does not fit, or a network that cannot be fetched; the
            message says what to do without a network.
    """
    if name not in list(ExtractorName):
        raise ConfigError(f"There is no extractor {name!r}; there are {', '.join(ExtractorName)}.")
    chosen = ExtractorName(name)
    if source is not None and not source.exists():
        raise ConfigError(f"The weights of the extractor {chosen} should be at {source}, but nothing is there.")
    place = torch.device(device)
    if chosen is ExtractorName.PIXELS:
        return _pixels(place)
    if chosen in NEED_FILE:
        if source is None:
            raise ConfigError(f"The extractor {chosen} needs a local file of weights: {chosen}=FILE.safetensors.")
        return _small(chosen, source, place)
    loaders = {
        ExtractorName.INCEPTION: networks.inception,
        ExtractorName.INCEPTION_CLEAN: networks.inception_clean,
        ExtractorName.CLIP: networks.clip,
        ExtractorName.DINOV2: networks.dinov2,
    }
    network, identity, preprocessing = loaders[chosen](source, place)
    return Extractor(name=chosen, identity=identity, preprocessing=preprocessing, network=network, device=place)


def _pixels(device: torch.device) -> Extractor:
    return Extractor(
        name=ExtractorName.PIXELS,
        identity="pixels",
        preprocessing=thumbnail(_THUMBNAIL_SIDE),
        network=lambda inputs: inputs.flatten(1),
        device=device,
    )


def _small(name: ExtractorName, source: Path, device: torch.device) -> Extractor:
    from torchvision.models import alexnet, vgg16

    kind = {ExtractorName.ALEXNET: alexnet, ExtractorName.VGG16: vgg16}[name]
    with without_memory():
        convolutions = kind(weights=None).features
    assert isinstance(convolutions, nn.Sequential)
    try:
        stored = {key.removeprefix("features."): weight.float() for key, weight in load_file(source).items()}
        convolutions.load_state_dict(stored, assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ConfigError(
            f"{source} does not hold the weights of torchvision's {name} as safetensors, with keys features.N.weight "
            f"and features.N.bias: {str(error).splitlines()[0]}"
        ) from None
    convolutions = convolutions.to(device).eval().requires_grad_(False)
    return Extractor(
        name=name,
        identity=f"{name} convolutions, mean over the picture, weights {weights_hash(convolutions)}",
        preprocessing=normalised(_IMAGENET_SIDE, IMAGENET, "ImageNet"),
        network=lambda inputs: convolutions(inputs).mean(dim=(2, 3)),
        device=device,
    )
