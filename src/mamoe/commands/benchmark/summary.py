"""From the scores of single cells to a verdict: mean and interval over seeds, and which methods tie.

The rule. Of every score the method with the best mean is the *best*. Another method *ties* with it when the 95 %
interval of the difference of their means over seeds holds 0 (Welch, "The generalization of Student's problem when
several different population variances are involved", 1947; degrees of freedom by Welch and Satterthwaite, rounded
down). Whether the two intervals overlap is not asked: that test misses true differences (Schenker and Gentleman,
"On judging the significance of differences by examining the overlap between confidence intervals", 2001). With one
seed there is no verdict. No correction is made for the number of comparisons: one in twenty true ties is called a
difference.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mamoe.evaluation.intervals import interval_over_seeds, student_t
from mamoe.evaluation.protocol import Better, Interval, Score


class Verdict(StrEnum):
    """How a method stands against the best one."""

    BEST = "best"
    TIE = "tie"  # with the best
    WORSE = "worse"
    OPEN = ""  # one seed, or nothing to compare with


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """One score of one method over its seeds."""

    values: tuple[float, ...]
    seeds: int  # that were to be run
    n: int  # pictures of each seed
    mean: float | None
    interval: Interval | None  # over seeds; of one seed: over pictures
    missing: str | None  # why there is no value
    verdict: Verdict

    @property
    def text(self) -> str:
        """Mean, interval, how many seeds, verdict; or ``n/a (why)``."""
        if self.mean is None:
            return f"n/a ({self.missing})"
        around = "" if self.interval is None else f" [{self.interval.low:.3g}, {self.interval.high:.3g}]"
        short = "" if len(self.values) == self.seeds else f" ({len(self.values)} of {self.seeds} seeds)"
        return f"{self.mean:.3g}{around}{short}" + (f" {self.verdict}" if self.verdict else "")


def summarize(scores: Mapping[str, Sequence[Score | None]], seeds: int) -> dict[str, Summary]:
    """Every method's summary of one score.

    Args:
        scores: method -> the score of each finished cell; None where the cell did not measure it.
        seeds: how many cells there were to be of each.
    """
    values = {method: _values(found) for method, found in scores.items()}
    verdicts = _verdicts(values, _better(scores))
    return {method: _summary(found, values[method], seeds, verdicts[method]) for method, found in scores.items()}


def ties(one: Sequence[float], other: Sequence[float]) -> bool | None:
    """Whether the 95 % interval of the difference of two means holds 0; None when a side has fewer than two values."""
    interval = difference(one, other)
    return None if interval is None else interval[0] <= 0 <= interval[1]


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float] | None:
    """Welch's 95 % interval of mean(one) - mean(other); None when a side has fewer than two values."""
    if min(len(one), len(other)) < 2:
        return None
    a, b = (statistics.variance(values) / len(values) for values in (one, other))
    centre = statistics.fmean(one) - statistics.fmean(other)
    if a + b == 0:
        return centre, centre
    freedom = (a + b) ** 2 / (a**2 / (len(one) - 1) + b**2 / (len(other) - 1))
    half = student_t(max(1, math.floor(freedom + 1e-9))) * math.sqrt(a + b)
    return centre - half, centre + half


def _verdicts(values: Mapping[str, Sequence[float]], better: Better) -> dict[str, Verdict]:
    verdicts = dict.fromkeys(values, Verdict.OPEN)
    known = [method for method, found in values.items() if found]
    if len(known) < 2:
        return verdicts
    sign = 1 if better is Better.HIGHER else -1
    best = max(known, key=lambda method: sign * statistics.fmean(values[method]))
    for method in known:
        tie = ties(values[method], values[best])
        if method != best and tie is not None:
            verdicts[method] = Verdict.TIE if tie else Verdict.WORSE
    if len(values[best]) > 1:
        alike = all(difference(values[method], values[best]) == (0, 0) for method in known)
        verdicts[best] = Verdict.TIE if alike else Verdict.BEST
    return verdicts


def _summary(scores: Sequence[Score | None], values: tuple[float, ...], seeds: int, verdict: Verdict) -> Summary:
    held = [score for score in scores if score is not None]
    n = held[0].n if held else 0
    if not values:
        why = next((score.missing for score in held if score.missing), "not measured" if scores else "no cell finished")
        return Summary(values=(), seeds=seeds, n=n, mean=None, interval=None, missing=why, verdict=Verdict.OPEN)
    interval = interval_over_seeds(values)
    if interval is None:
        interval = next(score.interval for score in held if score.value is not None)
    return Summary(
        values=values,
        seeds=seeds,
        n=n,
        mean=statistics.fmean(values),
        interval=interval,
        missing=None,
        verdict=verdict,
    )


def _values(scores: Sequence[Score | None]) -> tuple[float, ...]:
    return tuple(score.value for score in scores if score is not None and score.value is not None)


def _better(scores: Mapping[str, Sequence[Score | None]]) -> Better:
    return next((score.better for found in scores.values() for score in found if score is not None), Better.HIGHER)
