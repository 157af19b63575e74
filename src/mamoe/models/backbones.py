"""The families of networks that layouts steer, and what others would need. A new one: a file, and its record here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mamoe.errors import ConfigError
from mamoe.models.backbone import Backbone, Pyramid
from mamoe.models.dit.backbone import PIXART
from mamoe.models.flux.backbone import FLUX, FLUX2
from mamoe.models.qwen.backbone import QWEN_IMAGE
from mamoe.models.sd3.backbone import SD3
from mamoe.models.unet.backbone import UNET
from mamoe.models.wrapped import unwrapped
from mamoe.models.zimage.backbone import Z_IMAGE

BACKBONES = (UNET, PIXART, FLUX, FLUX2, SD3, QWEN_IMAGE, Z_IMAGE)

# What keeps layouts from networks of diffusers that people ask for, tried with one block each.
_LACKING = {
    "SanaTransformer2DModel": "its feed-forward is a convolution, which carries a region's text a cell further in "
    "every block and leaves no place for experts of single cells",
}


def backbone_of(network: Any) -> Backbone:
    """The family of a network, compiled or not, ours or stock, with a ControlNet-XS branch or without.

    Raises:
        ConfigError: none that layouts can steer; says which ones, and what it would need.
    """
    plain = unwrapped(network)
    return backbone_of_class(type(getattr(plain, "base", plain)))


def backbone_of_class(kind: type[Any]) -> Backbone:
    """The family of a class; see :func:`backbone_of`."""
    for backbone in BACKBONES:
        if issubclass(kind, backbone.stock):
            return backbone
    raise ConfigError(_unknown(kind.__name__))


def _unknown(name: str) -> str:
    known = ", ".join(backbone.stock.__name__ for backbone in BACKBONES)
    lacks = _LACKING.get(name, "it would need blocks with cross-attention that take a mask per cell, and a record here")
    return f"Layouts cannot steer a {name}: {lacks}. Known are {known}."


def backbone_in(index: Mapping[str, Any]) -> Backbone:
    """The family of the network that a pipeline's ``model_index.json`` names, by our class or diffusers'.

    Raises:
        ConfigError: see :func:`backbone_of`; or it names no denoising network at all.
    """
    parts = [part for part in ("unet", "transformer") if _named(index, part)]
    if not parts:
        raise ConfigError(
            f"A {index.get('_class_name')} has no network that layouts could steer: wanted a unet/ or a transformer/."
        )
    return backbone_named(str(_named(index, parts[0])))


def backbone_named(name: str) -> Backbone:
    """The family of a class by its name, ours or diffusers'; see :func:`backbone_of`."""
    for backbone in BACKBONES:
        if name in (backbone.stock.__name__, backbone.ours.__name__):
            return backbone
    raise ConfigError(_unknown(name))


def _named(index: Mapping[str, Any], part: str) -> str | None:
    return index.get(part, [None, None])[1]


def pyramid_of(network: Any) -> Pyramid:
    """The levels of a network of a known family.

    Raises:
        ConfigError: see :func:`backbone_of`.
    """
    return backbone_of(network).pyramid(unwrapped(network).config)


def is_sized(network: Any) -> bool:
    """Whether a network of a known family is told how large pictures are.

    Raises:
        ConfigError: see :func:`backbone_of`.
    """
    return backbone_of(network).sized(unwrapped(network).config)
