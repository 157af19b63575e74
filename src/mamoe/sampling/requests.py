"""What is asked of the pipeline, picture by picture, and everything that can be wrong with it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL.Image import Image

from mamoe.data.reading.pictures import as_rgb
from mamoe.errors import MamoeError
from mamoe.sampling.binding import ALWAYS, Binding, Share
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts, is_text

InstancePrompts = Mapping[int, str]
ConditionPicture = Image | np.ndarray  # the latter u8[H W 3], RGB
_MOST_LISTED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One picture to be drawn."""

    prompts: RegionPrompts
    panoptic: PanopticMap | None  # None: by the prompt alone
    condition: UInt8[np.ndarray, "H W 3"] | None = None  # None: drawn from the map, where the model takes one
    negative: RegionPrompts = field(default_factory=RegionPrompts)  # what guidance leads away from
    binding: Binding = ALWAYS  # when the prompts of segments bind


def gather_requests(
    prompt: str | Sequence[str] | None = None,
    panoptic: PanopticMap | Sequence[PanopticMap] | None = None,
    instance_prompts: InstancePrompts | Sequence[InstancePrompts] | None = None,
    condition: ConditionPicture | Sequence[ConditionPicture] | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    negative_instance_prompts: InstancePrompts | Sequence[InstancePrompts] | None = None,
    regions_from: Share | Sequence[Share] = 0.0,
    regions_until: Share | Sequence[Share] = 1.0,
) -> list[Request]:
    """One request per picture. Lists must be of one length; what is given once holds for every picture.

    Raises:
        MamoeError: lists of different lengths, instance prompts without a map or for a segment that is not in it, maps
            of different sizes, shares that are none. All problems in one error.
    """
    given = {
        "prompt": prompt,
        "panoptic": panoptic,
        "instance_prompts": instance_prompts,
        "condition": condition,
        "negative_prompt": negative_prompt,
        "negative_instance_prompts": negative_instance_prompts,
        "regions_from": regions_from,
        "regions_until": regions_until,
    }
    lengths = {name: len(value) for name, value in given.items() if isinstance(value, list | tuple)}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise MamoeError(f"Lists must be of one length and hold something, got {lengths}. Give one entry per picture.")
    count = max(lengths.values(), default=1)
    each = {name: _one_each(value, count) for name, value in given.items()}
    rows = [{name: values[i] for name, values in each.items()} for i in range(count)]
    problems = [f"picture {number}: {problem}" for number, row in enumerate(rows) for problem in _problems(row)]
    maps = each["panoptic"]
    sizes = sorted({tuple(m.size) for m in maps if isinstance(m, PanopticMap)})
    if len(sizes) > 1:
        problems.append(f"maps of different sizes (H, W) cannot share a call: {sizes}; make one call per size")
    if any(m is None for m in maps) and sizes:
        problems.append("some pictures have a map and some have none; make two calls")
    refuse(problems)
    return [_request(row) for row in rows]


GATHERED = inspect.signature(gather_requests).parameters.keys()


def refuse(problems: Sequence[str]) -> None:
    """Raise one error that lists why a call cannot be meant; nothing if there is no reason.

    Raises:
        MamoeError: there are some.
    """
    if problems:
        raise MamoeError("The pipeline cannot draw this:\n" + "\n".join(f"- {problem}" for problem in problems))


def picture_size(
    panoptic: PanopticMap | None, height: int | None, width: int | None, default: tuple[int, int]
) -> tuple[int, int]:
    """(H, W) in pixels: the map's, or the size asked for, or else ``default``.

    Raises:
        MamoeError: the size differs from the map's, or is less than a pixel.
    """
    wanted = panoptic.size if panoptic is not None else default
    size = (wanted[0] if height is None else height, wanted[1] if width is None else width)
    if panoptic is not None and size != panoptic.size:
        raise MamoeError(
            f"The map has size {panoptic.size} (H, W), but {size} was asked for. Leave out height and width, or "
            "resize the map (nearest neighbour)."
        )
    if min(size) < 1:
        raise MamoeError(f"Height and width must be at least 1, got {size}.")
    return size


def generators_for(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[torch.Generator]:
    """One generator per picture, so that no picture depends on its batch mates.

    One generator for several pictures seeds one for each; None takes fresh entropy.

    Raises:
        MamoeError: a list of another length than ``count``, or of something else.
    """
    given = generator if isinstance(generator, list | tuple) else [] if generator is None else [generator]
    if strange := [one for one in given if not isinstance(one, torch.Generator)]:
        raise MamoeError(
            f"A generator is a torch.Generator, got {strange[0]!r:.60}. A seed becomes one by "
            "torch.Generator().manual_seed(seed)."
        )
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


def _request(row: Mapping[str, Any]) -> Request:
    shown = row["condition"]
    return Request(
        prompts=RegionPrompts(global_prompt=row["prompt"] or "", by_segment=row["instance_prompts"] or {}),
        panoptic=row["panoptic"],
        condition=None if shown is None else as_rgb(shown) if isinstance(shown, Image) else np.array(shown),
        negative=RegionPrompts(
            global_prompt=row["negative_prompt"] or "", by_segment=row["negative_instance_prompts"] or {}
        ),
        binding=Binding(begin=row["regions_from"], end=row["regions_until"]),
    )


def _problems(row: Mapping[str, Any]) -> list[str]:
    panoptic, problems = row["panoptic"], []
    by_names = ("instance_prompts", "negative_instance_prompts")
    strange = [name for name in by_names if not isinstance(row[name], Mapping | None)]
    if strange:
        return [f"{name} are a mapping, segment id -> prompt; got {row[name]!r:.60}" for name in strange]
    given = [text for text in (row["prompt"], row["negative_prompt"]) if text is not None]
    for name in by_names:
        given += (row[name] or {}).values()
    problems += [f"a prompt is text, got {text!r:.60}" for text in given if not is_text(text)]
    if panoptic is not None and not isinstance(panoptic, PanopticMap):
        return [
            *problems,
            f"a map is a PanopticMap, got {type(panoptic).__name__}; read one with PanopticMap.read(path)",
        ]
    binding = Binding(begin=row["regions_from"], end=row["regions_until"])
    by_segment = {**(row["instance_prompts"] or {}), **(row["negative_instance_prompts"] or {})}
    if panoptic is None:
        if by_segment:
            problems.append("instance prompts need a panoptic map that says where the instances are")
        if binding != ALWAYS:
            problems.append("regions_from and regions_until need a panoptic map that says where the regions are")
        return problems
    return [*problems, *segment_problems(panoptic, by_segment), *binding.problems(list(panoptic.classes))]


def segment_problems(panoptic: PanopticMap, by_segment: InstancePrompts) -> list[str]:
    """What is wrong with the segment ids of instance prompts; empty when the map has them all."""
    known = list(panoptic.classes)
    unknown = [segment for segment in by_segment if segment not in known]
    if not unknown:
        return []
    text = [segment for segment in unknown if isinstance(segment, str)]
    if text:  # as JSON has them
        return [f"segment ids are whole numbers, got text: {text[:_MOST_LISTED]}; take int(id)"]
    more = f" and {len(known) - _MOST_LISTED} more" if len(known) > _MOST_LISTED else ""
    return [f"there are instance prompts for segments {unknown}, but the map has {known[:_MOST_LISTED]}{more}"]
