"""What is asked of a model that cannot follow it, because it was trained not to look there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mamoe.conditioning.regions import has_own_prompt
from mamoe.vocabulary.layout import LayoutSettings, RegionPolicy
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts


class WithoutEffect(UserWarning):
    """Something was given that changes nothing."""


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
