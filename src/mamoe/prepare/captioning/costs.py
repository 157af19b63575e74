"""Tokens and money: what a request may cost at most, and what is likely.

How many tokens a picture counts depends on the model and no server says it before. What is set aside is the greatest
published count: 2833 tokens and 5667 for every tile of 512 x 512 (OpenAI's smallest models); what is estimated is the
usual one, 85 and 170. Once a few answers tell what this model really counts, both follow those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mamoe.errors import ConfigError
from mamoe.prepare.captioning.template import Template

_WORST, _USUAL = (2833, 5667), (85, 170)  # tokens of a picture, and of each tile
_TILE = 512  # pixels
_BYTES_A_TOKEN = 4  # of English
_FRAME = 64  # tokens around the messages
_TOKENS_A_WORD = 1.5
_ENOUGH = 5  # answers from which on the model's own counts are trusted
_SLACK = 1.5  # how much more than counted is set aside
_MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """Of a million tokens, in any currency."""

    read: float
    written: float

    def of(self, tokens: tuple[float, float]) -> float:
        """What (read, written) tokens cost."""
        return (tokens[0] * self.read + tokens[1] * self.written) / _MILLION


FREE = Prices(read=0.0, written=0.0)  # of a model on this machine


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """What was spent: money, and tokens that were used while nobody said what they cost."""

    money: float = 0.0
    tokens: tuple[float, float] = (0.0, 0.0)  # (read, written)

    def __add__(self, other: Amount) -> Amount:
        read, written = (a + b for a, b in zip(self.tokens, other.tokens, strict=True))
        return Amount(money=self.money + other.money, tokens=(read, written))

    def part(self, count: int) -> Amount:
        """One of so many equal parts."""
        return Amount(money=self.money / count, tokens=(self.tokens[0] / count, self.tokens[1] / count))

    def at(self, prices: Prices | None) -> float:
        """The whole in money; without prices the tokens count nothing."""
        return self.money + (0.0 if prices is None else prices.of(self.tokens))


Shares = tuple[float, float, float]  # read, written, read if the picture were the largest; of the most tokens


def shares_of(tokens: tuple[int, int], pixels: int | None, template: Template, subject: str) -> Shares:
    """What an answer says of a model's counts.

    A picture of n times the pixels reads at most n times the tokens, however a model counts: by the picture, by tiles,
    by patches. The slack of :func:`set_aside` is for a tile begun.
    """
    most = most_tokens(template, subject)
    larger = math.inf if not pixels else max(1.0, template.longest_side**2 / pixels)
    return tokens[0] / most[0], tokens[1] / most[1], tokens[0] / most[0] * larger


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """What the answers so far say about this model's counts, by the share of :func:`most_tokens` they used."""

    answers: int = 0
    most_read: float = 0.0
    largest: float = math.inf  # what the largest picture there can be reads at most, by any of the answers
    total: tuple[float, float] = (0.0, 0.0)  # (read, written)

    @property
    def mean(self) -> tuple[float, float]:
        return self.total[0] / max(1, self.answers), self.total[1] / max(1, self.answers)

    def and_one(self, share: Shares) -> Counted:
        """With one more answer's."""
        return Counted(
            answers=self.answers + 1,
            most_read=max(self.most_read, share[0]),
            largest=min(self.largest, share[2]),
            total=(self.total[0] + share[0], self.total[1] + share[1]),
        )


def prices_of(read: float | None, written: float | None, max_cost: float | None) -> Prices | None:
    """The prices where both are known.

    Raises:
        ConfigError: one alone is given, a number is negative, or there is a limit and no price.
    """
    for name, value in (("--price-in", read), ("--price-out", written), ("--max-cost", max_cost)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name} must be a number that is not negative, got {value}.")
    if (read is None) != (written is None):
        raise ConfigError("--price-in and --price-out belong together: give both, per million tokens.")
    if read is None or written is None:
        if max_cost is not None:
            raise ConfigError("--max-cost needs prices: give --price-in and --price-out, per million tokens.")
        return None
    return Prices(read=read, written=written)


def most_tokens(template: Template, subject: str) -> tuple[int, int]:
    """(read, written) tokens that a request takes at most, whatever the picture's shape."""
    tiles = math.ceil(template.longest_side / _TILE) ** 2
    text = sum(len(part.encode()) for part in template.messages(subject))  # a token is a byte at least
    return _FRAME + text + _WORST[0] + _WORST[1] * tiles, template.max_tokens


def set_aside(most: tuple[int, int], counted: Counted) -> tuple[float, float]:
    """(read, written) tokens that a request is not going to exceed, by all that is known."""
    seen = counted.most_read * _SLACK
    if counted.answers >= _ENOUGH and counted.largest < math.inf:
        seen = max(seen, counted.largest * _SLACK)
        return most[0] * (seen if counted.most_read > 1 else min(seen, 1.0)), most[1]
    return (most[0] * seen if counted.most_read > 1 else most[0]), most[1]


def likely_tokens(template: Template, subject: str, counted: Counted) -> tuple[float, float]:
    """(read, written) tokens of a usual request."""
    most = most_tokens(template, subject)
    if counted.answers:
        return most[0] * counted.mean[0], most[1] * counted.mean[1]
    tiles = math.ceil(template.longest_side / _TILE) * math.ceil(template.longest_side / _TILE / 2)  # a wide picture
    text = sum(len(part) for part in template.messages(subject)) / _BYTES_A_TOKEN
    return text + _USUAL[0] + _USUAL[1] * tiles, min(template.max_tokens, _TOKENS_A_WORD * template.words)
