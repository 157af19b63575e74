"""What is asked of a model that cannot follow it, because it was trained not to look there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mamoe.conditioning.regions import has_own_prompt
from mamoe.sampling.binding import ALWAYS
from mamoe.sampling.requests import Request
from mamoe.vocabulary.layout import LayoutSettings, RegionPolicy
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts


class WithoutEffect(UserWarning):
    """Something was given that changes nothing."""


def call_without_effect(
    settings: LayoutSettings | None, requests: Sequence[Request], *, shown: bool, guided: bool, apart: bool
) -> list[str]:
    """What of a call of the pipeline changes nothing, and why; one line each.

    Args:
        settings: see :func:`without_effect`.
        requests: of the call.
        shown: see :func:`without_effect`.
        guided: there is a guidance that negative prompts could lead away from.
        apart: there is one on the layout by itself.
    """
    maps = [one.panoptic for one in requests]
    lines = without_effect(settings, [one.prompts for one in requests], maps, shown=shown)
    lines += binding_without_effect(settings, bound=any(one.binding != ALWAYS for one in requests))
    if apart and all(one is None for one in maps):
        lines.append("Guidance on the layout has no effect: there is no map.")
    lines += empty_said(sum(one is not None and is_empty(one, settings) for one in maps), len(maps))
    return lines + negative_without_effect(settings, [one.negative for one in requests], maps, guided=guided)


def negative_without_effect(
    settings: LayoutSettings | None,
    prompts: Sequence[RegionPrompts],
    maps: Sequence[PanopticMap | None],
    *,
    guided: bool,
) -> list[str]:
    """What of negative prompts changes nothing; arguments as of the functions beside this one."""
    if not any(one.global_prompt or one.by_segment for one in prompts):
        return []
    if not guided:
        return ["Negative prompts have no effect: without guidance (a scale of 1) nobody looks at them."]
    return [f"Negative prompts: {line}" for line in without_effect(settings, prompts, maps, shown=True)]


def binding_without_effect(settings: LayoutSettings | None, *, bound: bool) -> list[str]:
    """What of saying when prompts of segments bind (``bound``: somebody did) changes nothing."""
    if not bound or settings is None or settings.region_attention:
        return []
    return [
        "When prompts of segments bind has no effect: this model was trained with layout.region_attention=false, it "
        "reads the prompt of the whole picture alone."
    ]


def is_empty(panoptic: PanopticMap, settings: LayoutSettings | None) -> bool:
    """Whether a map says nothing: no segment, and no pixel of a class."""
    void = None if settings is None else settings.taxonomy.void_id
    return void is not None and not panoptic.classes and bool(np.all(panoptic.class_id == void))


def empty_said(empty: int, count: int) -> list[str]:
    """What to say of ``empty`` maps that say nothing, of ``count`` in all."""
    if not empty:
        return []
    which = "The map is" if count == 1 else f"{empty} of {count} maps are"
    return [f"{which} void all over and without a segment: such a picture is drawn by its prompt alone."]


def without_effect(
    settings: LayoutSettings | None,
    prompts: Sequence[RegionPrompts],
    maps: Iterable[PanopticMap | None],
    *,
    shown: bool,
) -> list[str]:
    """What of the prompts and maps of some pictures changes nothing, and why; one line each.

    Args:
        settings: those of the training; None: a model that knows no layout.
        prompts: one each per picture.
        maps: likewise; looked at only where their segments matter.
        shown: the model is shown a condition picture, which may be drawn from the map.
    """
    if settings is None:
        return []
    lines = []
    if not settings.global_prompt and any(one.global_prompt for one in prompts):
        lines.append(
            "The prompt of the whole picture has no effect: this model was trained with layout.global_prompt=false, "
            "so it never saw one."
        )
    if not (settings.region_attention or settings.moe or shown) and any(one is not None for one in maps):
        lines.append(
            "Panoptic maps have no effect but for their size: this model was trained with "
            "layout.region_attention=false and layout.moe=false."
        )
    given = [one.by_segment for one in prompts]
    if not any(given):
        return lines
    if not settings.region_attention:
        lines.append(
            "Instance prompts have no effect: this model was trained with layout.region_attention=false, it reads the "
            "prompt of the whole picture alone."
        )
    elif settings.policy is not RegionPolicy.ALL:
        unread = sum(
            panoptic is not None
            and segment in panoptic.classes
            and not has_own_prompt(panoptic.classes[segment], settings)
            for panoptic, by_segment in zip(maps, given, strict=True)
            for segment in by_segment
        )
        if unread:
            lines.append(
                f"{unread} of {sum(map(len, given))} instance prompts have no effect: this model was trained with "
                f"layout.policy={settings.policy}, other segments read the prompt of the whole picture alone."
            )
    return lines
