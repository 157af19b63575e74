"""How many pictures each map gets, and what is done to it: a pure function of what the maps hold.

Hard maps get more pictures: of P maps the p-th hardest has the weight (P - p) / P (Yang et al., "FreeMask", 2023). Then
maps with rare classes are weighted up until each rare class stands in the share of the pictures that was aimed at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64

from mamoe.randomness import generator_for
from mamoe.synthesis.survey import MapFacts

_ROUNDS = 100  # of weighting up; classes that share maps settle within a few


@dataclass(frozen=True, kw_only=True, slots=True)
class Aims:
    """What is wanted of a set."""

    pictures: int  # to draw
    flip: float = 0.5  # share of the layouts that are mirrored
    mix: float = 0.5  # share of the layouts that get instances of other maps, where the ground allows
    rare_share: float = 0.25  # of the pictures, in which each rare class is to stand; in [0, 1)
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """One picture to draw."""

    name: str  # of picture and layout, without ending
    place: int  # of its map in the data set
    key: str  # the map's name there
    number: int  # among all pictures
    flip: bool
    mix: bool


def plan(
    facts: Sequence[MapFacts], hard: Float64[np.ndarray, "n"], rare: Sequence[int], aims: Aims
) -> tuple[Planned, ...]:
    """The pictures to draw, in the order of the maps.

    Args:
        facts: of every map.
        hard: how hard each of them is.
        rare: numbers of the classes that are aimed at a share.
        aims: what is wanted.
    """
    holds = np.array([one.pixels[list(rare)] > 0 for one in facts]).reshape(len(facts), len(rare))
    weights = aimed(by_rank(hard), holds, aims.rare_share)
    found: list[Planned] = []
    for one, count in zip(facts, shared_out(weights, aims.pictures), strict=True):
        for _ in range(count):
            number = len(found)
            flip, mix = torch.rand(2, generator=generator_for(aims.seed, "synthesize", number)).tolist()
            found.append(
                Planned(
                    name=f"synthetic_{number:06d}",
                    place=one.place,
                    key=one.key,
                    number=number,
                    flip=one.flips and flip < aims.flip,
                    mix=mix < aims.mix,
                )
            )
    return tuple(found)


def by_rank(hard: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Weights that sum to 1 and fall evenly from the hardest to the easiest; equals keep their order."""
    rank = np.empty(len(hard))
    rank[np.argsort(-hard, kind="stable")] = np.arange(len(hard))
    weights = (len(hard) - rank) / len(hard)
    return weights / weights.sum()


def aimed(weights: Float64[np.ndarray, "n"], holds: Bool[np.ndarray, "n C"], share: float) -> Float64[np.ndarray, "n"]:
    """Weights, summing to 1, with which every class stands in at least ``share`` of the pictures, as far as possible.

    Maps with a class that falls short are weighted up by the odds it lacks, class after class, until none does. Classes
    that no map holds, or all do, change nothing.

    Args:
        weights: that sum to 1.
        holds: which map holds which class.
        share: in [0, 1).
    """
    weights = weights / weights.sum()
    for _ in range(_ROUNDS):
        short = False
        for column in holds.T:
            now = weights[column].sum()
            if 0 < now < share * (1 - 1e-6):
                short = True
                weights = np.where(column, weights * share / now, weights * (1 - share) / (1 - now))
        if not short:
            break
    return weights / weights.sum()


def shared_out(weights: Float64[np.ndarray, "n"], total: int) -> list[int]:
    """Whole numbers in proportion to the weights that sum to ``total``: what is left over goes to the largest rests."""
    exact = weights / weights.sum() * total
    counts = np.floor(exact + 1e-9).astype(int)
    rests = np.argsort(counts - exact, kind="stable")
    counts[rests[: total - counts.sum()]] += 1
    return counts.tolist()
