"""A folder of pictures, one of maps of classes and masks of single things become a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from mamoe.data.folder.listing import some
from mamoe.data.folder.prompts import raise_problems
from mamoe.errors import DatasetError
from mamoe.prepare.classes import ClassTable
from mamoe.prepare.fuse.instances import Masks, find_instances
from mamoe.prepare.fuse.report import Example, write_report
from mamoe.prepare.fuse.rules import Fused, FuseRules, Thing, fuse
from mamoe.prepare.label_maps import read_classes
from mamoe.prepare.labelled import MANNER, Labelled, Manner, SourcePicture
from mamoe.prepare.pairing import (
    OTHER_KINDS,
    files_below,
    lacking,
    left_out,
    paired,
    pictures_by_split,
    require_apart,
    split_of,
)
from mamoe.prepare.writer import ImportSummary, Progress, write_dataset


@dataclass(frozen=True, kw_only=True, slots=True)
class FuseSources:
    """What is fused."""

    images: Path  # folder of pictures, with or without folders for the splits
    semantic: Path  # folder of maps of classes
    instances: Path  # see :func:`mamoe.prepare.fuse.instances.find_instances`
    crowds: bool = True  # iscrowd in a COCO JSON means a group


def fuse_folders(
    sources: FuseSources,
    out: Path,
    table: ClassTable,
    rules: FuseRules,
    *,
    progress: Progress | None = None,
    manner: Manner = MANNER,
) -> ImportSummary:
    """Fuse the maps of all pictures; what was dropped and why is in ``fuse/report.json`` of the data set, with pictures
    of the worst.

    Args:
        sources: pictures, maps of classes and masks, matched by name.
        out: folder to make.
        table: what the values of both mean.
        rules: what is dropped.
        progress: called after every picture.
        manner: how it is written.

    Raises:
        DatasetError: folders lack files, names do not match, a file is wrong, or ``out`` is in use.
    """
    require_apart(out, [sources.images, sources.semantic, sources.instances])
    notes: list[str] = []
    splits = pictures_by_split(sources.images, notes)
    pictures = [name for names in splits.values() for name in names]
    maps, others = files_below(sources.semantic, (".png",), "maps of classes")
    match = paired(pictures, maps)
    problems = lacking(sources.images, pictures, match, sources.semantic, maps)
    raise_problems(problems, "The fusing")
    found = find_instances(sources.instances, pictures, table, crowds=sources.crowds)
    notes += [f"{sources.instances}: read as {found.kind}.", *found.notes]
    without = [name for name in pictures if name not in found.of]
    if without:
        notes.append(f"{len(without)} picture(s) have no masks of single things: {some(without)}.")
    notes += left_out(sources.semantic, others, OTHER_KINDS)
    notes += left_out(sources.semantic, sorted(set(maps) - set(match.values())), "map(s) without a picture")
    load = {
        name: partial(_load, name, sources.semantic / match[name], found.of.get(name), table, rules)
        for name in pictures
    }
    return write_dataset(
        out,
        {
            split: [
                SourcePicture(name=split_of(name)[1], picture=sources.images / name, load=load[name]) for name in names
            ]
            for split, names in splits.items()
        },
        taxonomy=table.taxonomy,
        notes=notes,
        progress=progress,
        manner=manner,
        roots=(sources.images, sources.semantic, sources.instances),
        report=partial(write_report, taxonomy=table.taxonomy, rules=rules, again=partial(_again, sources.images, load)),
    )


def fused(semantic: Path, masks: Masks | None, table: ClassTable, rules: FuseRules) -> tuple[Fused, list[Thing]]:
    """The map of one picture, and the masks it was made of.

    Raises:
        DatasetError: a file is wrong, or has values the class table does not know.
    """
    class_id = read_classes(semantic, table)
    things = [] if masks is None else masks((class_id.shape[0], class_id.shape[1]))
    try:
        return fuse(class_id, things, table.taxonomy, rules), things
    except ValueError as error:
        raise DatasetError(f"{semantic}: {error}.") from None


def _load(name: str, semantic: Path, masks: Masks | None, table: ClassTable, rules: FuseRules) -> Labelled:
    outcome, things = fused(semantic, masks, table, rules)
    dropped = [asdict(one) for one in outcome.dropped]
    return replace(outcome.labelled, details={"source": name, "masks": len(things), "dropped": dropped})


def _again(images: Path, load: Mapping[str, partial[Labelled]], name: str) -> Example:
    """A picture fused once more, to be looked at."""
    outcome, things = fused(*load[name].args[1:])
    return Example(picture=images / name, fused=outcome, things=things)
