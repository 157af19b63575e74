"""The shapes of the vehicles, in metres."""

from dataclasses import dataclass

from .palette import Label

Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One kind of vehicle in metres; forward is +v, the middle of its length is v = 0."""

    label: Label
    noun: str
    length: float
    width: float
    outline: Outline  # (v, y) from the rear bumper over the roof to the front bumper
    panes: frozenset[int]  # numbers of the outline's pieces that are glass
    windows: tuple[Outline, ...]  # on both sides
    wheels: tuple[float, ...]  # v of the axles
    wheel: float  # radius
    stripe: Outline | None = None  # a light band on both sides
    lamp: float = 0.6  # height of the lamps


def box(v0: float, v1: float, y0: float, y1: float) -> Outline:
    """A rectangle on the side of a vehicle."""
    return ((v0, y0), (v0, y1), (v1, y1), (v1, y0))


HATCH = Shape(
    label=Label.CAR,
    noun="car",
    length=4.0,
    width=1.75,
    outline=(
        (-2.0, 0.25),
        (-2.0, 0.9),
        (-1.6, 1.42),
        (-1.3, 1.5),
        (0.2, 1.5),
        (0.95, 0.98),
        (1.9, 0.78),
        (2.0, 0.25),
    ),
    panes=frozenset({1, 4}),
    windows=(
        ((-1.6, 0.95), (-1.35, 1.38), (-0.5, 1.4), (-0.5, 0.95)),
        ((-0.38, 0.95), (-0.38, 1.4), (0.15, 1.38), (0.7, 0.95)),
    ),
    wheels=(-1.22, 1.22),
    wheel=0.32,
)
SALOON = Shape(
    label=Label.CAR,
    noun="car",
    length=4.6,
    width=1.8,
    outline=(
        (-2.3, 0.25),
        (-2.25, 0.92),
        (-1.6, 0.98),
        (-1.0, 1.42),
        (0.2, 1.44),
        (0.95, 0.96),
        (2.15, 0.8),
        (2.3, 0.25),
    ),
    panes=frozenset({2, 4}),
    windows=(
        ((-1.35, 0.98), (-0.95, 1.34), (-0.42, 1.35), (-0.42, 0.98)),
        ((-0.3, 0.98), (-0.3, 1.35), (0.12, 1.35), (0.7, 0.98)),
    ),
    wheels=(-1.4, 1.4),
    wheel=0.33,
)
TRUCK = Shape(
    label=Label.TRUCK,
    noun="truck",
    length=7.0,
    width=2.3,
    outline=((-3.5, 0.5), (-3.5, 3.2), (1.6, 3.2), (1.7, 2.6), (3.1, 2.6), (3.45, 1.5), (3.5, 0.5)),
    panes=frozenset({4}),
    windows=(((2.05, 1.55), (2.05, 2.35), (2.95, 2.35), (3.2, 1.55)),),
    wheels=(-2.3, -1.3, 2.4),
    wheel=0.48,
    stripe=box(1.64, 1.8, 0.6, 2.9),
    lamp=0.8,
)
BUS = Shape(
    label=Label.BUS,
    noun="bus",
    length=10.0,
    width=2.5,
    outline=((-5.0, 0.35), (-5.0, 2.95), (-4.8, 3.1), (4.8, 3.1), (4.95, 2.95), (5.0, 0.35)),
    panes=frozenset(),
    windows=tuple(box(v, v + 1.35, 1.6, 2.5) for v in (-4.6, -3.05, -1.5, 0.05, 1.6, 3.2)),
    wheels=(-3.0, 3.2),
    wheel=0.5,
    lamp=0.8,
)
TRAIN = Shape(
    label=Label.TRAIN,
    noun="train",
    length=18.0,
    width=2.6,
    outline=((-9.0, 0.3), (-8.7, 1.6), (-8.2, 3.2), (8.2, 3.2), (8.7, 1.6), (9.0, 0.3)),
    panes=frozenset(),
    windows=tuple(box(v, v + 2.0, 1.7, 2.55) for v in (-7.6, -5.0, -2.4, 0.2, 2.8, 5.4)),
    wheels=(),
    wheel=0.4,
    stripe=box(-8.6, 8.6, 0.75, 0.95),
    lamp=0.9,
)
