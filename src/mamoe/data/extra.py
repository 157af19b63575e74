"""Users' torchvision transforms on a picture and its map: what they uncover is void, and ``fill`` is the picture's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torchvision import tv_tensors

from mamoe.types import ConfigError

_KINDS = {name: getattr(tv_tensors, name) for name in ("BoundingBoxes", "Image", "Mask", "Video")}


def with_map_fill(transform: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a transform, whatever it is nested in, that fills the planes of maps with 0 and pictures as it did.

    torchvision gives a plain ``fill`` to pictures and masks alike.

    Raises:
        ConfigError: ``fill`` is a mapping with keys that torchvision does not know.
    """
    copy = deepcopy(transform)
    for part in _parts(copy):
        given = vars(part).get("_fill")
        if isinstance(given, Mapping):
            fills = {_kind(key, transform): fill for key, fill in given.items()}
            part._fill = {"others": 0, **fills, tv_tensors.Mask: 0}
    return copy


def apply_extra(
    extra: Sequence[Callable[..., Any]], image: Tensor, planes: Tensor, *, void_id: int
) -> tuple[UInt8[Tensor, "3 H W"], UInt8[Tensor, "P H W"]]:
    """Run users' transforms on the pair; pixels they bring in from outside become void without a segment.

    Planes beyond the map's three are moved with them and become 0 there.

    Raises:
        ConfigError: a transform fails, or changes the size or the dtype.
    """
    wanted = tuple(image.shape)
    # Two constant planes tell what comes from outside: no one number that fills both is right for both.
    constants = torch.tensor([1, 2], dtype=torch.uint8)[:, None, None]
    ids = torch.cat([planes, constants.expand(2, *planes.shape[1:])])
    for transform in extra:
        try:  # wrapped anew each time: of what ToPureTensor leaves, the next one would move the picture alone
            image, ids = transform(tv_tensors.Image(image), tv_tensors.Mask(ids))
        except Exception as error:
            raise ConfigError(f"The extra transform {transform} fails on a picture and its map: {error}") from error
        if tuple(image.shape) != wanted or image.dtype != torch.uint8 or ids.shape[-2:] != image.shape[-2:]:
            raise ConfigError(
                f"An extra transform must keep the size and bytes of the picture {wanted}, but {transform} made "
                f"{image.dtype} {tuple(image.shape)}. Resize by `size` and leave scaling to the model."
            )
    moved = ids.as_subclass(Tensor)
    plain, inside = moved[:-2], (moved[-2:] == constants).all(dim=0)
    outside = torch.zeros(len(plain), 1, 1, dtype=torch.uint8)
    outside[2] = void_id
    return image.as_subclass(Tensor), torch.where(inside, plain, outside)


def _parts(transform: Any) -> Iterator[Any]:
    """A transform and all that it holds: Compose, RandomApply, RandomChoice and RandomOrder hold plain lists."""
    for part in transform.modules() if isinstance(transform, nn.Module) else [transform]:
        yield part
        held = getattr(part, "transforms", None)
        for inner in held if isinstance(held, list | tuple) else ():
            yield from _parts(inner)


def _kind(key: Any, transform: Callable[..., Any]) -> Any:
    if isinstance(key, str) and key in _KINDS:  # as YAML names it
        return _KINDS[key]
    if isinstance(key, str) and key != "others":
        raise ConfigError(
            f"The extra transform {transform} has a fill for {key!r}; its keys are {', '.join(_KINDS)} and others. "
            "Maps need none: what is uncovered there is void."
        )
    return key
