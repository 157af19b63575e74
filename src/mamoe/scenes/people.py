"""Persons, riders, bicycles and motorcycles: flat figures in metres that face the camera."""

import math
from itertools import pairwise

from .camera import Pixel, Pose
from .canvas import Stage, Thing, disc
from .caption import with_article
from .palette import COLOURS, METAL, RUBBER, Label, Rgb, jitter, mix

SKINS: tuple[Rgb, ...] = ((240, 200, 168), (216, 164, 126), (160, 110, 80), (112, 76, 56))
HAIRS: tuple[Rgb, ...] = ((44, 32, 28), (92, 60, 36), (196, 156, 92), (120, 116, 114))
TROUSERS: tuple[Rgb, ...] = ((58, 62, 82), (84, 78, 72), (50, 50, 56))


class Figure:
    """A flat figure at one spot: (u, y) in metres from its feet, drawn under one segment id."""

    def __init__(self, stage: Stage, pose: Pose, thing: Thing, mirrored: bool, grow: float = 1.0) -> None:
        self.stage, self.pose = stage, pose
        self.segment = stage.canvas.add(thing)
        self.sign = -grow if mirrored else grow
        self.grow = grow

    def at(self, u: float, y: float) -> Pixel:
        """The pixel of a point of the figure."""
        return self.stage.camera.project(self.pose.x + self.sign * u, self.grow * y, self.pose.z)

    def fill(self, points: list[tuple[float, float]], colour: Rgb, gain: float = 1.0) -> None:
        """Fill an outline given in the figure's metres."""
        self.stage.paint([self.at(u, y) for u, y in points], colour, self.pose.z, self.segment, gain)

    def disc(self, u: float, y: float, ru: float, ry: float, colour: Rgb, gain: float = 1.0) -> None:
        """Fill an ellipse."""
        self.fill(disc(u, y, ru, ry), colour, gain)

    def bar(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        width: float,
        colour: Rgb,
        gain: float = 1.0,
    ) -> None:
        """A straight limb or tube."""
        (u0, y0), (u1, y1) = start, end
        length = math.hypot(u1 - u0, y1 - y0)
        nu, ny = (y0 - y1) / length * width / 2, (u1 - u0) / length * width / 2
        self.fill([(u0 + nu, y0 + ny), (u1 + nu, y1 + ny), (u1 - nu, y1 - ny), (u0 - nu, y0 - ny)], colour, gain)

    def ring(self, u: float, y: float, radius: float, width: float, colour: Rgb) -> None:
        """A wheel's rim: short bars, so that the ground shows through in picture and map alike."""
        turns = [i * math.pi / 8 for i in range(17)]
        rim = [(u + radius * math.cos(t), y + radius * math.sin(t)) for t in turns]
        for start, end in pairwise(rim):
            self.bar(start, end, width, colour)


def _pick(stage: Stage, options: tuple[Rgb, ...]) -> Rgb:
    return options[int(stage.rng.integers(len(options)))]


def _shadow(stage: Stage, pose: Pose, half: float) -> None:
    stage.shadow([stage.camera.project(x, 0.0, z) for x, z in disc(pose.x, pose.z, half, half)])


def draw_person(stage: Stage, pose: Pose, colour: str) -> None:
    """A walking or standing person whose long coat covers most of the figure."""
    rng = stage.rng
    _shadow(stage, pose, 0.4)
    thing = Thing(label=Label.PERSON, prompt=f"a person in {with_article(colour)} coat", colour=colour)
    figure = Figure(stage, pose, thing, bool(rng.random() < 0.5), float(rng.uniform(0.92, 1.08)))
    coat = jitter(COLOURS[colour], rng, 4.0)
    skin, hair, legs = _pick(stage, SKINS), _pick(stage, HAIRS), _pick(stage, TROUSERS)
    step = float(rng.uniform(0.04, 0.24))
    figure.bar((-0.07, 0.6), (-0.07 - step, 0.04), 0.15, legs, 0.85)
    figure.bar((0.08, 0.6), (0.06 + step, 0.04), 0.15, legs)
    figure.disc(-0.03 - step, 0.05, 0.12, 0.05, RUBBER)
    figure.disc(0.12 + step, 0.05, 0.12, 0.05, RUBBER)
    figure.bar((-0.22, 1.36), (-0.34 - step / 3, 0.82), 0.14, coat, 0.84)
    figure.fill([(-0.2, 1.46), (0.2, 1.46), (0.28, 1.3), (0.32, 0.52), (-0.32, 0.52), (-0.28, 1.3)], coat)
    figure.fill([(0.1, 1.46), (0.2, 1.46), (0.28, 1.3), (0.32, 0.52), (0.16, 0.52)], coat, 0.9)
    figure.bar((0.22, 1.36), (0.32 + step / 3, 0.84), 0.14, coat, 1.05)
    figure.disc(0.33 + step / 3, 0.8, 0.06, 0.06, skin)
    figure.disc(0.0, 1.62, 0.115, 0.14, hair)
    figure.disc(0.035, 1.59, 0.085, 0.11, skin)


def draw_cyclist(stage: Stage, pose: Pose, coat: str | None, paint: str, motor: bool) -> None:
    """A bicycle or motorcycle seen from the side, with a rider in a coat unless ``coat`` is None."""
    rng = stage.rng
    _shadow(stage, pose, 0.8)
    mirrored = bool(rng.random() < 0.5)
    noun, label = ("motorcycle", Label.MOTORCYCLE) if motor else ("bicycle", Label.BICYCLE)
    machine = Figure(stage, pose, Thing(label=label, prompt=with_article(f"{paint} {noun}"), colour=paint), mirrored)
    body = jitter(COLOURS[paint], rng, 4.0)
    if motor:
        _draw_motorcycle(machine, body)
    else:
        _draw_bicycle(machine, body)
    if coat is not None:
        thing = Thing(label=Label.RIDER, prompt=f"a rider in {with_article(coat)} coat", colour=coat)
        _draw_rider(Figure(stage, pose, thing, mirrored), jitter(COLOURS[coat], rng, 4.0), motor)


def _draw_bicycle(figure: Figure, body: Rgb) -> None:
    for u in (-0.55, 0.55):
        figure.ring(u, 0.35, 0.31, 0.09, mix(body, RUBBER, 0.12))
    for start, end in (
        ((-0.55, 0.35), (-0.08, 0.32)), ((-0.55, 0.35), (-0.2, 0.86)), ((-0.2, 0.86), (-0.08, 0.32)),
        ((-0.08, 0.32), (0.42, 0.82)), ((-0.18, 0.8), (0.42, 0.82)), ((0.55, 0.35), (0.4, 0.98)),
    ):  # fmt: skip
        figure.bar(start, end, 0.09, body)
    figure.bar((-0.34, 0.92), (-0.06, 0.92), 0.08, RUBBER)
    figure.bar((0.28, 1.02), (0.48, 0.98), 0.06, RUBBER)


def _draw_motorcycle(figure: Figure, body: Rgb) -> None:
    for u in (-0.65, 0.68):
        figure.disc(u, 0.32, 0.31, 0.32, RUBBER)
        figure.disc(u, 0.32, 0.13, 0.13, METAL)
    figure.fill([(-0.5, 0.3), (0.4, 0.3), (0.5, 0.5), (-0.5, 0.5)], body, 0.8)
    figure.fill(
        [(-0.95, 0.82), (-0.75, 0.5), (0.45, 0.42), (0.62, 0.85), (0.45, 0.98), (0.1, 0.98), (-0.1, 0.78)],
        body,
    )
    figure.bar((0.68, 0.32), (0.5, 1.0), 0.1, METAL)
    figure.bar((-0.6, 0.83), (0.0, 0.8), 0.1, RUBBER)
    figure.bar((0.3, 1.08), (0.55, 1.0), 0.07, RUBBER)


def _draw_rider(figure: Figure, coat: Rgb, motor: bool) -> None:
    stage = figure.stage
    skin, legs = _pick(stage, SKINS), _pick(stage, TROUSERS)
    helmet = RUBBER if motor else _pick(stage, HAIRS)
    foot = (0.12, 0.28) if motor else (0.0, 0.18)
    figure.bar((-0.2, 0.92), (0.16, 0.62), 0.16, legs)
    figure.bar((0.16, 0.66), foot, 0.13, legs)
    figure.fill([(-0.36, 0.84), (-0.02, 0.84), (0.26, 1.32), (0.14, 1.48), (-0.12, 1.46), (-0.36, 1.1)], coat)
    figure.bar((0.12, 1.36), (0.42, 1.04), 0.14, coat, 1.08)
    figure.disc(0.43, 1.03, 0.05, 0.05, skin)
    figure.disc(0.14, 1.63, 0.13, 0.14, helmet)
    figure.disc(0.19, 1.58, 0.08, 0.09, skin)
