"""The layouts of a plan on disk, as a sampling job takes them.

    <folder>/maps/<name>.png  prompts.csv  instance_prompts.json  layouts.json

Maps are at the size they are drawn at. ``layouts.json`` says where each comes from. The folder grows layout by layout
and can be gone on with; it is there as a whole or not at all.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.prompts import HEADER
from mamoe.errors import DatasetError
from mamoe.prepare.job import Records, made_folder
from mamoe.prepare.labelled import MANNER
from mamoe.prepare.record import json_of
from mamoe.randomness import generator_for
from mamoe.synthesis.mixing import Cutout, Scene, cut_out, mirrored, pasted, shifts_of
from mamoe.synthesis.plan import Planned
from mamoe.synthesis.survey import MapFacts
from mamoe.vocabulary.panoptic import write_panoptic
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.taxonomy import Taxonomy

MAPS, PROMPTS, INSTANCE_PROMPTS, LAYOUTS = "maps", "prompts.csv", "instance_prompts.json", "layouts.json"
_MOST = 2  # instances of other maps in one layout
_DONORS, _PLACES = 8, 8  # how many instances, and places for each, are tried


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Maps:
    """Where layouts come from."""

    source: LayoutDataset
    groups: Mapping[str, frozenset[int]]  # segments that hold several things, by ``SPLIT/NAME``
    donors: Mapping[int, Sequence[tuple[int, int]]]  # class number -> (place of the map, segment) that may be moved
    seed: int

    @property
    def taxonomy(self) -> Taxonomy:
        return self.source.taxonomy

    @property
    def split(self) -> str:
        """The folder of the split's files; those held out of ``train`` lie there."""
        return self.source.folder.name

    def scene(self, place: int) -> Scene:
        """A map of the data set with its prompts."""
        sample = self.source[place]
        crowd = self.groups.get(f"{self.split}/{sample.key}", frozenset())
        return Scene(panoptic=sample.panoptic, prompts=sample.prompts, groups=crowd)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    planned: Planned

    @property
    def key(self) -> str:
        return self.planned.name


def donors_of(facts: Sequence[MapFacts], rare: Sequence[int]) -> dict[int, list[tuple[int, int]]]:
    """The instances that may be put into other maps, by class: of the rare things, or of all where none is rare."""
    found: dict[int, list[tuple[int, int]]] = {}
    for one in facts:
        for segment, number in one.movable:
            found.setdefault(number, []).append((one.place, segment))
    chosen = [number for number in sorted(found) if number in rare] or sorted(found)
    return {number: found[number] for number in chosen}


def write_layouts(
    folder: Path,
    planned: Sequence[Planned],
    maps: Maps,
    identity: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Make the folder, unless it is there.

    Args:
        folder: see above.
        planned: the layouts.
        maps: where they come from.
        identity: texts that are the same for the same layouts alone.
        progress: called with (layouts done, layouts in all).

    Raises:
        DatasetError: a map cannot be read.
    """
    made_folder(
        folder,
        identity,
        [_Task(planned=one) for one in planned],
        partial(_write_all, maps),
        _finish,
        manner=MANNER,
        progress=progress,
    )


def read_layouts(folder: Path) -> dict[str, dict[str, Any]]:
    """What ``layouts.json`` says of every layout, by its name.

    Raises:
        DatasetError: it cannot be read.
    """
    path = folder / LAYOUTS
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"Cannot read {path}: {error}. Remove {folder}; the layouts are then made again.") from None


def composed(planned: Planned, maps: Maps) -> tuple[Scene, list[dict[str, Any]]]:
    """The layout of a plan, and what was put into it: from which map, segments there -> here, pixels to the right."""
    scene, put = maps.scene(planned.place), []
    if planned.mix and maps.donors:
        generator = generator_for(maps.seed, "mix", planned.number)
        for _ in range(_DONORS):
            if len(put) == _MOST:
                break
            found = _put_one(scene, planned.place, maps, generator)
            if found is not None:
                scene, told = found
                put.append(told)
    return (mirrored(scene) if planned.flip else scene), put


def _put_one(scene: Scene, own: int, maps: Maps, generator: Generator) -> tuple[Scene, dict[str, Any]] | None:
    numbers = list(maps.donors)
    candidates = maps.donors[numbers[_drawn(len(numbers), generator)]]
    place, segment = candidates[_drawn(len(candidates), generator)]
    if place == own:
        return None
    other = maps.scene(place)
    if other.panoptic.size != scene.panoptic.size or segment not in other.panoptic.classes:
        return None
    cutout = cut_out(other, segment, maps.taxonomy)
    if cutout is None:
        return None
    found = _placed(scene, cutout, maps.taxonomy, generator)
    if found is None:
        return None
    together, new, shift = found
    return together, {"from": f"{maps.split}/{maps.source.keys[place]}", "segments": new, "shift": shift}


def _placed(
    scene: Scene, cutout: Cutout, taxonomy: Taxonomy, generator: Generator
) -> tuple[Scene, dict[int, int], int] | None:
    shifts = shifts_of(cutout)
    for _ in range(_PLACES):
        shift = shifts[_drawn(len(shifts), generator)]
        found = pasted(scene, cutout, shift, taxonomy)
        if found is not None:
            return *found, shift
    return None


def _drawn(count: int, generator: Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _write_all(maps: Maps, stage: Path, tasks: Sequence[_Task]) -> list[dict[str, Any] | str]:
    return [_write(maps, stage, task.planned) for task in tasks]


def _write(maps: Maps, stage: Path, planned: Planned) -> dict[str, Any] | str:
    try:
        scene, put = composed(planned, maps)
    except DatasetError as error:
        return str(error)
    (stage / MAPS).mkdir(exist_ok=True)
    write_panoptic(scene.panoptic, stage / MAPS / f"{planned.name}.png")
    return {
        "map": f"{maps.split}/{planned.key}",
        "flipped": planned.flip,
        "pasted": put,
        "groups": sorted(scene.groups & scene.panoptic.classes.keys()),
        "prompt": scene.prompts.global_prompt,
        "instance_prompts": {str(i): text for i, text in sorted(scene.prompts.by_segment.items())},
    }


def _finish(stage: Path, records: Records) -> None:
    rows = dict(sorted(records.items()))
    with (stage / PROMPTS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows((f"{name}.png", row["prompt"]) for name, row in rows.items())
    by_segment = {f"{name}.png": row["instance_prompts"] for name, row in rows.items()}
    (stage / INSTANCE_PROMPTS).write_text(json_of(by_segment), encoding="utf-8")
    (stage / LAYOUTS).write_text(json_of(rows), encoding="utf-8")


def prompts_of(row: Mapping[str, Any]) -> RegionPrompts:
    """The prompts of a layout as :func:`read_layouts` gives it."""
    by_segment = {int(segment): text for segment, text in row["instance_prompts"].items()}
    return RegionPrompts(global_prompt=row["prompt"], by_segment=by_segment)
