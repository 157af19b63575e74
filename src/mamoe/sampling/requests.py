"""What is asked of the pipeline, picture by picture, and everything that can be wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL.Image import Image

from mamoe.data.reading.pictures import as_rgb
from mamoe.errors import MamoeError
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts

InstancePrompts = Mapping[int, str]
ConditionPicture = Image | np.ndarray  # the latter u8[H W 3], RGB
_MOST_LISTED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One picture to be drawn."""

    prompts: RegionPrompts
    panoptic: PanopticMap | None  # None: by the prompt alone
    condition: UInt8[np.ndarray, "H W 3"] | None = None  # None: drawn from the map, where the model takes one


def gather_requests(
    prompt: str | Sequence[str] | None,
    panoptic: PanopticMap | Sequence[PanopticMap] | None,
    instance_prompts: InstancePrompts | Sequence[InstancePrompts] | None,
    condition: ConditionPicture | Sequence[ConditionPicture] | None = None,
) -> list[Request]:
    """One request per picture. Lists must be of one length; what is given once holds for every picture.

    Raises:
        MamoeError: lists of different lengths, instance prompts without a map or for a segment that is not in it, maps
            of different sizes. All problems in one error.
    """
    lists = {
        "prompt": prompt,
        "panoptic": panoptic,
        "instance_prompts": instance_prompts,
        "condition": condition,
    }
    lengths = {name: len(value) for name, value in lists.items() if isinstance(value, list | tuple)}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise MamoeError(f"Lists must be of one length and hold something, got {lengths}. Give one entry per picture.")
    count = max(lengths.values(), default=1)
    texts, maps, by_segment, conditions = (_one_each(value, count) for value in lists.values())
    problems = [
        f"picture {number}: {problem}"
        for number, request in enumerate(zip(texts, maps, by_segment, strict=True))
        for problem in _problems(*request)
    ]
    sizes = sorted({tuple(m.size) for m in maps if isinstance(m, PanopticMap)})
    if len(sizes) > 1:
        problems.append(f"maps of different sizes (H, W) cannot share a call: {sizes}; make one call per size")
    if any(m is None for m in maps) and sizes:
        problems.append("some pictures have a map and some have none; make two calls")
    if problems:
        raise MamoeError("The pipeline cannot draw this:\n" + "\n".join(f"- {problem}" for problem in problems))
    return [
        Request(
            prompts=RegionPrompts(global_prompt=text or "", by_segment=segments or {}),
            panoptic=m,
            condition=None if shown is None else as_rgb(shown) if isinstance(shown, Image) else np.array(shown),
        )
        for text, m, segments, shown in zip(texts, maps, by_segment, conditions, strict=True)
    ]


def picture_size(
    panoptic: PanopticMap | None, height: int | None, width: int | None, default: tuple[int, int], factor: int
) -> tuple[int, int]:
    """(H, W) in pixels: the map's, or the size asked for, or the model's ``default``.

    Raises:
        MamoeError: the size differs from the map's, or is not divisible by ``factor``, the autoencoder's.
    """
    wanted = panoptic.size if panoptic is not None else default
    size = (height or wanted[0], width or wanted[1])
    if panoptic is not None and size != panoptic.size:
        raise MamoeError(
            f"The map has size {panoptic.size} (H, W), but {size} was asked for. Leave out height and width, or "
            "resize the map (nearest neighbour)."
        )
    if size[0] % factor or size[1] % factor or min(size) < factor:
        nearest = tuple(max(factor, round(side / factor) * factor) for side in size)
        raise MamoeError(
            f"Height and width must be divisible by {factor}, got {size}. The nearest size is {nearest}: crop or "
            f"resize{' the map (nearest neighbour)' if panoptic is not None else ''}."
        )
    return size


def generators_for(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[torch.Generator]:
    """One generator per picture, so that no picture depends on its batch mates.

    One generator for several pictures seeds one for each; None takes fresh entropy.

    Raises:
        MamoeError: a list of another length than ``count``.
    """
    if isinstance(generator, list | tuple):
        if len(generator) != count:
            raise MamoeError(f"Wanted one generator per picture ({count}), got {len(generator)}.")
        return list(generator)
    if isinstance(generator, torch.Generator):
        if count == 1:
            return [generator]
        seeds = torch.randint(2**63 - 1, (count,), generator=generator, device=generator.device).tolist()
        return [torch.Generator(generator.device).manual_seed(seed) for seed in seeds]
    fresh = [torch.Generator() for _ in range(count)]
    for one in fresh:
        one.seed()
    return fresh


def _one_each(value, count: int) -> list:
    return list(value) if isinstance(value, list | tuple) else [value] * count


def _problems(text, panoptic, by_segment) -> list[str]:
    problems = []
    if text is not None and not isinstance(text, str):
        problems.append(f"a prompt is text, got {text!r:.60}")
    if panoptic is not None and not isinstance(panoptic, PanopticMap):
        problems.append(f"a map is a PanopticMap, got {type(panoptic).__name__}; read one with PanopticMap.read(path)")
    elif by_segment and isinstance(panoptic, PanopticMap):
        problems += segment_problems(panoptic, by_segment)
    elif by_segment:
        problems.append("instance prompts need a panoptic map that says where the instances are")
    return problems


def segment_problems(panoptic: PanopticMap, by_segment: InstancePrompts) -> list[str]:
    """What is wrong with the segment ids of instance prompts; empty when the map has them all."""
    known = list(panoptic.classes)
    unknown = [segment for segment in by_segment if segment not in known]
    if not unknown:
        return []
    more = f" and {len(known) - _MOST_LISTED} more" if len(known) > _MOST_LISTED else ""
    return [f"there are instance prompts for segments {unknown}, but the map has {known[:_MOST_LISTED]}{more}"]
