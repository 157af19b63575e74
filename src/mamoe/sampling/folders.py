"""Folders of layouts to folders of pictures.

    <maps>/<name>.png [+ prompts CSV, instance prompts JSON]  ->  <out>/<name>.png, <name>.json, contact_sheet.png

Maps in folders give pictures in folders: a name is relative to its folder, and text files name maps as those of a data
set name pictures (see :mod:`mamoe.data.folder.matching`). Which pictures there are to draw says
:mod:`mamoe.sampling.jobs`.
A job can be stopped at any moment and started again: finished pictures are kept and skipped. A picture's record (JSON)
is written before the picture itself, so a record without a picture is work to do, and a picture without a record
belongs to somebody else and is never overwritten (see :mod:`mamoe.sampling.filling`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from mamoe.data.check.readings import reading_notes
from mamoe.data.encoded import content_of, content_of_picture
from mamoe.data.folder.listing import bare_name
from mamoe.data.folder.prompts import raise_problems
from mamoe.data.reading.pictures import CONTACT_SHEET, read_picture
from mamoe.errors import ConfigError, DatasetError
from mamoe.machine.precision import format_name
from mamoe.machine.processes import Processes
from mamoe.models.backbones import backbone_of
from mamoe.models.control.call import control_of
from mamoe.randomness import derive_seed
from mamoe.sampling.batches import batches_by_size, draw
from mamoe.sampling.checks import call_problems
from mamoe.sampling.components import load_components
from mamoe.sampling.effect import (
    WithoutEffect,
    binding_without_effect,
    empty_said,
    negative_without_effect,
    without_effect,
)
from mamoe.sampling.fast import speed_up
from mamoe.sampling.filling import fill
from mamoe.sampling.finite import required_finite
from mamoe.sampling.jobs import Job, LayoutFolder, list_jobs
from mamoe.sampling.padding import padded_size, padding_said
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.sampling.records import JPEG, contact_sheet, key_of, model_hash, record_of, with_mode, write_picture
from mamoe.sampling.requests import Request, refuse
from mamoe.vocabulary.drawing import DRAWING, SAID, Drawing
from mamoe.vocabulary.panoptic import read_panoptic, resized_panoptic
from mamoe.vocabulary.prompts import RegionPrompts

_MAY_MOVE = ("panoptic", "condition", "image")  # paths in a record
_ALWAYS = {"prompt", "seed", "steps"}  # in every record
# What a record says where there is something to say; the hashes are of files.
_NOT_ALWAYS = (
    "condition_hash",
    "image_hash",
    "only_instances",
    "border",
    "strength",
    "negative_prompt",
    *SAID,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderResult:
    """What a job did."""

    pictures: tuple[Path, ...]  # all of the folder's pictures, in order
    drawn: int  # of these, drawn now
    contact_sheet: Path


def load_run(run_dir: str | Path, checkpoint: str = "latest", ema: bool = True, **options: Any) -> LayoutPipeline:
    """The pipeline of a training run; see :func:`mamoe.sampling.components.load_components`."""
    return LayoutPipeline(**load_components(Path(run_dir), checkpoint=checkpoint, ema=ema, **options))


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
    """Draw the pictures of every map of a folder, and a contact sheet of maps and pictures.

    A picture depends on its map, its prompts and its seed, which follows from that of the drawing, the map's name and
    the picture's place among those of the map: not on the other files.
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
        ConfigError: guidance on the layout of a model that knows none.
        MamoeError: more steps than the scheduler has, or none.
        DatasetError: bad input (see :func:`list_jobs`), or ``out`` holds pictures this job would have to overwrite.
    """
    processes = processes or Processes()
    _check_apart(out, layouts)
    if drawing.guidance_layout is not None and pipe.settings is None:
        raise ConfigError("This model knows no layout: leave out guidance_layout.")
    refuse(call_problems(pipe.scheduler, drawing.steps, "pil", flow=backbone_of(pipe.unet).flow))
    jobs = list_jobs(layouts, pipe)
    if processes.first:
        tell = warn or partial(warnings.warn, category=WithoutEffect, stacklevel=2)
        for line in [*_said(pipe, layouts, jobs, drawing), *_others_said(out, layouts, jobs)]:
            tell(line)
    model = {"scheduler": type(pipe.scheduler).__name__, "model_hash": model_hash(pipe)}
    if pipe.dtype != torch.float32:  # records from before drew in float32 and do not say so
        model["precision"] = format_name(pipe.dtype)
    records = [_record_of(job, layouts, drawing, model) for job in jobs]
    _check_out(out, jobs, records)
    drawn = sum(not (out / job.name).exists() for job in jobs)
    if fast and drawn:
        speed_up(pipe, jobs[0].size, warn or partial(warnings.warn, stacklevel=2))

    def make(batch: list[int]) -> list[Image.Image]:
        chosen, seeds = [jobs[i] for i in batch], [records[i]["seed"] for i in batch]
        requests = [_request(job, layouts.negative_prompt) for job in chosen]
        with required_finite([job.name for job in chosen]):
            return draw(pipe, requests, seeds, drawing, edit=_edit_of(chosen, layouts))

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


def _said(pipe: LayoutPipeline, layouts: LayoutFolder, jobs: Sequence[Job], drawing: Drawing) -> list[str]:
    """What is given and changes nothing, and what is drawn otherwise than asked for; once for the whole job."""
    maps = (read_panoptic(job.panoptic) for job in jobs)
    shown = control_of(pipe.unet) is not None
    lines = without_effect(pipe.settings, [job.prompts for job in jobs], maps, shown=shown)
    if layouts.vary is not None and pipe.settings is not None and not pipe.settings.global_prompt:
        lines.append("Variants of a map are all alike: their prompts are added to that of the whole picture.")
    lines += _lost_said(sum(job.lost for job in jobs))
    lines += binding_without_effect(pipe.settings, bound=bool(drawing.regions_from or drawing.regions_until < 1.0))
    lines += empty_said(sum(job.empty for job in jobs), len(jobs))
    lines += reading_notes(list(dict.fromkeys(look for job in jobs for look in job.looks)))
    if layouts.negative_prompt:
        negative = [RegionPrompts(global_prompt=layouts.negative_prompt)]
        lines += negative_without_effect(pipe.settings, negative, [None], guided=drawing.scale != 1.0)
    factor = pipe.side_multiple
    for size in dict.fromkeys(job.size for job in jobs):
        lines += padding_said(size, padded_size(size, factor), factor)
    return lines


def _lost_said(lost: int) -> list[str]:
    """What to say of so many prompts whose segments are gone at the size of the pictures."""
    if not lost:
        return []
    several = f"{lost} instance prompts have no effect: their segments are"
    single = "1 instance prompt has no effect: its segment is"
    return [f"{single if lost == 1 else several} too small to be there at the size of the pictures."]


def _record_of(job: Job, layouts: LayoutFolder, drawing: Drawing, model: Mapping[str, Any]) -> dict[str, Any]:
    source: dict[str, Any] = {"panoptic": str(job.panoptic), "panoptic_hash": content_of(job.panoptic)}
    if layouts.several:
        source["layout"] = job.layout
    if job.condition is not None:
        source |= {"condition": str(job.condition), "condition_hash": content_of_picture(job.condition)}
    if layouts.editing is not None and job.image is not None:
        editing = layouts.editing
        source |= {"image": str(job.image), "image_hash": content_of_picture(job.image)}
        source |= {"only_instances": list(editing.instances), "border": editing.border, "strength": editing.strength}
    if layouts.negative_prompt:
        source["negative_prompt"] = layouts.negative_prompt
    # Variants of a map share their seeds, and the first of several pictures is the one there is without the others.
    key = key_of(f"{bare_name(job.layout)}.png")
    seed = derive_seed(drawing.seed, "sample", key, *([job.place] if job.place else []))
    return record_of(job.prompts, job.size, seed, drawing, **source, **model)


def _request(job: Job, negative_prompt: str) -> Request:
    layout = resized_panoptic(read_panoptic(job.panoptic), job.size)
    # A segment too small for the picture's size is gone, and its prompt with it.
    kept = {segment: text for segment, text in job.prompts.by_segment.items() if segment in layout.classes}
    return Request(
        prompts=replace(job.prompts, by_segment=kept),
        panoptic=layout,
        condition=None if job.condition is None else _resized(read_picture(job.condition), job.size),
        negative=RegionPrompts(global_prompt=negative_prompt),
    )


def _edit_of(jobs: Sequence[Job], layouts: LayoutFolder) -> dict[str, Any]:
    """What the pipeline is told of the pictures that are changed."""
    editing = layouts.editing
    if editing is None:
        return {}
    pictures = [read_picture(job.image) for job in jobs if job.image is not None]
    kept = {"border": editing.border, "strength": editing.strength}
    return {"image": pictures, "only_instances": list(editing.instances), **kept}


def _resized(picture: UInt8[np.ndarray, "H0 W0 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    if picture.shape[:2] == size:
        return picture
    return np.array(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _check_apart(out: Path, layouts: LayoutFolder) -> None:
    """Refuse to put pictures among those files that the next job would read."""
    editing = layouts.editing
    read = {"maps": layouts.panoptic, "condition pictures": layouts.conditions}
    read["pictures to change"] = None if editing is None else editing.images
    for what, place in read.items():
        if place is None:
            continue
        folder, own = (place.parent if place.is_file() else place).resolve(), out.resolve()
        if own == folder or (layouts.recursive and own.is_relative_to(folder)):
            raise DatasetError(
                f"{out} lies among the {what} of {place}, which would be drawn from again: choose another."
            )


def _others_said(out: Path, layouts: LayoutFolder, jobs: Sequence[Job]) -> list[str]:
    """What to say of pictures of other jobs, which whoever reads the folder takes for pictures of this one."""
    own = {out / job.name for job in jobs} | {out / CONTACT_SHEET}
    there = out.rglob("*") if layouts.recursive else out.glob("*")
    others = sorted(path for path in there if path.suffix in (".png", JPEG) and path not in own)
    if not others:
        return []
    return [f"{out} holds {len(others)} pictures besides those of this job, such as {others[0].relative_to(out)}."]


def _check_out(out: Path, jobs: Sequence[Job], records: Sequence[Mapping[str, Any]]) -> None:
    problems = []
    for job, record in zip(jobs, records, strict=True):
        picture, path = out / job.name, _record_path(out, job)
        twin = picture.with_name(bare_name(picture.name) + (".png" if picture.suffix == JPEG else JPEG))
        if job.name == CONTACT_SHEET:
            problems.append(f"{job.panoptic}: the name {CONTACT_SHEET} is taken by the contact sheet; rename the map")
        elif picture.exists() and not path.exists():
            problems.append(f"{picture} has no {path.name} beside it: it is not a picture of such a job")
        elif picture.exists():
            # A map may have moved since; what was drawn from it has not changed.
            old = _read_record(path)
            keys = dict.fromkeys([*record, *_NOT_ALWAYS])
            other = [key for key in keys if key not in _MAY_MOVE and old.get(key) != record.get(key)]
            if other:
                problems.append(f"{picture} was drawn with another {', '.join(other)}")
        elif twin.exists():
            problems.append(f"{twin} is there, and {path.name} is its record: {picture.name} would take that away")
        elif path.exists() and not _read_record(path).keys() >= _ALWAYS:
            problems.append(f"{path} is no record of such a job, and would be overwritten")
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
