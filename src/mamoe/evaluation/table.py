"""Scores side by side: one row per set of pictures, one column per score; only numbers of one protocol in a column."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mamoe.console import visible
from mamoe.evaluation.protocol import Better, ProtocolError, Score, conflicts

_ARROWS = {Better.LOWER: "↓", Better.HIGHER: "↑"}
_FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One set of pictures and what was measured of it.

    Raises:
        ValueError: two scores have one name.
    """

    label: str
    scores: tuple[Score, ...]

    def __post_init__(self) -> None:
        names = [score.name for score in self.scores]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"The row {self.label!r} has two scores called {', '.join(twice)}.")

    def score(self, name: str) -> Score | None:
        """The score of that name, if the row has it."""
        return next((score for score in self.scores if score.name == name), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows whose numbers may be compared.

    Raises:
        ProtocolError: two numbers of one column were measured in different ways; every way is named, with the first
            pair that differs in it.
        ValueError: two rows have one label.
    """

    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        labels = [row.label for row in self.rows]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"The table has two rows called {', '.join(twice)}.")
        problems = _disagreements(self.columns, self.rows)
        if problems:
            lines = "\n".join(f"  {problem}" for problem in problems)
            raise ProtocolError(
                f"These numbers cannot stand in one table:\n{lines}\nMeasure them again with the same settings, or "
                "make a table of each."
            )

    @property
    def columns(self) -> list[str]:
        """The scores' names in the order they first come."""
        return list(dict.fromkeys(score.name for row in self.rows for score in row.scores))

    def markdown(self) -> str:
        """A Markdown table, scores downwards and pictures across; under it, what the intervals are."""
        lines = [["score", *(visible(row.label) for row in self.rows)], ["---"] * (len(self.rows) + 1)]
        for name in self.columns:
            arrow = _ARROWS[_first(name, self.rows).better]
            lines.append([f"{name} {arrow}", *(_cell(row.score(name)) for row in self.rows)])
        over = sorted({s.interval.over.value for row in self.rows for s in row.scores if s.interval is not None})
        note = f"\nIn brackets the 95 % interval ({', '.join(over)}).\n" if over else ""
        return "".join("| " + " | ".join(line) + " |\n" for line in lines) + note

    def csv(self) -> str:
        """One line per number, with its whole protocol."""
        columns = [
            *("pictures", "score", "value", "missing", "n", "low", "high", "over", "better"),
            *("protocol", "extractor", "preprocessing", "reference", "images"),
            *("mode", "sampler", "steps", "guidance", "versions"),
        ]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_flat(row.label, score) for row in self.rows for score in row.scores)
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; :meth:`from_dict` takes it back."""
        rows = [{"label": row.label, "scores": [score.to_dict() for score in row.scores]} for row in self.rows]
        return {"format": _FORMAT, "rows": rows}

    def json(self) -> str:
        """:meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Table:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: it is none of ours, or of another format.
        """
        if plain.get("format") != _FORMAT:
            raise ValueError(f"Wanted a table of format {_FORMAT}, got format {plain.get('format')!r}.")
        return cls(
            rows=tuple(
                Row(label=row["label"], scores=tuple(Score.from_dict(score) for score in row["scores"]))
                for row in plain["rows"]
            )
        )


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several tables under each other.

    Raises:
        ProtocolError: their numbers may not be compared.
    """
    return Table(rows=tuple(row for table in tables for row in table.rows))


def _first(name: str, rows: Sequence[Row]) -> Score:
    return next(score for row in rows if (score := row.score(name)) is not None)


def _disagreements(names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    pairs: dict[str, list[str]] = {}
    for name in names:
        held = [(row.label, s) for row in rows if (s := row.score(name)) is not None and s.value is not None]
        for (a_label, a), (b_label, b) in itertools.combinations(held, 2):
            for what in conflicts(a.protocol, b.protocol):
                pairs.setdefault(what, []).append(f"{name} of {a_label!r} and of {b_label!r}")
    return [f"{first} differ in {what}{_and_more(len(others))}" for what, (first, *others) in pairs.items()]


def _and_more(count: int) -> str:
    return f" (and {count} more pairs of numbers)" if count > 1 else " (and another pair of numbers)" if count else ""


def _cell(score: Score | None) -> str:
    return "not measured" if score is None else score.text.replace("|", "\\|")


def _flat(label: str, score: Score) -> dict[str, Any]:
    how, interval = score.protocol, score.interval
    drawn = how.generation
    return {
        "pictures": label,
        "score": score.name,
        "value": score.value,
        "missing": score.missing,
        "n": score.n,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "over": None if interval is None else interval.over.value,
        "better": score.better.value,
        "protocol": how.name,
        "extractor": how.extractor,
        "preprocessing": how.preprocessing,
        "reference": how.reference,
        "images": how.images,
        "mode": None if drawn is None else drawn.mode,
        "sampler": None if drawn is None else drawn.sampler,
        "steps": None if drawn is None else drawn.steps,
        "guidance": None if drawn is None else drawn.guidance,
        "versions": " ".join(f"{name}={version}" for name, version in how.versions.items()),
    }
