"""Plain captions and prompts made of the classes a map holds."""

from __future__ import annotations

import re
from collections.abc import Set

import numpy as np
from jaxtyping import Int64

from mamoe.vocabulary.panoptic import PanopticMap, class_pixels
from mamoe.vocabulary.taxonomy import Taxonomy

_MOST_NAMED = 3  # of things, and of stuff
_LEAST_STUFF = 0.02  # share of the pixels from which stuff is worth a word
_IRREGULAR = {"knife": "knives", "man": "men", "mouse": "mice", "person": "people", "sheep": "sheep", "woman": "women"}


def describe(
    panoptic: PanopticMap,
    taxonomy: Taxonomy,
    place: str,
    groups: Set[int] = frozenset(),
    pixels: Int64[np.ndarray, "256"] | None = None,
) -> str:
    """A caption such as "a street with cars, a person, road and sky": the largest things, then the largest stuff.

    Args:
        panoptic: the map.
        taxonomy: names its classes.
        place: how the caption begins.
        groups: segments that hold several of their thing class: "cars", however few segments there are.
        pixels: of every class id, where they are counted already.
    """
    pixels = class_pixels(panoptic.class_id) if pixels is None else pixels
    instances = np.bincount(np.array([*panoptic.classes.values()], dtype=np.int64), minlength=256)
    grouped = {panoptic.classes[segment] for segment in groups}
    present = sorted((row for row in taxonomy.classes if pixels[row.id]), key=lambda row: -pixels[row.id])
    things = [
        _plural(_noun(row.prompt)) if instances[row.id] > 1 or row.id in grouped else _with_article(_noun(row.prompt))
        for row in present
        if row.is_thing
    ]
    stuff = [_noun(row.prompt) for row in present if not row.is_thing]
    large = [pixels[row.id] >= _LEAST_STUFF * panoptic.class_id.size for row in present if not row.is_thing]
    words = things[:_MOST_NAMED] + [word for word, keep in zip(stuff, large, strict=True) if keep][:_MOST_NAMED]
    if not words:
        return place
    return f"{place} with " + (words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}")


def of_a_group(prompt: str) -> str:
    """The prompt of a segment that holds several things of the class with that prompt: "a group of cars"."""
    return f"a group of {_plural(_noun(prompt))}"


def words_of(name: str) -> str:
    """A class name as words: "traffic_light" and "TrafficLight" are "traffic light"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[-_\s]+", " ", name).strip()
    return spaced.lower() or name


def _noun(prompt: str) -> str:
    return re.sub(r"^(an?|the) ", "", prompt.split(",")[0].strip()) or prompt


def _plural(noun: str) -> str:
    *before, last = noun.split(" ")
    if last in _IRREGULAR:
        return " ".join([*before, _IRREGULAR[last]])
    if noun.endswith(("us", "ss", "x", "ch", "sh")):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun if noun.endswith("s") else noun + "s"


def _with_article(noun: str) -> str:
    if noun.endswith("s") and not noun.endswith(("us", "ss")):
        return noun
    return ("an " if noun[0] in "aeiou" else "a ") + noun
