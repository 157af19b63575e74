"""A clean data set with one fault planted in it: more than fifty kinds, each with where it must be found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mamoe.vocabulary.panoptic import read_panoptic_rgb


@dataclass(frozen=True, kw_only=True)
class Where:
    """What the check must say about a planted fault."""

    file: Path
    severity: str = "problem"
    line: int | None = None
    segment: int | None = None
    position: tuple[int, int] | None = None


FAULTS: dict[str, tuple[str, Callable[[Path], Where]]] = {}  # name -> (words that must be said, the planting)


def fault(words: str) -> Callable:
    def kept(plant: Callable[[Path], Where]) -> Callable[[Path], Where]:
        FAULTS[plant.__name__] = words, plant
        return plant

    return kept


def picture(data: Path, number: int = 1, split: str = "train") -> Path:
    return sorted((data / "images" / split).glob("scene*"))[number]


def panoptic(data: Path, number: int = 1, split: str = "train") -> Path:
    return sorted((data / "panoptic" / split).glob("scene*"))[number]


def table(data: Path) -> Path:
    return data / "prompts_train.csv"


def book(data: Path) -> Path:
    return data / "instance_prompts_train.json"


def with_line(data: Path, number: int, change: Callable[[str], str]) -> None:
    lines = table(data).read_text(encoding="utf-8").splitlines()
    lines[number - 1] = change(lines[number - 1])
    table(data).write_text("\n".join(lines) + "\n", encoding="utf-8")


def prompt_of_line(text: str) -> Callable[[str], str]:
    return lambda line: f"{line.partition(',')[0]},{text}"


def with_entries(data: Path, change: Callable[[dict], None]) -> None:
    entries = json.loads(book(data).read_text(encoding="utf-8"))
    change(entries)
    book(data).write_text(json.dumps(entries), encoding="utf-8")


def with_pixels(path: Path, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    rgb = read_panoptic_rgb(path).copy()
    changed = change(rgb)
    Image.fromarray(rgb if changed is None else changed).save(path)


def a_thing(path: Path) -> tuple[int, int]:
    """(segment, class) of the largest car in a map."""
    rgb = read_panoptic_rgb(path).astype(int)
    found = (rgb[..., 0] * 256 + rgb[..., 1])[rgb[..., 2] == 13]
    return int(np.bincount(found).argmax()), 13
