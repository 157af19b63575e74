"""Verdicts: closed forms of the tie rule, and intervals."""

import math

import numpy as np
import pytest
from benchmark_fakes import score
from scipy import stats

from mamoe.commands.benchmark.summary import Verdict, difference, summarize, ties


def test_difference_is_welchs():
    rng = np.random.default_rng(0)
    for n, m in ((3, 3), (3, 5), (10, 4)):
        a, b = rng.normal(0, 1, n).tolist(), rng.normal(1, 3, m).tolist()
        low, high = difference(a, b)
        theirs = stats.ttest_ind(a, b, equal_var=False)
        assert (low + high) / 2 == pytest.approx(np.mean(a) - np.mean(b))
        whole = stats.t.ppf(0.975, math.floor(theirs.df)) * math.sqrt(np.var(a, ddof=1) / n + np.var(b, ddof=1) / m)
        assert (high - low) / 2 == pytest.approx(whole, rel=1e-6)
        if theirs.pvalue > 0.05:  # rounding the degrees of freedom down only widens the interval
            assert ties(a, b)


def test_closed_forms():
    assert difference([0, 2], [0, 2]) == (pytest.approx(-4.30265 * math.sqrt(2)), pytest.approx(4.30265 * math.sqrt(2)))
    assert ties([1, 1, 1], [1, 1, 1]) and not ties([1, 1, 1], [1.001, 1.001, 1.001])  # no spread: equal or not
    assert ties([0, 1], [10, 11]) is False and ties([0, 1], [1, 2]) is True
    assert ties([1], [5, 6]) is None and ties([], [1, 2]) is None


def test_scale_and_order_do_not_matter():
    a, b = [1.0, 1.2, 1.1], [1.3, 1.5, 1.25]
    assert ties(a, b) == ties(b, a) == ties([100 * x for x in a], [100 * x for x in b])
    low, high = difference(a, b)
    assert difference(b, a) == (pytest.approx(-high), pytest.approx(-low))


def test_intervals_that_overlap_may_still_differ():
    """What makes the rule one about differences."""
    from mamoe.evaluation.intervals import interval_over_seeds

    a, b = [0.0, 1.0, 2.0, 3.0, 4.0] * 4, [1.2, 2.2, 3.2, 4.2, 5.2] * 4
    one, other = interval_over_seeds(a), interval_over_seeds(b)
    assert one.high > other.low and not ties(a, b)


def test_verdicts_and_their_texts():
    found = summarize(
        {
            "good": [score("mIoU", x) for x in (0.80, 0.82, 0.81)],
            "same": [score("mIoU", x) for x in (0.79, 0.83, 0.78)],
            "bad": [score("mIoU", x) for x in (0.10, 0.12, 0.11)],
            "gone": [score("mIoU", None)] * 3,
            "half": [score("mIoU", 0.5)],
            "none": [],
        },
        seeds=3,
    )
    verdicts = {method: summary.verdict for method, summary in found.items()}
    assert verdicts == {
        "good": Verdict.BEST,
        "same": Verdict.TIE,
        "bad": Verdict.WORSE,
        "gone": Verdict.OPEN,
        "half": Verdict.OPEN,
        "none": Verdict.OPEN,
    }
    assert found["good"].text == "0.81 [0.785, 0.835] best"
    assert found["gone"].text == "n/a (no such class)" and found["none"].text == "n/a (no cell finished)"
    assert found["half"].text == "0.5 (1 of 3 seeds)"


def test_lower_is_better_where_it_is():
    found = summarize({"a": [score("FD", 1.0), score("FD", 1.1)], "b": [score("FD", 9.0), score("FD", 9.1)]}, seeds=2)
    assert found["a"].verdict is Verdict.BEST and found["b"].verdict is Verdict.WORSE


def test_one_seed_gives_no_verdict():
    found = summarize({"a": [score("FD", 1.0)], "b": [score("FD", 9.0)]}, seeds=1)
    assert all(summary.verdict is Verdict.OPEN for summary in found.values())


def test_methods_that_are_all_alike_tie():
    nothing = {method: [score("mIoU", 0.0)] * 3 for method in "ab"}
    assert {summary.verdict for summary in summarize(nothing, seeds=3).values()} == {Verdict.TIE}
