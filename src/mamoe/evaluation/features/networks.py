"""The networks behind published scores: Inception (FID), CLIP (CMMD) and DINOv2 (FD-DINOv2), at pinned revisions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mamoe.errors import ConfigError
from mamoe.evaluation.features.resizing import (
    IMAGENET,
    Preprocessing,
    clean_inception,
    legacy_inception,
    normalised,
    published_cmmd,
)
from mamoe.storage.fingerprints import weights_hash
from mamoe.storage.staging import is_disk_full

Network = Callable[[Float[Tensor, "B 3 S S"]], Float[Tensor, "B d"]]
Loaded = tuple[Network, str, Preprocessing]

CLIP_HUB = ("openai/clip-vit-large-patch14-336", "ce19dc912ca5cd21c8a653c79e251e808ccabcd1")
DINOV2_HUB = ("facebook/dinov2-large", "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c")
_DINOV2_SIDE = 224
_INCEPTION_ORDER = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)
_WITHOUT = (
    "Without a network, give a local copy as NAME=PATH, or take an extractor that needs none: alexnet=FILE, vgg16=FILE "
    "or pixels (their scores have their own names)."
)


def inception(source: Path | None, device: torch.device) -> Loaded:
    """FID's Inception as torch-fidelity has it, 2,048 channels, legacy resizing.

    Args:
        source: torch-fidelity's weights as .safetensors or .pth; None fetches them, checked by hash.
        device: where it runs.

    Raises:
        ConfigError: torch-fidelity is not installed, or the weights are not there or do not fit.
    """
    return _inception(source, device, legacy_inception())


def inception_clean(source: Path | None, device: torch.device) -> Loaded:
    """The same network with clean-fid's resizing. Raises as :func:`inception`."""
    return _inception(source, device, clean_inception())


def clip(source: Path | None, device: torch.device) -> Loaded:
    """CLIP ViT-L/14-336's image embeddings.

    Args:
        source: a folder with config.json and weights; None takes the pinned revision from the hub.
        device: where it runs.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from transformers import CLIPVisionModelWithProjection

    # This revision holds no safetensors; transformers reads the weights without running code from them.
    model = _from_hub(CLIPVisionModelWithProjection, source, CLIP_HUB, device)
    return (
        lambda inputs: model(pixel_values=inputs).image_embeds,
        f"CLIP image embedding, weights {weights_hash(model)}",
        published_cmmd(model.config.image_size),
    )


def dinov2(source: Path | None, device: torch.device) -> Loaded:
    """DINOv2 ViT-L/14's class token after the last norm (Stein et al. 2023, arXiv 2306.04675).

    Args:
        source: a folder with config.json and weights; None takes the pinned revision from the hub.
        device: where it runs.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from transformers import Dinov2Model

    model = _from_hub(Dinov2Model, source, DINOV2_HUB, device, use_safetensors=True)
    return (
        lambda inputs: model(pixel_values=inputs).pooler_output,
        f"DINOv2 class token, weights {weights_hash(model)}",
        normalised(_DINOV2_SIDE, IMAGENET, "ImageNet"),
    )


def inception_features(network: nn.Module, inputs: Float[Tensor, "B 3 299 299"]) -> Float[Tensor, "B 2048"]:
    """Run torch-fidelity's Inception on inputs that are already resized, in [-1, 1]."""
    for name in _INCEPTION_ORDER:
        inputs = getattr(network, name)(inputs)
    return inputs.flatten(1)


def _inception(source: Path | None, device: torch.device, preprocessing: Preprocessing) -> Loaded:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    except ModuleNotFoundError:
        raise ConfigError("The extractor inception needs torch-fidelity: pip install 'mamoe[scores]'.") from None
    try:
        if source is None:
            weights = torch.hub.load_state_dict_from_url(
                URL_INCEPTION_V3, map_location="cpu", check_hash=True, weights_only=True
            )
        elif source.suffix == ".safetensors":
            weights = load_file(source)
        else:
            weights = torch.load(source, map_location="cpu", weights_only=True)
        with tempfile.TemporaryDirectory() as folder:  # the class takes nothing but a file, and would unpickle any
            path = Path(folder) / "weights.pth"
            torch.save(dict(weights), path)
            network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        if is_disk_full(error):
            raise
        raise ConfigError(f"Cannot load the extractor inception: {str(error).splitlines()[0]} {_WITHOUT}") from None
    network = network.to(device)
    identity = f"torch-fidelity Inception 2048, weights {weights_hash(network)}"
    return (lambda inputs: inception_features(network, inputs)), identity, preprocessing


# A local copy of the pinned weights is the same extractor: the hash of the weights says which it is, not the folder.
def _from_hub(kind: Any, source: Path | None, hub: tuple[str, str], device: torch.device, **options: Any) -> Any:
    repository, revision = hub
    try:
        if source is not None:
            model = kind.from_pretrained(source, local_files_only=True, dtype=torch.float32, **options)
        else:
            model = kind.from_pretrained(repository, revision=revision, dtype=torch.float32, **options)
    except (OSError, ValueError, RuntimeError) as error:
        where = source or f"{repository} at revision {revision}"
        raise ConfigError(f"Cannot load the extractor from {where}: {str(error).splitlines()[0]} {_WITHOUT}") from None
    return model.to(device).eval().requires_grad_(False)
