"""What a cell leaves on disk, and what happens to the cells of a grid.

<out>/cells/<cell>/cell.json     what it is
                   result.json   scores, floors, cost, curves; a cell that has it is never done again
                   error.json    why it failed; it is tried again by the next call
                   log.txt       what its training and evaluation said
                   run/          the training's own folder
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mamoe.commands.benchmark.plan import Cell, View
from mamoe.errors import ConfigError
from mamoe.evaluation.protocol import Score
from mamoe.evaluation.table import Row
from mamoe.storage.staging import write_whole

CELL, RESULT, ERROR, LOG = "cell.json", "result.json", "error.json", "log.txt"
Curve = tuple[tuple[float, float], ...]  # (step, value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a method costs; None where it was not measured."""

    parameters: int | None  # of the UNet
    trained_parameters: int | None
    seconds_per_step: float | None
    peak_mib: float | None
    seconds_per_picture: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a finished cell found."""

    drawn: Row
    floors: tuple[Row, ...]  # and the ceiling: the same for all cells of a data set
    cost: Cost
    curves: Mapping[str, Curve]  # metric -> points
    pictures: Mapping[str, str]  # stem -> file of the drawn picture, relative to the cell
    real: Mapping[str, str]  # stem -> file of the real one
    copies: str | None  # sheet of the closest pairs, relative to the cell

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; :meth:`from_dict` takes it back."""
        plain = {name: getattr(self, name) for name in ("pictures", "real", "copies")}
        rows = [_plain_row(row) for row in (self.drawn, *self.floors)]
        return {"drawn": rows[0], "floors": rows[1:], "cost": asdict(self.cost), "curves": dict(self.curves), **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Result:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: it is none of ours.
        """
        try:
            return cls(
                drawn=_row(plain["drawn"]),
                floors=tuple(_row(row) for row in plain["floors"]),
                cost=Cost(**plain["cost"]),
                curves={name: tuple((x, y) for x, y in points) for name, points in plain["curves"].items()},
                pictures=plain["pictures"],
                real=plain["real"],
                copies=plain["copies"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"This is no result of a benchmark's cell: {error!s}.") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a cell."""

    cell: Cell
    folder: Path
    result: Result | None
    error: str | None  # why there is no result; None for a cell that was not tried


class Stopped(Exception):
    """A cell was interrupted; the grid goes on with it when called again. The code is that of its process."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def run_cells(
    cells: Sequence[Cell],
    out: Path,
    *,
    scoring: Mapping[str, Any],
    start: Callable[[Cell, Path], None],
    say: Callable[[str], None],
) -> list[Outcome]:
    """Run every cell that has no result yet, one after the other.

    Args:
        cells: the grid.
        out: folder of the benchmark.
        scoring: how pictures are drawn and scored, plain JSON.
        start: runs the cell whose folder it is given, to the end; leaves result.json, or raises with the reason.
        say: takes a line for the user.

    Raises:
        ConfigError: a folder holds a cell of other settings; nothing was run.
        Stopped: a cell was interrupted.
    """
    folders = [out / "cells" / cell.key for cell in cells]
    _check(cells, folders, scoring)
    outcomes = []
    for number, (cell, folder) in enumerate(zip(cells, folders, strict=True), start=1):
        title = f"[{number}/{len(cells)}] {cell.key}, {cell.steps} steps"
        result = read_result(folder)
        if result is not None:
            say(f"{title}: done before")
            outcomes.append(Outcome(cell=cell, folder=folder, result=result, error=None))
            continue
        say(title)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR).unlink(missing_ok=True)
        about = {"fingerprint": cell.fingerprint(scoring), **asdict(cell), "scoring": scoring}
        write_whole(json.dumps(about, indent=1) + "\n", folder / CELL)
        error = None
        try:
            start(cell, folder)
            result = read_result(folder)
            if result is None:
                error = f"it ended without a result; see {folder / LOG}"
        except Stopped:
            raise
        except Exception as failure:  # one cell's failure is a finding, not the end of the grid
            error = str(failure) or type(failure).__name__
        if error is not None:
            write_whole(json.dumps({"error": error}) + "\n", folder / ERROR)
            say(f"  failed: {error}")
        outcomes.append(Outcome(cell=cell, folder=folder, result=result, error=error))
    return outcomes


def read_result(folder: Path) -> Result | None:
    """The result of a cell; None if it has none, or a damaged one."""
    try:
        return Result.from_dict(json.loads((folder / RESULT).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def read_error(folder: Path) -> str | None:
    """Why a cell failed when it was last tried; None if it did not."""
    try:
        return str(json.loads((folder / ERROR).read_text(encoding="utf-8"))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_result(result: Result, folder: Path) -> None:
    """Write result.json, whole or not at all: with it the cell is done."""
    write_whole(json.dumps(result.to_dict(), ensure_ascii=False) + "\n", folder / RESULT)


def read_cell(folder: Path) -> tuple[Cell, dict[str, Any]]:
    """A cell from its folder, and how it is scored.

    Raises:
        ConfigError: there is none.
    """
    try:
        plain = json.loads((folder / CELL).read_text(encoding="utf-8"))
        names = ("data", "method", "seed", "steps")
        cell = Cell(
            view=View(plain["view"]), overrides=tuple(plain["overrides"]), **{name: plain[name] for name in names}
        )
        return cell, plain["scoring"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder} is no cell of a benchmark: {error}") from None


def relative(path: Path, folder: Path) -> str:
    """``path`` as it is written in a result: from the cell's folder, so that a benchmark may be moved."""
    return os.path.relpath(path.resolve(), folder.resolve())


def _check(cells: Sequence[Cell], folders: Sequence[Path], scoring: Mapping[str, Any]) -> None:
    other = []
    for cell, folder in zip(cells, folders, strict=True):
        if not (folder / CELL).exists():
            continue
        before, how = read_cell(folder)
        if before.fingerprint(how) != cell.fingerprint(scoring):
            other.append(f"  {folder.name}: {_difference(before, how, cell, scoring)}")
    if other:
        lines = "\n".join(other[:8])
        raise ConfigError(
            f"{len(other)} cells in {folders[0].parent} were made with other settings:\n{lines}\n"
            "Nothing is overwritten: choose another out=…, or delete those folders."
        )


def _difference(before: Cell, how: Mapping[str, Any], cell: Cell, scoring: Mapping[str, Any]) -> str:
    old, new = ({**asdict(c), **s} for c, s in ((before, how), (cell, scoring)))
    names = [name for name in new if json.dumps(old.get(name), default=list) != json.dumps(new[name], default=list)]
    return "; ".join(f"{name} {old.get(name)} before, now {new[name]}" for name in names) or "unknown"


def _plain_row(row: Row) -> dict[str, Any]:
    return {"label": row.label, "scores": [score.to_dict() for score in row.scores]}


def _row(plain: Mapping[str, Any]) -> Row:
    return Row(label=plain["label"], scores=tuple(Score.from_dict(score) for score in plain["scores"]))
