"""Folders of layouts to folders of pictures.

    <maps>/<name>.png [+ prompts CSV, instance prompts JSON]  ->  <out>/<name>.png, <name>.json, contact_sheet.png

Maps in folders give pictures in folders: a name is relative to its folder, and text files name maps as those of a data
set name pictures (see :mod:`mamoe.data.folder.matching`).
A job can be stopped at any moment and started again: finished pictures are kept and skipped. A picture's record (JSON)
is written before the picture itself, so a record without a picture is work to do, and a picture without a record
belongs to somebody else and is never overwritten (see :mod:`mamoe.sampling.filling`).
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from mamoe.data.condition import drawn_kind
from mamoe.data.encoded import content_of, content_of_picture
from mamoe.data.folder.listing import Listing, bare_name, listed, some
from mamoe.data.folder.matching import Names, keyed
from mamoe.data.folder.prompts import raise_problems, read_instance_prompts, read_prompts_csv
from mamoe.data.folder.split import MAP_SUFFIXES, condition_of, namesakes
from mamoe.data.reading.pictures import CONTACT_SHEET, SUFFIXES, read_picture
from mamoe.errors import DatasetError
from mamoe.machine.precision import format_name
from mamoe.machine.processes import Processes
from mamoe.models.control.call import control_of
from mamoe.randomness import derive_seed
from mamoe.sampling.batches import batches_by_size, draw
from mamoe.sampling.components import load_components
from mamoe.sampling.effect import WithoutEffect, without_effect
from mamoe.sampling.fast import speed_up
from mamoe.sampling.filling import fill
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.sampling.records import contact_sheet, key_of, model_hash, record_of, with_mode, write_picture
from mamoe.sampling.requests import Request, segment_problems
from mamoe.vocabulary.drawing import DRAWING, Drawing
from mamoe.vocabulary.map_kinds import why_no_suffix
from mamoe.vocabulary.panoptic import PanopticMap, read_panoptic, resized_panoptic
from mamoe.vocabulary.prompts import RegionPrompts

log = logging.getLogger(__name__)
T = TypeVar("T")

_MAY_MOVE = ("panoptic", "condition")  # paths in a record
_CONDITION_HASH = "condition_hash"  # of the condition picture's file; not there where it was drawn from the map


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutFolder:
    """A folder of maps, and what belongs to them."""

    panoptic: Path  # panoptic PNGs
    prompts: Path | None = None  # CSV with a prompt for every map; None: the global prompt is empty
    instance_prompts: Path | None = None  # JSON with prompts for some segments; the others take their class's prompt
    conditions: Path | None = None  # folder of condition pictures, named as the maps; None: drawn from the maps
    size: tuple[int, int] | None = None  # (H, W) in pixels to bring every map to; None: each map's own
    recursive: bool = False  # maps and condition pictures lie in folders inside the folders


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One picture to draw."""

    panoptic: Path
    name: str  # of the picture, relative to the folder of the job, / between folders
    size: tuple[int, int]  # (H, W) of the picture in pixels; the map is brought to it
    prompts: RegionPrompts
    condition: Path | None = None  # None: drawn from the map, where the model takes one


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderResult:
    """What a job did."""

    pictures: tuple[Path, ...]  # all of the folder's pictures, in order
    drawn: int  # of these, drawn now
    contact_sheet: Path


def load_run(run_dir: str | Path, checkpoint: str = "latest", ema: bool = True, **options: Any) -> LayoutPipeline:
    """The pipeline of a training run; see :func:`mamoe.sampling.components.load_components`."""
    return LayoutPipeline(**load_components(Path(run_dir), checkpoint=checkpoint, ema=ema, **options))


def list_jobs(layouts: LayoutFolder, pipe: LayoutPipeline) -> list[Job]:
    """A job for every PNG in the folder, ordered by the numbers in the names.

    Args:
        layouts: the maps and what belongs to them.
        pipe: what will draw them; its taxonomy and its autoencoder's factor are what maps are checked against.

    Raises:
        DatasetError: the folder holds no maps, a map is unreadable, of a wrong size or with unknown classes, a prompt
            or condition picture is missing, or an instance prompt is for a segment the map does not have. All problems
            in one error.
    """
    panoptic, recursive = layouts.panoptic, layouts.recursive
    prompts, instance_prompts, conditions = layouts.prompts, layouts.instance_prompts, layouts.conditions
    if not panoptic.is_dir():
        raise DatasetError(f"There is no folder {panoptic}; wanted one with panoptic PNGs.")
    found = listed(panoptic, MAP_SUFFIXES, recursive=recursive)
    if not found.names:
        raise DatasetError(f"{panoptic} holds no panoptic PNGs (*.png){_elsewhere(found)}.")
    problems = namesakes(found.names, panoptic, "maps")
    if found.inner:
        log.warning("%s: folders are not looked into (%s); --recursive draws their maps", panoptic, some(found.inner))
    texts = _by_name(prompts, read_prompts_csv, found.names, problems)
    by_segment = _by_name(instance_prompts, read_instance_prompts, found.names, problems)
    if instance_prompts is not None and not by_segment:
        problems.append(f"{instance_prompts} names none of the maps, such as {found.names[0]}: its keys are file names")
    jobs = []
    shown = _conditions(conditions, pipe, recursive, problems)
    for name in found.names:
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
        problems += [f"{path}: {problem}" for problem in _map_problems(layout, segments, wanted, pipe)]
        condition = None if shown is None else condition_of(name, shown)
        if conditions is not None and condition is None:
            problems.append(f"{path} has no condition picture in {conditions}")
        given = RegionPrompts(global_prompt=text or "", by_segment=segments)
        jobs.append(
            Job(
                panoptic=path,
                name=f"{bare_name(name)}.png",
                size=wanted,
                prompts=given,
                condition=None if conditions is None or condition is None else conditions / condition,
            )
        )
    raise_problems(problems, f"The sampling job of {panoptic}")
    return jobs


def sample_folder(
    pipe: LayoutPipeline,
    layouts: LayoutFolder,
    out: Path,
    drawing: Drawing = DRAWING,
    *,
    processes: Processes | None = None,
    progress: Callable[[int, int], None] | None = None,
    warn: Callable[[str], None] | None = None,
    fast: bool = False,
) -> FolderResult:
    """Draw a picture for every map of a folder, and a contact sheet of maps and pictures.

    A picture depends on its map, its prompts, the drawing and its file name: not on the other files.
    Pictures already there are skipped if their records say the same.

    Args:
        pipe: what draws.
        layouts: what is drawn; with ``recursive`` the pictures get the same folders as the maps.
        out: is made if needed.
        drawing: how; its seed is that of the whole job.
        processes: those that share the work, batch by batch; None: this one alone. All return when all is done.
        progress: called with (pictures done, pictures in all) of this process, once at the start and after every batch.
        warn: told of what was given and has no effect; None: Python's warnings.
        fast: compile the model's blocks first.

    Raises:
        DatasetError: bad input (see :func:`list_jobs`), or ``out`` holds pictures this job would have to overwrite.
    """
    processes = processes or Processes()
    if layouts.recursive and out.resolve().is_relative_to(layouts.panoptic.resolve()):
        raise DatasetError(
            f"{out} lies among the maps of {layouts.panoptic}, which would be drawn from again: choose another."
        )
    jobs = list_jobs(layouts, pipe)
    if processes.first:
        tell = warn or partial(warnings.warn, category=WithoutEffect, stacklevel=2)
        maps = (read_panoptic(job.panoptic) for job in jobs)
        for line in without_effect(
            pipe.settings, [job.prompts for job in jobs], maps, shown=control_of(pipe.unet) is not None
        ):
            tell(line)
    model = {"scheduler": type(pipe.scheduler).__name__, "model_hash": model_hash(pipe)}
    if pipe.dtype != torch.float32:  # records from before drew in float32 and do not say so
        model["precision"] = format_name(pipe.dtype)
    records = [_record_of(job, drawing, model) for job in jobs]
    _check_out(out, jobs, records)
    drawn = sum(not (out / job.name).exists() for job in jobs)
    if fast and drawn:
        speed_up(pipe, jobs[0].size, warn or partial(warnings.warn, stacklevel=2))

    def make(batch: list[int]) -> list[Image.Image]:
        requests, seeds = [_request(jobs[i]) for i in batch], [records[i]["seed"] for i in batch]
        return draw(pipe, requests, seeds, steps=drawing.steps, guidance_scale=drawing.scale)

    pictures = fill(
        out,
        [job.name for job in jobs],
        list(batches_by_size([job.size for job in jobs], drawing.batch_size)),
        make,
        record=records.__getitem__,
        processes=processes,
        progress=progress,
    )
    if processes.first:
        taxonomy = None if pipe.settings is None else pipe.settings.taxonomy
        sheet = contact_sheet([(job.panoptic, picture) for job, picture in zip(jobs, pictures, strict=True)], taxonomy)
        write_picture(sheet, out / CONTACT_SHEET)
    return FolderResult(pictures=pictures, drawn=drawn, contact_sheet=out / CONTACT_SHEET)


def _record_of(job: Job, drawing: Drawing, model: Mapping[str, Any]) -> dict[str, Any]:
    condition = {} if job.condition is None else _condition_record(job.condition)
    source = {"panoptic": str(job.panoptic), "panoptic_hash": content_of(job.panoptic)}
    seed = derive_seed(drawing.seed, "sample", key_of(job.name))
    return record_of(job.prompts, job.size, seed, drawing, **source, **condition, **model)


def _condition_record(path: Path) -> dict[str, str]:
    return {"condition": str(path), _CONDITION_HASH: content_of_picture(path)}


def _request(job: Job) -> Request:
    layout = resized_panoptic(read_panoptic(job.panoptic), job.size)
    # A segment too small for the picture's size is gone, and its prompt with it.
    kept = {segment: text for segment, text in job.prompts.by_segment.items() if segment in layout.classes}
    condition = None if job.condition is None else _resized(read_picture(job.condition), job.size)
    return Request(prompts=replace(job.prompts, by_segment=kept), panoptic=layout, condition=condition)


def _resized(picture: UInt8[np.ndarray, "H0 W0 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    if picture.shape[:2] == size:
        return picture
    return np.array(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BICUBIC))


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


def _map_problems(
    panoptic: PanopticMap, segments: Mapping[int, str], size: tuple[int, int], pipe: LayoutPipeline
) -> list[str]:
    factor = pipe.side_multiple
    problems = segment_problems(panoptic, segments)
    if any(side % factor for side in size):
        nearest = tuple(max(factor, round(side / factor) * factor) for side in size)
        problems.append(f"height and width must be divisible by {factor}, got {size}; nearest is {nearest}")
    if pipe.settings is not None:
        problems += pipe.settings.taxonomy.check(panoptic)
    return problems


def _check_out(out: Path, jobs: Sequence[Job], records: Sequence[Mapping[str, Any]]) -> None:
    problems = []
    for job, record in zip(jobs, records, strict=True):
        picture, path = out / job.name, _record_path(out, job)
        if job.name == CONTACT_SHEET:
            problems.append(f"{job.panoptic}: the name {CONTACT_SHEET} is taken by the contact sheet; rename the map")
        elif picture.exists() and not path.exists():
            problems.append(f"{picture} has no {path.name} beside it: it is not a picture of such a job")
        elif picture.exists():
            # A map may have moved since; what was drawn from it has not changed.
            old = _read_record(path)
            keys = dict.fromkeys([*record, _CONDITION_HASH])
            other = [key for key in keys if key not in _MAY_MOVE and old.get(key) != record.get(key)]
            if other:
                problems.append(f"{picture} was drawn with another {', '.join(other)}")
    if problems:
        problems.append("nothing is overwritten: choose another --out, or move these files away")
    raise_problems(problems, f"The output folder {out}")


def _read_record(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return with_mode(record) if isinstance(record, dict) else {}


def _record_path(out: Path, job: Job) -> Path:
    return out / f"{bare_name(job.name)}.json"


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
