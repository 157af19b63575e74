"""The tables of a benchmark's report: what every method reaches, per class, at what cost, and what failed."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from mamoe.commands.benchmark.plan import View
from mamoe.commands.benchmark.results import Cost, Curve, Outcome
from mamoe.commands.benchmark.summary import Summary, Verdict, summarize
from mamoe.evaluation.protocol import Better, Score
from mamoe.evaluation.table import Row, Table

_ARROWS = {Better.LOWER: "↓", Better.HIGHER: "↑"}
PER_CLASS = "*IoU/*"
VIEWS = {View.IMAGES: "equal pictures seen", View.TIME: "equal wall-clock"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A row of a table for people."""

    label: str
    cells: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table for people."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]

    def turned(self) -> Grid:
        """The same with rows and columns changed, for many scores of few methods."""
        lines = tuple(
            Line(
                label=column,
                cells=tuple(line.cells[i] for line in self.lines),
                verdicts=tuple(line.verdicts[i] for line in self.lines),
            )
            for i, column in enumerate(self.columns)
        )
        return Grid(title=self.title, columns=tuple(line.label for line in self.lines), lines=lines)

    def markdown(self) -> str:
        """As Markdown."""
        rows = [["", *self.columns], ["---"] * (len(self.columns) + 1)]
        rows += [[line.label, *line.cells] for line in self.lines]
        escaped = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        return f"**{self.title}**\n\n" + "\n".join(escaped) + "\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The cells of one view on one data set."""

    view: View
    data: str
    outcomes: Mapping[str, tuple[Outcome, ...]]  # method -> its seeds

    @property
    def title(self) -> str:
        return f"{self.data}, {VIEWS[self.view]}"

    @property
    def finished(self) -> Iterator[Outcome]:
        """Those with a result."""
        return (outcome for found in self.outcomes.values() for outcome in found if outcome.result is not None)

    @property
    def floors(self) -> tuple[Row, ...]:
        """Floors and ceiling: those of the first cell that has finished."""
        first = next(self.finished, None)
        return () if first is None or first.result is None else first.result.floors

    def scores(self, name: str) -> dict[str, list[Score | None]]:
        """A score of every finished cell, by method."""
        return {
            method: [outcome.result.drawn.score(name) for outcome in found if outcome.result is not None]
            for method, found in self.outcomes.items()
        }

    def summaries(self, name: str) -> dict[str, Summary]:
        """A score of every method over its seeds."""
        return summarize(self.scores(name), max(len(found) for found in self.outcomes.values()))

    def names(self) -> list[str]:
        """All scores that were measured."""
        rows = [outcome.result.drawn for outcome in self.finished if outcome.result is not None]
        return list(dict.fromkeys(score.name for row in rows for score in row.scores))

    @property
    def samplers(self) -> dict[str, str | None]:
        """What drew the pictures of every finished method: what came with its model, no setting chooses another."""
        return {
            outcome.cell.method: score.protocol.generation.sampler
            for outcome in self.finished
            if outcome.result is not None
            for score in outcome.result.drawn.scores
            if score.protocol.generation is not None
        }

    def comparable(self) -> Table:
        """All numbers in one table, drawn pictures of every cell, each by its model's own sampler, and the floors.

        Raises:
            ProtocolError: they were not measured in the same way.
        """
        rows = [
            Row(label=outcome.cell.key, scores=tuple(map(_by_its_own_sampler, outcome.result.drawn.scores)))
            for outcome in self.finished
            if outcome.result is not None
        ]
        return Table(rows=(*rows, *self.floors))


def parts_of(outcomes: Sequence[Outcome]) -> list[Part]:
    """The outcomes by view and data set, methods and seeds in the grid's order."""
    found: dict[tuple[View, str], dict[str, list[Outcome]]] = {}
    for outcome in outcomes:
        methods = found.setdefault((outcome.cell.view, outcome.cell.data), {})
        methods.setdefault(outcome.cell.method, []).append(outcome)
    return [
        Part(view=view, data=data, outcomes={method: tuple(cells) for method, cells in methods.items()})
        for (view, data), methods in found.items()
    ]


def score_grid(part: Part, patterns: Sequence[str], title: str, *, without: Sequence[str] = ()) -> Grid:
    """Methods downwards, scores across, floors below.

    Args:
        part: cells.
        patterns: names of scores; ``*`` stands for anything.
        title: of the table.
        without: patterns of scores to leave out.
    """
    measured = part.names()
    names = list(dict.fromkeys(name for pattern in patterns for name in measured if fnmatchcase(name, pattern)))
    names = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in without)]
    columns = {name: part.summaries(name) for name in names}
    lines = [
        Line(
            label=method,
            cells=tuple(columns[name][method].text for name in names),
            verdicts=tuple(columns[name][method].verdict for name in names),
        )
        for method in part.outcomes
    ]
    for row in part.floors:
        cells = tuple("–" if (score := row.score(name)) is None else score.text for name in names)
        lines.append(Line(label=row.label, cells=cells, verdicts=(Verdict.OPEN,) * len(names)))
    return Grid(title=title, columns=tuple(_with_arrow(part, name) for name in names), lines=tuple(lines))


def cost_grid(part: Part) -> Grid:
    """What every method costs: medians over its seeds."""
    columns = ("steps", "parameters of the UNet", "trained", "s per step", "peak memory, MiB", "s per picture")
    lines = []
    for method, found in part.outcomes.items():
        costs = [outcome.result.cost for outcome in found if outcome.result is not None]
        cells = (
            str(found[0].cell.steps),
            _middle(costs, "parameters", "{:,.0f}"),
            _middle(costs, "trained_parameters", "{:,.0f}"),
            _middle(costs, "seconds_per_step", "{:.3g}"),
            _middle(costs, "peak_mib", "{:,.0f}"),
            _middle(costs, "seconds_per_picture", "{:.3g}"),
        )
        lines.append(Line(label=method, cells=cells, verdicts=(Verdict.OPEN,) * len(cells)))
    return Grid(title=f"Cost: {part.title}", columns=columns, lines=tuple(lines))


def equal_time_grid(part: Part, metric: str = "val/loss") -> Grid | None:
    """The validation loss of every method at the moment the fastest one has finished; None without curves."""
    spans = [
        cost.seconds_per_step * outcome.cell.steps
        for outcome in part.finished
        if outcome.result is not None
        and (cost := outcome.result.cost).seconds_per_step
        and metric in outcome.result.curves
    ]
    if not spans:
        return None
    time = min(spans)
    lines = []
    for method, found in part.outcomes.items():
        held = [
            at(outcome.result.curves[metric], time / outcome.result.cost.seconds_per_step)
            for outcome in found
            if outcome.result is not None and outcome.result.cost.seconds_per_step and metric in outcome.result.curves
        ]
        text = f"{statistics.fmean(held):.4g} ({len(held)} seeds)" if held else "n/a (no curve)"
        lines.append(Line(label=method, cells=(text,), verdicts=(Verdict.OPEN,)))
    title = f"{metric} after {time:.0f} s of steps, when the fastest method has seen all its pictures: {part.data}"
    return Grid(title=title, columns=(f"{metric} ↓",), lines=tuple(lines))


def failures(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """Cells that have no result, and why."""
    return [(outcome.cell.key, outcome.error or "not run yet") for outcome in outcomes if outcome.result is None]


def at(curve: Curve, step: float) -> float:
    """The value of a curve at a step, linear between its points."""
    before = [point for point in curve if point[0] <= step] or [curve[0]]
    after = [point for point in curve if point[0] >= step] or [curve[-1]]
    (x0, y0), (x1, y1) = before[-1], after[0]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (step - x0) / (x1 - x0)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of several curves at the steps that all have."""
    shared = sorted(set.intersection(*(({x for x, y in curve if math.isfinite(y)}) for curve in curves)))
    tables = [dict(curve) for curve in curves]
    return tuple((x, statistics.fmean(table[x] for table in tables)) for x in shared)


def as_csv(parts: Sequence[Part]) -> str:
    """One line per cell and score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("view", "data", "method", "seed", "score", "value", "missing", "n", "low", "high", "protocol"))
    for part in parts:
        for outcome in part.finished:
            assert outcome.result is not None
            for score in outcome.result.drawn.scores:
                around = (None, None) if score.interval is None else (score.interval.low, score.interval.high)
                cell = (outcome.cell.view, outcome.cell.data, outcome.cell.method, outcome.cell.seed)
                found = (score.name, score.value, score.missing, score.n, *around, score.protocol.name)
                writer.writerow((*cell, *found))
    return text.getvalue()


def _by_its_own_sampler(score: Score) -> Score:
    drawn = score.protocol.generation
    if drawn is None:
        return score
    return replace(score, protocol=replace(score.protocol, generation=replace(drawn, sampler=None)))


def _with_arrow(part: Part, name: str) -> str:
    score = next(score for found in part.scores(name).values() for score in found if score is not None)
    return f"{name} {_ARROWS[score.better]}"


def _middle(costs: Sequence[Cost], name: str, form: str) -> str:
    values = [value for cost in costs if (value := getattr(cost, name)) is not None]
    return form.format(statistics.median(values)) if values else "n/a (not measured)"
