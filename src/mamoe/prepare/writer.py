"""What every importer shares: pictures, maps and prompts go out in the package's own layout, or nothing does."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from PIL import Image

from mamoe.data.panoptic import UNREADABLE, write_panoptic
from mamoe.data.prompts import HEADER, raise_problems
from mamoe.prepare.captions import describe
from mamoe.staging import staged_folder
from mamoe.taxonomy import Taxonomy
from mamoe.types import DatasetError, PanopticMap

Progress = Callable[[int, int], None]  # called with (pictures done, pictures in all)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePicture:
    """One annotated picture of a foreign data set."""

    name: str  # file name it gets, with the suffix of ``picture``
    picture: Path
    load: Callable[[], PanopticMap]  # raises DatasetError


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportSummary:
    """What an import wrote."""

    folder: Path
    pictures: Mapping[str, int]  # by split
    instances: Mapping[str, int]  # segments of things, by split


def write_dataset(
    out: Path,
    splits: Mapping[str, Sequence[SourcePicture]],
    *,
    taxonomy: Taxonomy,
    place: str,
    size: tuple[int, int],
    progress: Progress | None = None,
) -> ImportSummary:
    """Write pictures, panoptic maps, prompts and a ``data.yaml`` to ``out``.

    Files: ``images/{split}/NAME``, ``panoptic/{split}/STEM.png``, ``prompts_{split}.csv``,
    ``instance_prompts_{split}.json``, ``data.yaml``. Pictures are copied byte for byte.

    Args:
        out: must not exist, or be empty.
        splits: what to write.
        taxonomy: one shipped with the package; ``data.yaml`` names it.
        place: how captions begin, e.g. "a street".
        size: (H, W) that ``data.yaml`` proposes for training.
        progress: called after every picture.

    Raises:
        DatasetError: ``out`` is in use or a source file is wrong; ``out`` is then left as it was.
    """
    total, done = sum(map(len, splits.values())), 0
    instances = dict.fromkeys(splits, 0)
    problems: list[str] = []
    with staged_folder(out, refusal=DatasetError) as stage:
        for split, pictures in splits.items():
            for kind in ("images", "panoptic"):
                (stage / kind / split).mkdir(parents=True)
            captions: list[tuple[str, str]] = []
            prompts: dict[str, dict[str, str]] = {}
            for source in pictures:
                try:
                    panoptic = _write_picture(stage, split, source)
                except DatasetError as error:
                    problems.append(str(error))
                    continue
                things = {i: c for i, c in panoptic.classes.items() if taxonomy.is_thing(c)}
                captions.append((source.name, describe(panoptic, taxonomy, place)))
                prompts[source.name] = {str(i): taxonomy.prompt_of(c) for i, c in things.items()}
                instances[split] += len(things)
                done += 1
                if progress is not None:
                    progress(done, total)
            _write_prompts(stage, split, captions, prompts)
        raise_problems(problems, f"The import to {out}")
        (stage / "data.yaml").write_text(_data_yaml(out.resolve(), taxonomy.name, size), encoding="utf-8")
    return ImportSummary(folder=out, pictures={s: len(p) for s, p in splits.items()}, instances=instances)


def _write_picture(stage: Path, split: str, source: SourcePicture) -> PanopticMap:
    try:
        with Image.open(source.picture) as picture:
            size = picture.size[::-1]
    except UNREADABLE as error:
        raise DatasetError(f"Cannot read the picture {source.picture}: {error}") from None
    panoptic = source.load()
    if panoptic.size != size:
        raise DatasetError(f"{source.picture} has (height, width) {size}, but its annotation has {panoptic.size}.")
    shutil.copyfile(source.picture, stage / "images" / split / source.name)
    write_panoptic(panoptic, stage / "panoptic" / split / f"{Path(source.name).stem}.png")
    return panoptic


def _write_prompts(
    stage: Path, split: str, captions: Sequence[tuple[str, str]], prompts: Mapping[str, Mapping[str, str]]
) -> None:
    with (stage / f"prompts_{split}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(captions)
    text = json.dumps(prompts, indent=1, ensure_ascii=False)
    (stage / f"instance_prompts_{split}.json").write_text(text, encoding="utf-8")


def _data_yaml(out: Path, taxonomy: str, size: tuple[int, int]) -> str:
    entries = {
        "images": str(out / "images"),
        "panoptic_maps": str(out / "panoptic"),
        "prompts": str(out / "prompts_{split}.csv"),
        "instance_prompts": str(out / "instance_prompts_{split}.json"),
        "taxonomy": taxonomy,
        "size": list(size),
    }
    return yaml.safe_dump(entries, sort_keys=False, width=1000)
