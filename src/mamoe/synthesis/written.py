"""The finished set: pictures that are kept, their cleaned maps, prompts, and where each of them comes from.

<out>/images/train, panoptic/train, prompts_train.csv, instance_prompts_train.json, data.yaml, dataset.json
<out>/provenance_train.json  per picture: map, mirrored or not, instances put in, seed and settings, what was read
<out>/synthesis.json         the whole: settings, plan, losses of classes, pictures that were dropped
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mamoe.data.folder.description import Size
from mamoe.errors import DatasetError
from mamoe.prepare.labelled import SourcePicture
from mamoe.prepare.record import Written, json_of
from mamoe.prepare.writer import ImportSummary, Scenery, write_dataset
from mamoe.synthesis.reading import Cleaning, Verdict, labelled
from mamoe.vocabulary.taxonomy import Taxonomy

SPLIT = "train"
PROVENANCE, SYNTHESIS = f"provenance_{SPLIT}.json", "synthesis.json"
_OF_RECORD = (
    "seed",
    "size",
    "mode",
    "steps",
    "guidance_scale",
    "guidance_rescale",
    "scheduler",
    "precision",
    "model_hash",
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Made:
    """What the stages before have made."""

    rows: Mapping[str, Mapping[str, Any]]  # of layouts, by name
    verdicts: Mapping[str, Verdict]
    drawn: Path  # folder of pictures and records
    maps: Path  # folder of the maps they were drawn of
    cleaning: Cleaning
    floor: float  # share of a picture's labelled pixels that must be read as their class
    plan: Mapping[str, Any]
    made_by: Mapping[str, Any]  # settings

    @property
    def kept(self) -> list[str]:
        """Names of the pictures at or above the floor."""
        return [name for name in self.rows if self.verdicts[name].agreement >= self.floor]

    @property
    def dropped(self) -> list[str]:
        """Names of the others."""
        return [name for name in self.rows if self.verdicts[name].agreement < self.floor]


def write_set(
    out: Path, made: Made, taxonomy: Taxonomy, size: Size, progress: Callable[[int, int], None] | None = None
) -> ImportSummary:
    """Write the set; killed at any moment ``out`` is not there, and the same call goes on.

    Args:
        out: folder to make.
        made: what goes into it.
        taxonomy: of the maps.
        size: that ``data.yaml`` proposes for training.
        progress: called with (pictures done, pictures in all).

    Raises:
        DatasetError: no picture reaches the floor, or a file cannot be read.
    """
    kept = made.kept
    if not kept:
        best = max((one.agreement for one in made.verdicts.values()), default=0.0)
        raise DatasetError(
            f"None of {len(made.rows)} pictures reaches the floor of {made.floor:g} (share of labelled pixels read as "
            f"their class); the best has {best:.2f}. Train the model longer, or lower --floor: drawn pictures are kept."
        )
    sources = [
        SourcePicture(
            name=f"{name}.png",
            picture=made.drawn / f"{name}.png",
            load=partial(
                labelled, made.cleaning, made.drawn / f"{name}.png", made.maps / f"{name}.png", made.rows[name]
            ),
        )
        for name in kept
    ]
    return write_dataset(
        out,
        {SPLIT: sources},
        taxonomy=taxonomy,
        scenery=Scenery("", size),
        progress=progress,
        roots=(made.drawn, made.maps),
        report=partial(_report, made, taxonomy),
    )


def _report(made: Made, taxonomy: Taxonomy, stage: Path, written: Sequence[Written]) -> list[str]:
    provenance = {one.name: _provenance(made, one) for one in written}
    (stage / PROVENANCE).write_text(json_of(provenance), encoding="utf-8")
    classes = made.cleaning.classes
    means = {classes.names[i]: value for i, value in enumerate(made.cleaning.means)}
    whole = {
        "version": 1,
        "made by": made.made_by,
        "segmenter": made.cleaning.learned_from,
        "plan": made.plan,
        "drawn": len(made.rows),
        "dropped": {name: made.verdicts[name].agreement for name in made.dropped},
        "mean losses": {name: value for name, value in means.items() if _pixels(made, classes.names.index(name))},
    }
    (stage / SYNTHESIS).write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return _notes(made, taxonomy, written)


def _provenance(made: Made, one: Written) -> dict[str, Any]:
    name = Path(one.name).stem
    record = json.loads((made.drawn / f"{name}.json").read_text(encoding="utf-8"))
    row = made.rows[name]
    return {
        "map": row["map"],
        "flipped": row["flipped"],
        "pasted": row["pasted"],
        **{key: record[key] for key in _OF_RECORD if key in record},
        "agreement": made.verdicts[name].agreement,
        "voided": one.details["voided"] / max(1, one.details["labelled"]),
    }


def _notes(made: Made, taxonomy: Taxonomy, written: Sequence[Written]) -> list[str]:
    notes = [f"{len(made.rows)} pictures of {len({row['map'] for row in made.rows.values()})} maps were drawn."]
    if made.dropped:
        notes.append(
            f"{len(made.dropped)} of them were dropped: less than {made.floor:.0%} of their pixels are read as the map "
            "says."
        )
    voided, total = (sum(one.details[key] for one in written) for key in ("voided", "labelled"))
    notes.append(
        f"{voided / max(1, total):.0%} of the labelled pixels became void: their loss is above "
        f"{made.cleaning.tolerance:g} times the mean of their class."
    )
    put = sum(len(row["segments"]) for one in written for row in made.rows[Path(one.name).stem]["pasted"])
    if put:
        notes.append(f"{put} instances of other maps were put in.")
    ids = {row.name: str(row.id) for row in taxonomy.classes}
    for name in made.plan["rare"]:
        now = sum(ids[name] in one.pixels for one in written) / len(written)
        before = made.plan["maps with"].get(name, 0) / made.plan["maps"]
        aim = made.made_by["rare_share"]
        short = f", short of the {aim:.0%} aimed at" if now < aim else ""
        notes.append(f"{name}, a rare class, is in {now:.0%} of the pictures{short}; in {before:.0%} of the maps.")
    return notes


def _pixels(made: Made, number: int) -> int:
    return sum(one.pixels[number] for one in made.verdicts.values())
