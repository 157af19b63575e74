"""From sets of pictures to a table on disk, with the floors that tell what a number means.

rows (drawn pictures, floors)  x  families of scores  ->  Table  ->  metrics.json, table.md, table.csv
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from diffusers import AutoencoderKL

from mamoe.data.encoded import content_of
from mamoe.data.folder.matching import same_name
from mamoe.data.folder.split import SampleFiles
from mamoe.data.geometry.joint import Geometry
from mamoe.data.reading.pictures import CONTACT_SHEET
from mamoe.errors import ConfigError, DatasetError
from mamoe.evaluation.distances.family import Kind
from mamoe.evaluation.families import Reading, copying_family, distribution_family
from mamoe.evaluation.features.extractors import Extractor
from mamoe.evaluation.features.store import common_size, list_pictures
from mamoe.evaluation.protocol import Family, Generation, PictureSet
from mamoe.evaluation.reconstruction import reconstruct_all
from mamoe.evaluation.table import Row, Table
from mamoe.machine.processes import Processes
from mamoe.sampling.filling import ABOUT
from mamoe.sampling.records import with_mode
from mamoe.storage.staging import write_whole
from mamoe.vocabulary.drawing import SAID, Mode
from mamoe.vocabulary.selection import spread

COPYING = "copying"
SCORES = (*(kind.value for kind in Kind), COPYING)
LAYOUT, USE = "layout", "use"
LAYOUT_SCORES = (LAYOUT, USE)  # need the maps the pictures were made from
REAL_FLOOR, AUTOENCODER_FLOOR = "real (train)", "autoencoder"
CEILING = "real"  # the reference pictures themselves
METRICS = "metrics.json"

_OF_A_ROW = ("model_hash", "negative_prompt", *SAID)  # what records of one row agree in, besides the way
_HOW: Mapping[str, Callable[[Any], bool]] = {  # what every number measured on a picture is written down with
    "mode": lambda said: said is None or said in list(Mode),
    "scheduler": lambda said: said is None or isinstance(said, str),
    "steps": lambda said: said is None or (type(said) is int and said > 0),
    "guidance_scale": lambda said: said is None or (type(said) in (int, float) and math.isfinite(said)),
}
_NUMBERED = re.compile(r"_\d+$")  # what tells several pictures of one layout apart

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What drawn pictures are compared with, and how."""

    reference: tuple[Path, ...]  # real pictures that were not trained on
    train: tuple[Path, ...] | None  # real pictures that were, if they are known
    autoencoder: AutoencoderKL | None  # for its floor
    extractors: tuple[Extractor, ...]
    scores: tuple[str, ...]  # of SCORES
    geometry: Geometry | None  # what all pictures go through first
    out: Path
    cache: Path
    seed: int = 0
    root: Path | None = None  # the folder that names in the reference are relative to; None: file names alone


def evaluate(
    drawn: Sequence[PictureSet],
    comparison: Comparison,
    *,
    processes: Processes,
    families: Sequence[Family] = (),
    ceiling: PictureSet | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Table | None:
    """Score sets of drawn pictures and the floors, and write the table; None on all processes but the first.

    Args:
        drawn: one row each.
        comparison: what they are compared with.
        processes: those that share the work.
        families: scores besides those of features.
        ceiling: a last row that ``families`` alone measure: real pictures of the same layouts.
        progress: of the picture work at hand.

    Raises:
        ConfigError: the output folder holds other pictures.
        DatasetError: pictures that cannot be read, or of several sizes.
        ProtocolError: the rows may not stand in one table.
    """
    check_common_size(comparison, drawn)
    comparison.out.mkdir(parents=True, exist_ok=True)
    least = min(len(row.paths) for row in drawn)
    rows = [*drawn, *_floors(comparison, least, processes, progress)]
    reading = Reading(cache=comparison.cache, geometry=comparison.geometry, processes=processes, progress=progress)
    chosen = [*_families(comparison, reading), *families]
    measured = [_row(row, chosen) for row in rows] + ([] if ceiling is None else [_row(ceiling, families)])
    if not processes.first:
        return None
    table = Table(rows=tuple(measured))
    write_table(table, comparison.out)
    return table


def _row(pictures: PictureSet, families: Sequence[Family]) -> Row:
    return Row(label=pictures.label, scores=tuple(score for family in families for score in family(pictures)))


def check_scores(scores: Sequence[str]) -> None:
    """Refuse scores that do not exist.

    Raises:
        ConfigError: lists those there are.
    """
    known = (*SCORES, *LAYOUT_SCORES)
    unknown = [name for name in scores if name not in known]
    if unknown or not scores:
        raise ConfigError(f"There is no score {', '.join(unknown) or '(none given)'}; there are {', '.join(known)}.")


def check_common_size(comparison: Comparison, drawn: Sequence[PictureSet] = ()) -> None:
    """Refuse pictures that are not of one size.

    Raises:
        DatasetError: lists the sizes.
    """
    groups = {row.label: row.paths for row in drawn} | {"reference": comparison.reference}
    common_size(groups | ({} if comparison.train is None else {"train": comparison.train}), comparison.geometry)


def write_table(table: Table, out: Path) -> None:
    """metrics.json, table.md and table.csv, each whole or not at all."""
    for name, text in ((METRICS, table.json()), ("table.md", table.markdown()), ("table.csv", table.csv())):
        write_whole(text, out / name)


def folder_row(folder: Path, label: str = "generated", *, recursive: bool = False) -> PictureSet:
    """The pictures of a folder as a row, with what their records say of how they were drawn.

    Raises:
        DatasetError: no pictures, or records for some of them only, or that disagree.
    """
    paths = tuple(path for path in list_pictures(folder, recursive=recursive) if path.name != CONTACT_SHEET)
    if not paths:
        raise DatasetError(f"{folder} holds no pictures but {CONTACT_SHEET}.")
    records = {str(path.relative_to(folder)): path.with_suffix(".json") for path in paths}
    present = {name: record for name, record in records.items() if record.is_file()}
    about = folder / ABOUT  # of an evaluation, which vouches for pictures from before it wrote records
    if present and len(present) < len(paths) and not about.is_file():
        absent = [name for name in records if name not in present]
        raise DatasetError(
            f"{folder}: {len(absent)} of {len(paths)} pictures have no record beside them, such as {absent[0]}. "
            "Finish the sampling job, or keep other pictures elsewhere."
        )
    vouched = [about] if len(present) < len(paths) and about.is_file() else []
    made = [_record(path) for path in present.values()]
    ways = {_way(record) for record in [*made, *map(_record, vouched)]}
    if len(ways) > 1:
        raise DatasetError(f"{folder}: the pictures' records say different things: {sorted(map(str, ways))[:2]}.")
    if mixed := [key for key in _OF_A_ROW if len({record.get(key) for record in made}) > 1]:
        raise DatasetError(
            f"{folder}: the pictures were drawn with different {', '.join(mixed)}, as their records say, and would be "
            "scored as if they were of one kind. Keep those of different jobs in different folders."
        )
    row = PictureSet(label=label, paths=paths, generation=ways.pop() if ways else _way({}), root=folder)
    said = [_layout_said(path) or name for path, name in zip(paths, row.names, strict=True)]
    return row if said == list(row.names) else replace(row, drawn_from=tuple(said))


def _families(comparison: Comparison, reading: Reading) -> list[Family]:
    kinds = [Kind(name) for name in comparison.scores if name != COPYING]
    found: list[Family] = []
    for extractor in comparison.extractors:
        if kinds:
            found.append(distribution_family(comparison.reference, extractor, kinds, reading, seed=comparison.seed))
        if COPYING in comparison.scores:
            found.append(
                copying_family(
                    comparison.train,
                    comparison.reference,
                    extractor,
                    reading,
                    sheets=comparison.out,
                    seed=comparison.seed,
                )
            )
    return found


def _floors(
    comparison: Comparison, count: int, processes: Processes, progress: Callable[[int, int], None] | None
) -> list[PictureSet]:
    if comparison.train is None:
        real = _absent(REAL_FLOOR, "the training pictures are not given")
    else:  # as many as there are drawn pictures: distances fall with the number
        real = PictureSet(label=REAL_FLOOR, paths=spread(comparison.train, count), generation=None)
    if comparison.autoencoder is None:
        return [real, _absent(AUTOENCODER_FLOOR, "the autoencoder is not given")]
    chosen = spread(comparison.reference, count)
    pictures = PictureSet(label=AUTOENCODER_FLOOR, paths=chosen, generation=None, root=comparison.root)
    folder = comparison.out / "autoencoder"
    try:
        paths = reconstruct_all(
            comparison.autoencoder,
            pictures,
            folder,
            geometry=comparison.geometry,
            processes=processes,
            progress=progress,
        )
    except ConfigError:
        raise
    except ValueError as error:  # sizes it cannot take: no floor, and the reason in the table
        return [real, _absent(AUTOENCODER_FLOOR, str(error))]
    return [real, replace(pictures, paths=paths, root=folder)]


def _absent(label: str, why: str) -> PictureSet:
    return PictureSet(label=label, paths=(), generation=None, missing=why)


def _record(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"Cannot read the record {path}: {error}. Draw its picture again.") from None
    if not isinstance(record, dict):
        raise DatasetError(f"{path} is no record of a picture: wanted a JSON object. Move it away, or draw it again.")
    odd = [f"{key}: {record[key]!r:.40}" for key, is_right in _HOW.items() if not is_right(record.get(key))]
    if odd:
        raise DatasetError(f"{path} says how its picture was drawn, and cannot mean {', '.join(odd)}. Draw it again.")
    return record


def layout_of(picture: Path, name: str, known: Collection[str]) -> str | None:
    """The layout a picture was drawn of: what its record says, or the one of its name, with or without a number.

    Args:
        picture: its file; the record, if there is one, lies beside it.
        name: of the picture, without its ending, relative to its folder.
        known: names of layouts, without endings.

    Returns:
        One of ``known``, or None.
    """
    said = _layout_said(picture)
    found = [name, _NUMBERED.sub("", name)] if said is None else [said]
    return next((layout for layout in found if layout in known), None)


def _layout_said(picture: Path) -> str | None:
    """The layout that the record beside a picture says it was drawn of, if there is one that does."""
    record = picture.with_suffix(".json")
    said = _record(record).get("layout") if record.is_file() else None
    return same_name(said) if isinstance(said, str) else None


def drawn_otherwise(drawn: PictureSet, samples: Mapping[str, SampleFiles]) -> list[str]:
    """What to say of pictures that were not drawn from what they are scored against, as their records say.

    Args:
        drawn: with the names of their layouts.
        samples: whose maps and instance prompts the pictures are scored against, by name without its ending.
    """
    maps = prompts = 0
    for picture, name in zip(drawn.paths, drawn.layout_names, strict=True):
        path, asked = picture.with_suffix(".json"), samples[name]
        record = _record(path) if path.is_file() else {}
        said = record.get("instance_prompts")
        prompts += isinstance(said, dict) and _differ(said, {str(k): v for k, v in asked.prompts.by_segment.items()})
        said = record.get("panoptic_hash")
        maps += said is not None and asked.panoptic is not None and said != content_of(asked.panoptic)
    lines = []
    if maps:
        lines.append(
            f"{maps} of {len(drawn.paths)} pictures were drawn from other files of maps than those of the data"
        )
    if prompts:
        lines.append(
            f"{prompts} of {len(drawn.paths)} pictures were drawn with other instance prompts than those they are "
            "scored against: --instance-prompts names the file they were drawn with"
        )
    return lines


def _differ(said: Mapping[str, str], asked: Mapping[str, str]) -> bool:
    """Whether prompts are others, but for those of segments that a picture's size or crop has left nothing of."""
    return bool(asked and not said) or any(asked.get(segment) != text for segment, text in said.items())


def _way(record: Mapping[str, Any]) -> Generation:
    record = with_mode(record)
    return Generation(
        mode=record.get("mode"),
        sampler=record.get("scheduler", record.get("sampler")),
        steps=record.get("steps"),
        guidance=record.get("guidance_scale"),
    )
