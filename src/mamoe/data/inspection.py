"""Opening every file of a split once: what is wrong, and what is in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mamoe.data.files import SampleFiles, SplitFiles
from mamoe.data.panoptic import read_panoptic
from mamoe.data.pictures import read_picture
from mamoe.data.readings import reading_notes
from mamoe.taxonomy import Taxonomy
from mamoe.types import DatasetError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SplitContents:
    """What a split holds. Pixels and instances count readable maps only."""

    images: int
    with_prompt: int  # pictures whose global prompt is not empty
    instance_prompts: int
    pixels: Int64[np.ndarray, "256"]  # of every class id
    instances: Int64[np.ndarray, "256"]  # segments of every class id
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what is left aside, and how unusual pictures are read


def inspect_split(
    files: SplitFiles, taxonomy: Taxonomy, progress: Callable[[int, int], None] | None = None
) -> SplitContents:
    """Read every picture and map of a split, in threads.

    Args:
        files: the split, from :func:`mamoe.data.files.index_split`.
        taxonomy: the class ids the maps may hold.
        progress: called with (files read, files in all) after every pair.
    """
    problems = list(files.problems)
    pixels, instances = np.zeros(256, dtype=np.int64), np.zeros(256, dtype=np.int64)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda sample: _inspect_sample(sample, taxonomy, files.instance_prompts), files.samples)
        for done, (sample_problems, sample_pixels, sample_instances) in enumerate(found, start=1):
            problems += sample_problems
            pixels += sample_pixels
            instances += sample_instances
            if progress is not None:
                progress(done, len(files.samples))
    return SplitContents(
        images=len(files.samples),
        with_prompt=sum(bool(sample.prompts.global_prompt) for sample in files.samples),
        instance_prompts=sum(len(sample.prompts.by_segment) for sample in files.samples),
        pixels=pixels,
        instances=instances,
        problems=tuple(problems),
        notes=(*files.notes, *reading_notes([sample.image for sample in files.samples])),
    )


def _condition_problems(path: Path, size: tuple[int, ...] | None) -> list[str]:
    try:
        shown = read_picture(path).shape[:2]
    except DatasetError as error:
        return [str(error)]
    return [] if size in (None, shown) else [f"{path} has (height, width) {shown}, but its picture has {size}"]


def _inspect_sample(
    sample: SampleFiles, taxonomy: Taxonomy, instance_prompts: Path | None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    problems: list[str] = []
    none = np.zeros(256, dtype=np.int64)
    size = None
    try:
        size = read_picture(sample.image).shape[:2]
    except DatasetError as error:
        problems.append(str(error))
    if sample.condition is not None:
        problems += _condition_problems(sample.condition, size)
    if sample.panoptic is None:
        return problems, none, none
    try:
        panoptic = read_panoptic(sample.panoptic)
    except DatasetError as error:
        return [*problems, str(error)], none, none
    if size is not None and size != panoptic.size:
        problems.append(
            f"{sample.panoptic} has (height, width) {panoptic.size}, but its picture {sample.image.name} has {size}"
        )
    problems += [f"{sample.panoptic}: {problem}" for problem in taxonomy.check(panoptic)]
    segments = panoptic.classes
    problems += [
        f"{instance_prompts}, key {sample.key!r} -> '{segment}': no such segment in {sample.panoptic}"
        for segment in sorted(sample.prompts.by_segment.keys() - segments.keys())
    ]
    pixels = np.bincount(panoptic.class_id.ravel(), minlength=256)
    return problems, pixels, np.bincount(np.fromiter(segments.values(), dtype=np.int64), minlength=256)
