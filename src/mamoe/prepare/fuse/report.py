"""What fusing dropped and why: ``fuse/report.json``, a few lines for people, and pictures of the worst."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from mamoe.data.reading.pictures import read_picture
from mamoe.prepare.fuse.rules import Dropped, Fused, FuseRules, Thing
from mamoe.prepare.record import Written
from mamoe.vocabulary.colourize import borders_of, colourize
from mamoe.vocabulary.taxonomy import Taxonomy

FOLDER = "fuse"
REASONS = {
    "score": "scored too low",
    "empty": "without a pixel",
    "hidden": "hidden by better ones",
    "disagrees": "of another class than the map",
    "small": "too small",
    "stuff": "stuff too small, now void",
}
_WORST = 6  # pictures shown
_WIDTH = 720  # of one side of them, in pixels
_RED, _TINT = np.array([230, 20, 20], dtype=np.uint8), 0.45
_LINE = 14  # height of a line of text


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One picture fused, to be looked at."""

    picture: Path
    fused: Fused
    things: Sequence[Thing]


def write_report(
    folder: Path,
    written: Sequence[Written],
    *,
    taxonomy: Taxonomy,
    rules: FuseRules,
    again: Callable[[str], Example],
) -> list[str]:
    """Write the report into the data set and return its table, a line a reason.

    Args:
        folder: of the data set.
        written: its pictures; ``details`` say what was dropped.
        taxonomy: names the classes.
        rules: what they were dropped by.
        again: fuses a picture, by its source's name.
    """
    names = {row.id: row.name for row in taxonomy.classes}
    rows = [(one, drop) for one in written for drop in one.details["dropped"]]
    counts = Counter((drop["reason"], names.get(drop["class_id"], "void")) for _, drop in rows)
    masks = sum(one.details["masks"] for one in written)
    (folder / FOLDER).mkdir()
    report = {
        "rules": asdict(rules),
        "masks": masks,
        "dropped": [{"reason": r, "class": c, "masks": n} for (r, c), n in sorted(counts.items())],
        "pictures": {f"{one.split}/{one.name}": _named(one, names) for one in written if one.details["dropped"]},
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (folder / FOLDER / "report.json").write_text(text, encoding="utf-8")
    for number, one in enumerate(_worst(written), start=1):
        sheet = _shown(again(one.details["source"]), taxonomy)
        sheet.save(folder / FOLDER / f"worst_{number}.png")
    return _table(masks, counts)


def _table(masks: int, counts: Mapping[tuple[str, str], int]) -> list[str]:
    lost = sum(n for (reason, _), n in counts.items() if reason != "stuff")
    lines = [f"{masks - lost} of {masks} masks are in the maps; {FOLDER}/report.json says why the others are not."]
    for reason, words in REASONS.items():
        classes = {name: n for (why, name), n in counts.items() if why == reason}
        if classes:
            most = sorted(classes, key=lambda name: (-classes[name], name))
            said = ", ".join(f"{classes[name]} {name}" for name in most[:6])
            lines.append(f"{sum(classes.values())} {words}: {said}{', …' if len(most) > 6 else ''}.")
    return lines


def _named(one: Written, names: Mapping[int, str]) -> list[dict[str, Any]]:
    return [
        {("class" if key == "class_id" else key): names.get(value, "void") if key == "class_id" else value
         for key, value in drop.items()}
        for drop in one.details["dropped"]
    ]  # fmt: skip


def _worst(written: Sequence[Written]) -> list[Written]:
    """The pictures that lost most pixels of masks; what only scored low counts least."""
    lost = {i: _lost(one.details["dropped"]) for i, one in enumerate(written)}
    order = sorted((i for i in lost if any(lost[i])), key=lambda i: (-lost[i][0], -lost[i][1], i))
    return [written[i] for i in order[:_WORST]]


def _lost(dropped: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    by_rule = sum(drop["area"] for drop in dropped if drop["reason"] not in ("score", "stuff"))
    return by_rule, sum(drop["area"] for drop in dropped if drop["reason"] == "score")


def _shown(example: Example, taxonomy: Taxonomy) -> Image.Image:
    """The picture with what was dropped in red, beside the map; below, what the red is."""
    photo = read_picture(example.picture)
    places = {thing.where: thing for thing in example.things}
    dropped = [drop for drop in example.fused.dropped if drop.where in places]
    for drop in dropped:
        _paint(photo, places[drop.where])
    panoptic = colourize(example.fused.labelled.panoptic, taxonomy)
    height = max(1, round(photo.shape[0] * _WIDTH / photo.shape[1]))
    lines = [_line(drop, taxonomy) for drop in sorted(dropped, key=lambda drop: -drop.area)[:8]]
    sheet = Image.new("RGB", (2 * _WIDTH, height + _LINE * len(lines) + 4), "white")
    sheet.paste(Image.fromarray(photo).resize((_WIDTH, height)), (0, 0))
    sheet.paste(Image.fromarray(panoptic).resize((_WIDTH, height), Image.Resampling.NEAREST), (_WIDTH, 0))
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        pen.text((4, height + 2 + _LINE * number), line, fill="black")
    return sheet


def _paint(photo: UInt8[np.ndarray, "H W 3"], thing: Thing) -> None:
    inside, part = thing.mask.inside, photo[thing.mask.box]
    part[inside] = (part[inside] * (1 - _TINT) + _RED * _TINT).astype(np.uint8)
    if inside.size:
        part[borders_of(inside.astype(np.int32)) & inside] = _RED


def _line(drop: Dropped, taxonomy: Taxonomy) -> str:
    name = next((row.name for row in taxonomy.classes if row.id == drop.class_id), "void")
    words = (
        f"{name}, {drop.where}: {REASONS[drop.reason]} ({drop.figure:g}), {drop.area} pixels, score {drop.score:.2f}"
    )
    return words.encode("ascii", "replace").decode()  # the pen's font has no more
