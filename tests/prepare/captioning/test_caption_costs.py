"""Tokens and money."""

import pytest

from mamoe.errors import ConfigError
from mamoe.prepare.captioning.costs import Counted, Prices, likely_tokens, most_tokens, prices_of, set_aside, shares_of
from mamoe.prepare.captioning.template import Template

TEMPLATE = Template(prompt="a" * 100, longest_side=1024, max_tokens=50, words=20)


def test_prices():
    assert Prices(read=2.0, written=8.0).of((500_000, 250_000)) == pytest.approx(3.0)


def test_most_is_the_greatest_published_count():
    assert most_tokens(TEMPLATE, "") == (64 + 100 + 2833 + 4 * 5667, 50)


def test_before_any_answer_the_usual_count_is_likely():
    assert likely_tokens(TEMPLATE, "", Counted()) == (100 / 4 + 85 + 2 * 170, 30)


def counted(*answers):
    """After answers of (tokens read, pixels)."""
    found = Counted()
    for read, pixels in answers:
        found = found.and_one(shares_of((read, 10), pixels, TEMPLATE, ""))
    return found


def test_answers_tell_what_a_model_really_counts():
    most = most_tokens(TEMPLATE, "")
    full = 1024 * 1024
    assert set_aside(most, counted(*[(900, full)] * 4)) == most  # four say too little
    five = counted((800, full), (900, full), (1000, full), (900, full), (900, full))
    assert set_aside(most, five) == (pytest.approx(1500), 50)
    assert likely_tokens(TEMPLATE, "", five) == (pytest.approx(900), pytest.approx(10))


def test_small_pictures_say_little_about_large_ones():
    most = most_tokens(TEMPLATE, "")
    quarter = counted(*[(300, 512 * 512)] * 5)
    assert set_aside(most, quarter) == (pytest.approx(1.5 * 4 * 300), 50)
    tiny = counted(*[(300, 32 * 32)] * 5)
    assert set_aside(most, tiny) == most
    assert set_aside(most, counted(*[(300, None)] * 5)) == most


@pytest.mark.parametrize("side", [40, 200, 512, 700, 1024])
@pytest.mark.parametrize(
    "count",
    [
        lambda h, w: 85,
        lambda h, w: 85 + 170 * -(-h // 512) * -(-w // 512),
        lambda h, w: 2833 + 5667 * -(-h // 512) * -(-w // 512),
        lambda h, w: -(-h // 28) * -(-w // 28),
        lambda h, w: h * w // 750,
    ],
    ids=["flat", "tiles", "dear tiles", "patches", "area"],
)
def test_what_is_set_aside_suffices_however_a_model_counts(count, side):
    most = most_tokens(TEMPLATE, "")
    known = counted(*[(count(side, side // 2) + 90, side * (side // 2))] * 5)
    assert set_aside(most, known)[0] >= count(1024, 1024) + 90


def test_a_model_that_counts_more_than_published_is_believed_at_once():
    most = most_tokens(TEMPLATE, "")
    assert set_aside(most, counted((2 * most[0], 1024 * 1024))) == (pytest.approx(3 * most[0]), 50)


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
