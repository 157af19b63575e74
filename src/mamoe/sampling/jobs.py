"""What a sampling job draws: the maps of a folder, and how many pictures of each.

<maps>/<name>.png  ->  one job each, or <name>_<variant>, <name>_0, <name>_1 …
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mamoe.data.condition import drawn_kind
from mamoe.data.folder.listing import Listing, bare_name, listed, some
from mamoe.data.folder.matching import Names, keyed
from mamoe.data.folder.prompts import raise_problems, read_instance_prompts, read_prompts_csv
from mamoe.data.folder.split import MAP_SUFFIXES, condition_of, namesakes
from mamoe.data.folder.variants import read_variants
from mamoe.data.reading.looks import PictureLook, look_at_picture
from mamoe.data.reading.pictures import SUFFIXES, picture_size
from mamoe.errors import DatasetError
from mamoe.models.control.call import control_of
from mamoe.sampling.editing import BORDER
from mamoe.sampling.effect import is_empty
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.sampling.records import JPEG
from mamoe.sampling.requests import segment_problems
from mamoe.vocabulary.map_kinds import why_no_suffix
from mamoe.vocabulary.panoptic import PanopticMap, read_panoptic, resized_panoptic
from mamoe.vocabulary.prompts import RegionPrompts

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Editing:
    """Pictures that are there already, of which some instances are drawn anew."""

    images: Path  # folder of pictures named as the maps, or one picture for one map
    instances: tuple[int, ...]  # segment ids
    border: int = BORDER  # pixels around them in which new and old fade into each other
    strength: float = 1.0  # in (0, 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutFolder:
    """A folder of maps, what belongs to them, and what is wanted of them."""

    panoptic: Path  # folder of panoptic PNGs, or one of them
    prompts: Path | None = None  # CSV with a prompt for every map; None: the global prompt is empty
    instance_prompts: Path | None = None  # JSON with prompts for some segments; the others take their class's prompt
    conditions: Path | None = None  # folder of condition pictures, named as the maps; None: drawn from the maps
    size: tuple[int, int] | None = None  # (H, W) in pixels to bring every map to; None: each map's own
    recursive: bool = False  # maps and condition pictures lie in folders inside the folders
    negative_prompt: str = ""  # what guidance leads away from, in all pictures
    vary: Path | None = None  # CSV of variants: every map is drawn once with each
    count: int = 1  # pictures of each map and variant, each with a seed of its own
    jpeg: bool = False  # JPEG in place of PNG
    editing: Editing | None = None

    @property
    def several(self) -> bool:
        """Whether a map may have more than one picture."""
        return self.count > 1 or self.vary is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One picture to draw."""

    panoptic: Path
    layout: str  # name of the map, relative to the folder of maps, / between folders
    name: str  # of the picture, relative to the folder of the job
    size: tuple[int, int]  # (H, W) of the picture in pixels; the map is brought to it
    prompts: RegionPrompts
    condition: Path | None = None  # None: drawn from the map, where the model takes one
    place: int = 0  # among the pictures of one map and variant
    image: Path | None = None  # to be changed; None: drawn from nothing
    empty: bool = False  # the map says nothing
    lost: int = 0  # instance prompts whose segments are too small to be there at this size
    looks: tuple[tuple[Path, PictureLook], ...] = ()  # its condition picture and the one to change, as they are read


def list_jobs(layouts: LayoutFolder, pipe: LayoutPipeline) -> list[Job]:
    """The jobs of every PNG in the folder, ordered by the numbers in the names.

    Args:
        layouts: the maps and what belongs to them.
        pipe: what will draw them; its taxonomy and its autoencoder's factor are what maps are checked against.

    Raises:
        DatasetError: the folder holds no maps, a map is unreadable, of a wrong size or with unknown classes, a prompt
            or condition picture is missing, or an instance prompt is for a segment the map does not have. All problems
            in one error.
    """
    recursive = layouts.recursive
    prompts, instance_prompts, conditions = layouts.prompts, layouts.instance_prompts, layouts.conditions
    panoptic, names = _maps(layouts)
    problems = namesakes(names, panoptic, "maps")
    texts = _by_name(prompts, read_prompts_csv, names, problems)
    by_segment = _by_name(instance_prompts, read_instance_prompts, names, problems)
    if instance_prompts is not None and not by_segment:
        problems.append(f"{instance_prompts} names none of the maps, such as {names[0]}: its keys are file names")
    variants = {"": ""} if layouts.vary is None else read_variants(layouts.vary)
    jobs: list[Job] = []
    shown = _conditions(conditions, pipe, recursive, problems)
    edited = None if layouts.editing is None else _pictures_of(layouts.editing.images, names, recursive)
    for name in names:
        path, text = panoptic / name, texts.get(name)
        if text is None and prompts is not None:
            problems.append(f"{path} has no prompt in {prompts}; add a row {name},<prompt>")
        try:
            layout = read_panoptic(path)
        except DatasetError as error:
            problems.append(str(error))
            continue
        segments = by_segment.get(name, {})
        wanted = layouts.size or layout.size
        problems += [f"{path}: {problem}" for problem in _map_problems(layout, segments, pipe)]
        condition = None if shown is None else condition_of(name, shown)
        if conditions is not None and condition is None:
            problems.append(f"{path} has no condition picture in {conditions}")
        image = None if edited is None else edited.get(name)
        if layouts.editing is not None:
            problems += [f"{path}: {text}" for text in _editing_problems(layouts.editing, layout, wanted, image)]
        used = None if conditions is None or condition is None else conditions / condition
        looks = _looked([one for one in (used, image) if one is not None], problems)
        lost = segments.keys() - resized_panoptic(layout, wanted).classes.keys() if segments else ()
        jobs += [
            Job(
                panoptic=path,
                layout=name,
                name=_name_of(name, variant, place if layouts.count > 1 else None, layouts.jpeg),
                size=wanted,
                prompts=RegionPrompts(global_prompt=", ".join(filter(None, (text, added))), by_segment=segments),
                condition=used,
                place=place,
                image=image,
                empty=is_empty(layout, pipe.settings),
                lost=len(lost),
                looks=looks,
            )
            for variant, added in variants.items()
            for place in range(layouts.count)
        ]
    raise_problems(problems, f"The sampling job of {layouts.panoptic}")
    return jobs


def _maps(layouts: LayoutFolder) -> tuple[Path, Sequence[str]]:
    """The folder of the maps, and their names in it."""
    panoptic = layouts.panoptic
    if panoptic.is_file() and panoptic.suffix.lower() in MAP_SUFFIXES:
        return panoptic.parent, (panoptic.name,)
    if not panoptic.is_dir():
        raise DatasetError(f"There is no folder {panoptic}; wanted one with panoptic PNGs, or one such PNG.")
    found = listed(panoptic, MAP_SUFFIXES, recursive=layouts.recursive)
    if not found.names:
        raise DatasetError(f"{panoptic} holds no panoptic PNGs (*.png){_elsewhere(found)}.")
    if found.inner:
        log.warning("%s: folders are not looked into (%s); --recursive draws their maps", panoptic, some(found.inner))
    return panoptic, found.names


def _name_of(layout: str, variant: str, place: int | None, jpeg: bool) -> str:
    # Neither a variant nor a number has a "_" in it, so different maps never meet in one name.
    further = [part for part in (variant, None if place is None else str(place)) if part]
    return "_".join([bare_name(layout), *further]) + (JPEG if jpeg else ".png")


def _looked(paths: Sequence[Path], problems: list[str]) -> tuple[tuple[Path, PictureLook], ...]:
    """Pictures read to their end, before anything is drawn."""
    found = []
    for path in paths:
        try:
            found.append((path, look_at_picture(path)))
        except DatasetError as error:
            problems.append(str(error))
    return tuple(found)


def _pictures_of(images: Path, names: Sequence[str], recursive: bool) -> dict[str, Path]:
    """The picture of every map that has one."""
    if images.is_file() and len(names) == 1:
        return {names[0]: images}
    if not images.is_dir():
        raise DatasetError(f"There is no folder {images} with the pictures to change.")
    there = Names(listed(images, SUFFIXES, recursive=recursive).names)
    found = {name: condition_of(name, there) for name in names}
    return {name: images / picture for name, picture in found.items() if picture is not None}


def _editing_problems(editing: Editing, layout: PanopticMap, size: tuple[int, int], image: Path | None) -> list[str]:
    if image is None:
        return [f"it has no picture in {editing.images}"]
    problems = []
    known = list(resized_panoptic(layout, size).classes)
    if missing := [segment for segment in editing.instances if segment not in known]:
        there = some([str(segment) for segment in known])
        problems.append(f"there is no segment {', '.join(map(str, missing))} to change; there are {there}")
    try:
        own = picture_size(image)
    except DatasetError:
        return problems  # which is said of the picture itself
    if own != size:
        problems.append(f"its picture {image} has size {own} (H, W), wanted {size}: its pixels are to be kept")
    return problems


def _conditions(folder: Path | None, pipe: LayoutPipeline, recursive: bool, problems: list[str]) -> Names | None:
    """The condition pictures of a folder, if one is given."""
    takes = control_of(pipe.unet) is not None
    if folder is None:
        if takes and drawn_kind(pipe.config["condition"]) is None:
            problems.append("the model was trained with condition pictures from files: name a folder of them")
        return None
    if not takes:
        problems.append(f"the model takes no condition pictures: leave {folder} out")
    if not folder.is_dir():
        problems.append(f"there is no folder of condition pictures {folder}")
        return None
    return Names(listed(folder, SUFFIXES, recursive=recursive).names)


def _map_problems(panoptic: PanopticMap, segments: Mapping[int, str], pipe: LayoutPipeline) -> list[str]:
    problems = segment_problems(panoptic, segments)
    if pipe.settings is not None:
        problems += pipe.settings.taxonomy.check(panoptic)
    return problems


def _by_name(
    path: Path | None, read: Callable[[Path], Mapping[str, T]], names: Sequence[str], problems: list[str]
) -> dict[str, T]:
    """What a text file says of each map. It may speak of other maps too, but not unclearly of these."""
    if path is None:
        return {}
    given = read(path)
    meant = keyed(given, names)
    near = {key: f"no map has that name{hint}" for key, hint in meant.strange.items() if hint}
    problems += [f"{path}, {key!r}: {reason}" for key, reason in {**meant.wrong, **near}.items()]
    return {name: given[key] for name, key in meant.key_of.items()}


def _elsewhere(found: Listing) -> str:
    """What a folder without maps holds instead."""
    if found.inner:
        return f", but folders ({some(found.inner)}): --recursive looks into them"
    if found.others:
        return f"; {found.others[0]} there is none, {why_no_suffix(Path(found.others[0]).suffix)}"
    return ""
