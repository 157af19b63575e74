"""What every importer shares: pictures, maps and prompts go out in the package's own layout, or nothing does."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mamoe.data.folder.description import DATA_YAML, data_yaml
from mamoe.data.folder.prompts import HEADER, raise_problems
from mamoe.data.reading.pictures import picture_header
from mamoe.errors import DatasetError
from mamoe.prepare.captions import describe, of_a_group
from mamoe.prepare.names import flat_names
from mamoe.storage.staging import staged_folder
from mamoe.vocabulary.panoptic import PanopticMap, write_panoptic
from mamoe.vocabulary.taxonomy import Taxonomy, shipped_taxonomies

Progress = Callable[[int, int], None]  # called with (pictures done, pictures in all)
TAXONOMY_FILE = "taxonomy.yaml"  # of a taxonomy that is not shipped
_TURNED = "has an EXIF orientation; the annotation was taken to fit the picture as it is shown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """What an annotation says about its picture."""

    panoptic: PanopticMap
    groups: Set[int] = frozenset()  # segments of thing classes that hold several things nobody told apart
    remarks: tuple[str, ...] = ()  # what was dropped or converted: "has ...", one wording per kind


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePicture:
    """One annotated picture of a foreign data set."""

    name: str  # relative name with "/" between folders and the suffix of ``picture``; written without the folders
    picture: Path
    load: Callable[[], Labelled]  # raises DatasetError


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportSummary:
    """What an import wrote."""

    folder: Path
    taxonomy: Taxonomy
    is_shipped: bool  # the taxonomy is one of the package's; otherwise a file of ``folder``
    pictures: Mapping[str, int]  # by split
    instances: Mapping[str, int]  # segments of single things, by split
    groups: Mapping[str, int]  # segments of several things, by split
    notes: tuple[str, ...] = ()  # what was ignored, left out or converted

    def text(self) -> str:
        """The counts by split, then every note, as plain lines."""
        counts = [
            f"{split} {n} pictures with {self.instances[split]} instances and {self.groups[split]} groups"
            for split, n in self.pictures.items()
        ]
        return "\n".join([f"{self.folder}: {'; '.join(counts)}.", *(f"- {note}" for note in self.notes)])


@dataclass(kw_only=True, slots=True)
class _Split:
    """What is known of a split when its pictures are written."""

    captions: list[tuple[str, str]] = field(default_factory=list)
    prompts: dict[str, dict[str, str]] = field(default_factory=dict)
    instances: int = 0
    groups: int = 0

    def add(self, name: str, labelled: Labelled, taxonomy: Taxonomy, place: str) -> None:
        prompts = {}
        for segment, class_id in labelled.panoptic.classes.items():
            if taxonomy.is_thing(class_id):
                prompt = taxonomy.prompt_of(class_id)
                prompts[str(segment)] = of_a_group(prompt) if segment in labelled.groups else prompt
        self.captions.append((name, describe(labelled.panoptic, taxonomy, place, labelled.groups)))
        self.prompts[name] = prompts
        self.groups += len(labelled.groups)
        self.instances += len(prompts) - len(labelled.groups)


def write_dataset(
    out: Path,
    splits: Mapping[str, Sequence[SourcePicture]],
    *,
    taxonomy: Taxonomy,
    place: str,
    size: tuple[int, int],
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> ImportSummary:
    """Write pictures, panoptic maps, prompts and a ``data.yaml`` to ``out``.

    Files: ``images/{split}/NAME``, ``panoptic/{split}/STEM.png``, ``prompts_{split}.csv``,
    ``instance_prompts_{split}.json``, ``data.yaml``, and ``taxonomy.yaml`` unless the taxonomy is a shipped one.
    Pictures are copied byte for byte. No file replaces another: see :func:`mamoe.prepare.names.flat_names`.

    Args:
        out: must not exist, or be empty.
        splits: what to write.
        taxonomy: ``data.yaml`` names it.
        place: how captions begin, e.g. "a street".
        size: (H, W) that ``data.yaml`` proposes for training.
        notes: what the importer has to say about the whole; what shows in single pictures is added.
        progress: called after every picture.

    Raises:
        DatasetError: ``out`` is in use, names clash, or a source file is wrong; ``out`` is then left as it was.
    """
    total, done = sum(map(len, splits.values())), 0
    problems: list[str] = []
    names, prefixed = flat_names({split: [p.name for p in pictures] for split, pictures in splits.items()}, problems)
    raise_problems(problems, f"The import to {out}")
    shipped = taxonomy.name in shipped_taxonomies() and Taxonomy.load(taxonomy.name) == taxonomy
    remarks: Counter[str] = Counter()
    first: dict[str, Path] = {}
    written = {split: _Split() for split in splits}
    with staged_folder(out, refusal=DatasetError) as stage:
        for split, pictures in splits.items():
            for kind in ("images", "panoptic"):
                (stage / kind / split).mkdir(parents=True)
            for name, source in zip(names[split], pictures, strict=True):
                try:
                    labelled, turned = _write_picture(stage, split, name, source)
                except DatasetError as error:
                    problems.append(str(error))
                    continue
                written[split].add(name, labelled, taxonomy, place)
                for remark in (*labelled.remarks, *((_TURNED,) if turned else ())):
                    remarks[remark] += 1
                    first.setdefault(remark, source.picture)
                done += 1
                if progress is not None:
                    progress(done, total)
            _write_prompts(stage, split, written[split])
        raise_problems(problems, f"The import to {out}")
        _write_description(stage, taxonomy, size, shipped=shipped)
    shared = ["Pictures of several folders have one name: all names begin with their folder's."] if prefixed else []
    seen = [f"{n} picture(s): {remark} (first: {first[remark]})." for remark, n in remarks.items()]
    return ImportSummary(
        folder=out,
        taxonomy=taxonomy,
        is_shipped=shipped,
        pictures={split: len(pictures) for split, pictures in splits.items()},
        instances={split: part.instances for split, part in written.items()},
        groups={split: part.groups for split, part in written.items()},
        notes=(*notes, *shared, *seen),
    )


def _write_picture(stage: Path, split: str, name: str, source: SourcePicture) -> tuple[Labelled, bool]:
    header = picture_header(source.picture)
    labelled = source.load()
    _require_size(source.picture, header.size, labelled.panoptic.size, turned=header.orientation != 1)
    shutil.copyfile(source.picture, stage / "images" / split / name)
    write_panoptic(labelled.panoptic, stage / "panoptic" / split / f"{Path(name).stem}.png")
    return labelled, header.orientation != 1


def _require_size(picture: Path, size: tuple[int, int], annotated: tuple[int, int], *, turned: bool) -> None:
    if annotated == size:
        return
    text = f"{picture} has (height, width) {size}, but its annotation has {annotated}."
    if turned:
        text += " The picture is shown turned, as its EXIF orientation says, and annotations must fit what is shown."
        if annotated == size[::-1]:
            text += (
                " This one fits the pixels as they are stored: take the orientation out of the picture"
                " (exiftool -Orientation= FILE), or turn the annotation."
            )
    raise DatasetError(text)


def _write_prompts(stage: Path, split: str, part: _Split) -> None:
    with (stage / f"prompts_{split}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(part.captions)
    text = json.dumps(part.prompts, indent=1, ensure_ascii=False)
    (stage / f"instance_prompts_{split}.json").write_text(text, encoding="utf-8")


def _write_description(stage: Path, taxonomy: Taxonomy, size: tuple[int, int], *, shipped: bool) -> None:
    if not shipped:
        text = yaml.safe_dump(taxonomy.to_dict(), sort_keys=False, allow_unicode=True, width=1000)
        (stage / TAXONOMY_FILE).write_text(text, encoding="utf-8")
    text = data_yaml(taxonomy.name if shipped else TAXONOMY_FILE, size)
    (stage / DATA_YAML).write_text(text, encoding="utf-8")
