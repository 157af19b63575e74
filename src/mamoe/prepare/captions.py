"""Plain captions made of the classes a map holds."""

from __future__ import annotations

import numpy as np

from mamoe.taxonomy import Taxonomy
from mamoe.types import PanopticMap

_MOST_NAMED = 3  # of things, and of stuff
_LEAST_STUFF = 0.02  # share of the pixels from which stuff is worth a word
_IRREGULAR = {"knife": "knives", "mouse": "mice", "person": "people", "sheep": "sheep"}


def describe(panoptic: PanopticMap, taxonomy: Taxonomy, place: str) -> str:
    """A caption such as "a street with cars, a person, road and sky": the largest things, then the largest stuff."""
    pixels = np.bincount(panoptic.class_id.ravel(), minlength=256)
    instances = np.bincount(np.array([*panoptic.classes.values()], dtype=np.int64), minlength=256)
    present = sorted((row for row in taxonomy.classes if pixels[row.id]), key=lambda row: -pixels[row.id])
    things = [
        _plural(row.name) if instances[row.id] > 1 else _with_article(row.name) for row in present if row.is_thing
    ]
    stuff = [row.prompt.split(",")[0] for row in present if not row.is_thing]
    large = [pixels[row.id] >= _LEAST_STUFF * panoptic.class_id.size for row in present if not row.is_thing]
    words = things[:_MOST_NAMED] + [word for word, keep in zip(stuff, large, strict=True) if keep][:_MOST_NAMED]
    if not words:
        return place
    return f"{place} with " + (words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}")


def _plural(noun: str) -> str:
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("us", "ss", "x", "ch", "sh")):
        return noun + "es"
    return noun if noun.endswith("s") else noun + "s"


def _with_article(noun: str) -> str:
    if noun.endswith("s") and not noun.endswith(("us", "ss")):
        return noun
    return ("an " if noun[0] in "aeiou" else "a ") + noun
