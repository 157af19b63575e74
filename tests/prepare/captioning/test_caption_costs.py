"""Tokens and money."""

import pytest

from mamoe.errors import ConfigError
from mamoe.prepare.captioning.costs import Counted, Prices, likely_tokens, most_tokens, prices_of, set_aside
from mamoe.prepare.captioning.template import Template

TEMPLATE = Template(prompt="a" * 100, longest_side=1024, max_tokens=50, words=20)


def test_prices():
    assert Prices(read=2.0, written=8.0).of((500_000, 250_000)) == pytest.approx(3.0)


def test_most_is_the_greatest_published_count():
    assert most_tokens(TEMPLATE, "") == (64 + 100 + 2833 + 4 * 5667, 50)


def test_before_any_answer_the_usual_count_is_likely():
    assert likely_tokens(TEMPLATE, "", Counted()) == (100 / 4 + 85 + 2 * 170, 30)


def test_answers_tell_what_a_model_really_counts():
    most = most_tokens(TEMPLATE, "")
    counted = Counted()
    for read in (800, 900, 1000, 900):
        counted = counted.and_one((read / most[0], 10 / most[1]))
    assert set_aside(most, counted) == most  # four say too little
    counted = counted.and_one((900 / most[0], 10 / most[1]))
    assert set_aside(most, counted) == (pytest.approx(1500), 50)
    assert likely_tokens(TEMPLATE, "", counted) == (pytest.approx(900), pytest.approx(10))


def test_a_model_that_counts_more_than_published_is_believed_at_once():
    most = most_tokens(TEMPLATE, "")
    assert set_aside(most, Counted().and_one((2.0, 0.5))) == (pytest.approx(3 * most[0]), 50)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((1.0, None, None), "belong together"),
        ((None, 1.0, 5.0), "belong together"),
        ((None, None, 5.0), "--max-cost needs prices"),
        ((-1.0, 1.0, None), "--price-in"),
        ((1.0, 1.0, float("nan")), "--max-cost"),
    ],
)
def test_what_cannot_be_meant(given, words):
    with pytest.raises(ConfigError, match=words):
        prices_of(*given)
    assert prices_of(None, None, None) is None
