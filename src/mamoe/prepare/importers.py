"""The importers by name, and what to do with what they made."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from mamoe.errors import ConfigError
from mamoe.prepare.ade20k import import_ade20k
from mamoe.prepare.bdd100k import import_bdd100k
from mamoe.prepare.camvid import import_camvid
from mamoe.prepare.cityscapes import import_cityscapes
from mamoe.prepare.classes import read_class_table
from mamoe.prepare.coco import OFFICIAL, import_coco
from mamoe.prepare.folder import import_folder
from mamoe.prepare.idd import import_idd
from mamoe.prepare.kitti360 import import_kitti360
from mamoe.prepare.mapillary import import_mapillary
from mamoe.prepare.writer import ImportSummary

Importer = Callable[..., ImportSummary]

# Each takes (source folder, folder to make, progress, manner), the last two or one of them left out if need be, and
# raises DatasetError.
IMPORTERS: Mapping[str, Importer] = {
    "ade20k": import_ade20k,
    "bdd100k": import_bdd100k,
    "camvid": import_camvid,
    "cityscapes": import_cityscapes,
    "coco": import_coco,
    "idd": import_idd,
    "kitti360": import_kitti360,
    "mapillary": import_mapillary,
}
# Data configurations, config/groups/data: by taxonomy, and of formats whose taxonomy is not theirs alone.
_OF_TAXONOMY = {OFFICIAL: "coco", **{name: name for name in ("ade20k", "bdd100k", "camvid", "cityscapes", "idd")}}
_OF_FORMAT = ("kitti360", "mapillary")


def importer_of(source_format: str, taxonomy: str | None, derive: bool) -> Importer:
    """The importer of a format, for classes other than its own where the format leaves them open.

    Args:
        source_format: one of :data:`IMPORTERS`.
        taxonomy: name or YAML file of the classes; None: the format's own.
        derive: make a taxonomy of the classes the source names.

    Raises:
        ConfigError: both are asked for, or one of them of a format whose classes are fixed.
    """
    if taxonomy is not None and derive:
        raise ConfigError("--taxonomy names the classes and --derive-taxonomy makes them; give one of the two.")
    if source_format == "coco":
        return partial(import_coco, taxonomy=OFFICIAL if taxonomy is None else taxonomy, derive=derive)
    if taxonomy is not None or derive:
        asked = "--derive-taxonomy" if derive else "--taxonomy"
        raise ConfigError(f"{asked} is for coco, whose files name their categories; {source_format} has its own.")
    return IMPORTERS[source_format]


def folder_importer(maps: Path, classes: str | None, *, crowds: bool = True) -> Importer:
    """The importer of any folder of pictures; see :func:`mamoe.prepare.folder.import_folder`.

    Raises:
        ConfigError: there is no such class table, or it is wrong.
    """
    table = None if classes is None else read_class_table(classes)
    return partial(import_folder, maps=maps, table=table, crowds=crowds)


def next_commands(summary: ImportSummary, source_format: str | None = None) -> list[str]:
    """What to type next, fit for a shell as it stands; without a split called train there is nothing to train.

    Args:
        summary: what was written.
        source_format: one of :data:`IMPORTERS`, where it is known.
    """
    commands = [f"mamoe check {shlex.quote(str(summary.folder))}"]
    if summary.pictures.get("train"):
        config = _OF_TAXONOMY.get(summary.taxonomy.name, "folder") if summary.is_shipped else "folder"
        if source_format in _OF_FORMAT:
            config = source_format
        words = ["mamoe", "train", f"data={config}", _setting("data.root", summary.folder)]
        if "things" not in summary.taxonomy.groupings:  # what training groups experts by
            words.append("layout.grouping=per_class")
        commands.append(shlex.join(words))
    return commands


def after_parts(images: Path, parts: Path, classes: str, *, has_instances: bool) -> str:
    """What to type next to make a data set of what was written for `fuse`, fit for a shell as it stands."""
    words = ["fuse"] if has_instances else ["import", "folder"]
    words += [str(images), f"{parts}_fused", "--semantic" if has_instances else "--maps", str(parts / "semantic")]
    words += ["--instances", str(parts / "instances.json")] if has_instances else []
    return shlex.join(["mamoe", "prepare", *words, "--classes", classes])


def _setting(key: str, path: Path) -> str:
    """``key=path`` as the command line's configuration reads it, which takes plain words for numbers and commas for
    lists."""
    text = str(path) if path.is_absolute() else f"./{path}"
    if re.fullmatch(r"[\w./-]+", text, re.ASCII):
        return f"{key}={text}"
    quoted = re.sub(r'(\\+)(?="|$)', r"\1\1", text).replace('"', '\\"')
    return f'{key}="{quoted}"'
