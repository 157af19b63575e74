"""Two drawings made at once: the picture and the map of segment ids, from the same outlines."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .camera import Camera, Pixel
from .palette import Label, Light, Rgb, lit

# Odd, so that the middle one of each pixel's samples is the pixel's centre: the map takes that one.
SAMPLES = 3
FIRST_THING = 20  # stuff has the ids 1..11 (class + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """What was drawn under one segment id."""

    label: Label
    prompt: str
    colour: str


class Canvas:
    """The picture and its id map; both are drawn at ``SAMPLES`` times the size they are read at."""

    def __init__(self, height: int, width: int) -> None:
        size = (width * SAMPLES, height * SAMPLES)
        self.height, self.width = height, width
        self.things: dict[int, Thing] = {}
        self._picture = Image.new("RGB", size)
        self._ids = Image.new("L", size)
        self._solid = ImageDraw.Draw(self._picture)
        self._glaze = ImageDraw.Draw(self._picture, "RGBA")
        self._mark = ImageDraw.Draw(self._ids)

    def add(self, thing: Thing) -> int:
        """Give a new thing its segment id."""
        segment = FIRST_THING + len(self.things)
        if segment > 255:
            raise ValueError(f"a picture holds at most {256 - FIRST_THING} things; draw fewer of them")
        self.things[segment] = thing
        return segment

    def polygon(self, points: Iterable[Pixel], colour: Rgb, segment: int | None) -> None:
        """Fill an outline (pixels); with ``segment`` None only the picture changes."""
        corners = [(x * SAMPLES, y * SAMPLES) for x, y in points]
        self._solid.polygon(corners, fill=colour)
        if segment is not None:
            self._mark.polygon(corners, fill=segment)

    def glaze(self, points: Iterable[Pixel], colour: Rgb, opacity: int) -> None:
        """Lay a see-through colour over the picture alone: shadows, reflections, glow."""
        corners = [(x * SAMPLES, y * SAMPLES) for x, y in points]
        self._glaze.polygon(corners, fill=(*colour, opacity))

    def gradient(self, top: float, bottom: float, colours: tuple[Rgb, Rgb], segment: int) -> None:
        """Fill the rows ``top``..``bottom`` from one colour to the other."""
        first, last = round(top * SAMPLES), round(bottom * SAMPLES)
        if last <= first:
            return
        rows = np.linspace(colours[0], colours[1], last - first).astype(np.uint8)
        band = Image.fromarray(np.ascontiguousarray(rows[:, None, :])).resize((self._picture.width, last - first))
        self._picture.paste(band, (0, first))
        self._mark.rectangle((0, first, self._ids.width, last - 1), fill=segment)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """The picture u8 [H W 3] and the segment ids i32 [H W]."""
        middle = SAMPLES // 2
        ids = np.asarray(self._ids)[middle::SAMPLES, middle::SAMPLES].astype(np.int32)
        return np.asarray(self._picture.reduce(SAMPLES)).copy(), ids


@dataclass(slots=True)
class Stage:
    """All that a drawing function needs: where to draw, seen from where, in which light."""

    canvas: Canvas
    camera: Camera
    light: Light
    rng: np.random.Generator

    def paint(
        self,
        points: Sequence[Pixel],
        colour: Rgb,
        depth: float,
        segment: int | None,
        gain: float = 1.0,
    ) -> None:
        """Fill an outline with a colour as it looks in this light, ``depth`` metres away."""
        self.canvas.polygon(points, lit(colour, self.light, depth, gain), segment)

    def halo(self, centre: Pixel, radius: float, colour: Rgb) -> None:
        """A soft glow around a lamp, on the picture alone."""
        for share, opacity in ((1.0, 26), (0.6, 40), (0.3, 80)):
            self.canvas.glaze(disc(*centre, radius * share, radius * share), colour, opacity)

    def shadow(self, points: Sequence[Pixel]) -> None:
        """A shadow on the ground, on the picture alone."""
        self.canvas.glaze(points, (16, 14, 30), self.light.shadow)


def stuff(label: Label) -> int:
    """The segment id that all of a stuff class shares."""
    return int(label) + 1


def disc(x: float, y: float, rx: float, ry: float, corners: int = 14) -> list[Pixel]:
    """The outline of an ellipse."""
    turn = 2.0 * math.pi / corners
    return [(x + rx * math.cos(i * turn), y + ry * math.sin(i * turn)) for i in range(corners)]
