"""Opening every file of a split once: what is wrong, what looks wrong, and what is in it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from jaxtyping import Int64

from mamoe.data.check.plausibility import Impression
from mamoe.data.check.readings import reading_notes
from mamoe.data.check.seen import SeenFiles, Stamp, stamp_of
from mamoe.data.folder.split import SampleFiles, SplitFiles
from mamoe.data.reading.looks import (
    MOST_COLOURS,
    CloseMap,
    ClosePicture,
    MapLook,
    PictureLook,
    look_at_map,
    look_at_map_closely,
    look_at_picture,
    look_at_picture_closely,
)
from mamoe.errors import DatasetError
from mamoe.machine.pool import mapped, usable_cores
from mamoe.vocabulary.taxonomy import Taxonomy

T = TypeVar("T")
U = TypeVar("U")
Look = Callable[[ClosePicture, CloseMap], object]
L = TypeVar("L", MapLook, PictureLook, CloseMap, ClosePicture)

_MOST_THREADS = 16
_LEAST = 150  # pairs a process from which it is worth its start
_AHEAD = 4  # samples per thread that wait to be looked at or counted: what bounds memory
_MOST_NAMED = 5  # class ids or segments of one map in a message


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SplitContents:
    """What a split holds. Pixels and instances count readable maps only."""

    images: int
    with_prompt: int  # pictures whose global prompt is not empty
    instance_prompts: int
    pixels: Int64[np.ndarray, "256"]  # of every class id
    instances: Int64[np.ndarray, "256"]  # segments of every class id
    problems: tuple[str, ...]  # what cannot be trained on
    warnings: tuple[str, ...] = ()  # what can, and is hardly meant so
    notes: tuple[str, ...] = ()  # what is left aside, and how unusual pictures are read


@dataclass(kw_only=True, slots=True)
class _Found:
    """What one sample's files are."""

    problems: list[str] = field(default_factory=list)
    picture: PictureLook | None = None
    map: MapLook | None = None
    new: list[tuple[Path, Stamp, PictureLook | MapLook]] = field(default_factory=list)
    close: object = None  # what ``Closer.look`` returned


class Closer(Protocol):
    """Somebody who looks at the pixels of sound pairs too, while the files are warm."""

    @property
    def look(self) -> Look:
        """What to do in threads, or in other processes, with a pair whose two files are sound and have one size."""
        ...

    def add(self, sample: SampleFiles, look: MapLook, close: object) -> None:
        """In the order of the split: take in what ``look`` returned; None where the pair is not sound."""
        ...


def inspect_split(
    files: SplitFiles,
    taxonomy: Taxonomy,
    progress: Callable[[int, int], None] | None = None,
    seen: SeenFiles | None = None,
    closer: Closer | None = None,
) -> SplitContents:
    """Read every picture and map of a split, in threads; many that are looked at closely, in processes.

    Args:
        files: the split, from :func:`mamoe.data.folder.split.index_split`.
        taxonomy: the class ids the maps may hold.
        progress: called with (files read, files in all) after every pair.
        seen: files that were found sound earlier and need not be opened if they are as they were; the sound ones found
            now are added.
        closer: looks at every sound pair as well.
    """
    problems = list(files.problems)
    pixels, instances = np.zeros(256, dtype=np.int64), np.zeros(256, dtype=np.int64)
    impression, read = Impression(taxonomy), list[tuple[Path, PictureLook]]()
    with closing(_looks(files.samples, seen, None if closer is None else closer.look)) as found:
        for done, (sample, look) in enumerate(zip(files.samples, found, strict=True), start=1):
            problems += look.problems
            if look.picture is not None and look.picture.readings:
                read.append((sample.image, look.picture))
            if look.map is not None and sample.panoptic is not None:
                problems += _meaning_problems(sample, sample.panoptic, look.map, taxonomy, files.instance_prompts)
                pixels += look.map.class_pixels
                for classes in look.map.segments.values():
                    instances[classes[0]] += 1
                impression.add(sample.panoptic, look.map)
                if closer is not None:
                    closer.add(sample, look.map, look.close)
            if seen is not None:
                for path, stamp, what in look.new:
                    seen.add(path, stamp, what)
            if progress is not None:
                progress(done, len(files.samples))
    folders = {sample.panoptic.parent for sample in files.samples if sample.panoptic is not None}
    return SplitContents(
        images=len(files.samples),
        with_prompt=sum(bool(sample.prompts.global_prompt) for sample in files.samples),
        instance_prompts=sum(len(sample.prompts.by_segment) for sample in files.samples),
        pixels=pixels,
        instances=instances,
        problems=tuple(problems),
        warnings=impression.warnings(Path(os.path.commonpath(folders))) if folders else (),
        notes=(*files.notes, *reading_notes(read)),
    )


def _looks(samples: Sequence[SampleFiles], seen: SeenFiles | None, close: Look | None) -> Generator[_Found]:
    """What every sample's files are, in order."""
    cores = usable_cores()
    # Decoding a PNG holds Python's lock, so that threads take turns; a training's start has little else to do.
    if close is not None and cores > 1 and len(samples) >= 2 * _LEAST:
        yield from mapped(partial(_look, seen=None, close=close), samples, cores, least=_LEAST)
        return
    threads = min(_MOST_THREADS, cores)
    with ThreadPoolExecutor(threads) as pool:
        yield from in_order(pool, lambda sample: _look(sample, seen, close), samples, ahead=_AHEAD * threads)


def in_order(pool: ThreadPoolExecutor, function: Callable[[T], U], items: Iterable[T], ahead: int) -> Iterator[U]:
    """As ``pool.map``, which would take in all items at once: here at most ``ahead`` of them wait to be read."""
    left, waiting = iter(items), deque[Future[U]]()
    try:
        while True:
            waiting.extend(pool.submit(function, item) for item in islice(left, ahead - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _look(sample: SampleFiles, seen: SeenFiles | None, close: Look | None) -> _Found:
    found = _Found()
    picture = None if close is None else _opened(sample.image, look_at_picture_closely, found)
    if close is None:
        found.picture = _picture(sample.image, seen, found)
    elif picture is not None:
        found.picture = picture.look
    size = None if found.picture is None else found.picture.size
    if sample.condition is not None:
        shown = _picture(sample.condition, seen, found)
        if size is not None and shown is not None and size != shown.size:
            found.problems.append(f"{sample.condition} has (height, width) {shown.size}, but its picture has {size}")
    if sample.panoptic is None:
        return found
    panoptic = None if close is None else _opened(sample.panoptic, look_at_map_closely, found)
    if close is None:
        known = None if seen is None else seen.map(sample.panoptic)
        found.map = known or _opened(sample.panoptic, look_at_map, found)
    elif panoptic is not None:
        found.map = panoptic.look
    if found.map is not None and size is not None and size != found.map.size:
        found.problems.append(
            f"{sample.panoptic} has (height, width) {found.map.size}, but its picture {sample.image.name} has {size}"
        )
    elif close is not None and picture is not None and panoptic is not None and panoptic.look.colours is not None:
        found.close = close(picture, panoptic)
    return found


def _picture(path: Path, seen: SeenFiles | None, found: _Found) -> PictureLook | None:
    known = None if seen is None else seen.picture(path)
    return known or _opened(path, look_at_picture, found)


def _opened(path: Path, look: Callable[[Path], L], found: _Found) -> L | None:
    stamp = stamp_of(path)
    try:
        what = look(path)
    except DatasetError as error:
        found.problems.append(str(error))
        return None
    if stamp is not None:
        found.new.append((path, stamp, what.look if isinstance(what, ClosePicture | CloseMap) else what))
    return what


def _meaning_problems(
    sample: SampleFiles, path: Path, look: MapLook, taxonomy: Taxonomy, instance_prompts: Path | None
) -> list[str]:
    """What is wrong with a map that could be read."""
    if look.colours is None:
        return [
            f"The panoptic map {path} is wrong: it has more than {MOST_COLOURS} colours, more than there are segments. "
            "Maps must be saved without loss and resized by nearest only."
        ]
    unknown = taxonomy.unknown(look.class_pixels)
    problems = [f"{path}: {problem}" for problem in unknown[:_MOST_NAMED]]
    if len(unknown) > _MOST_NAMED:
        problems.append(f"{path}: {len(unknown) - _MOST_NAMED} more class ids are unknown")
    segments = look.segments
    mixed = {segment: classes for segment, classes in segments.items() if len(classes) > 1}
    if mixed:
        named = ", ".join(f"{segment} (classes {_some(classes)})" for segment, classes in _first(mixed.items()))
        more = f" and {len(mixed) - _MOST_NAMED} more" if len(mixed) > _MOST_NAMED else ""
        problems.append(
            f"The panoptic map {path} is wrong: Every segment must have one class, but segments {named}{more} have "
            "several. Give each its own id."
        )
    absent = sorted(sample.prompts.by_segment.keys() - segments.keys())
    return problems + [
        f"{instance_prompts}, key {sample.key!r} -> '{segment}': no such segment in {path}" for segment in absent
    ]


def _first(items: Iterable[T]) -> list[T]:
    return list(islice(items, _MOST_NAMED))


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, _first(numbers))) + (", …" if len(numbers) > _MOST_NAMED else "")
