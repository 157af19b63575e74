"""The paints, the class ids and the light of the drawn scenes."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

Rgb = tuple[int, int, int]


class Label(IntEnum):
    """Cityscapes train ids; the eight last ones are things, the others stuff."""

    ROAD = 0
    SIDEWALK = 1
    BUILDING = 2
    WALL = 3
    FENCE = 4
    POLE = 5
    TRAFFIC_LIGHT = 6
    TRAFFIC_SIGN = 7
    VEGETATION = 8
    TERRAIN = 9
    SKY = 10
    PERSON = 11
    RIDER = 12
    CAR = 13
    TRUCK = 14
    BUS = 15
    TRAIN = 16
    MOTORCYCLE = 17
    BICYCLE = 18


# Paints lie far apart in hue or lightness: windows, wheels and dusk light pull every mean colour
# towards dark grey, and each must stay nearest to its own word after that pull.
COLOURS: dict[str, Rgb] = {
    "red": (214, 30, 38),
    "orange": (250, 134, 16),
    "yellow": (252, 222, 40),
    "green": (32, 158, 66),
    "blue": (28, 92, 224),
    "purple": (158, 52, 196),
    "white": (244, 243, 238),
    "black": (34, 34, 40),
}

GLASS: Rgb = (92, 112, 132)
RUBBER: Rgb = (30, 30, 34)
METAL: Rgb = (150, 152, 158)
PAINT_WHITE: Rgb = (226, 224, 216)
LAMP_GLOW: Rgb = (255, 222, 150)
TAIL_GLOW: Rgb = (236, 40, 36)


@dataclass(frozen=True, kw_only=True, slots=True)
class Light:
    """The light of one picture: colours in 0..255, ``tint`` multiplies every painted colour."""

    phrases: tuple[str, ...]
    sky_top: Rgb
    sky_low: Rgb
    tint: tuple[float, float, float]
    haze: Rgb
    glow: float  # share of windows and lamps that shine, 0..1
    shadow: int  # opacity of the shadows on the ground, 0..255


DAY = Light(
    phrases=("by day", "on a sunny day"),
    sky_top=(96, 160, 226),
    sky_low=(206, 228, 242),
    tint=(1.0, 0.99, 0.96),
    haze=(206, 222, 234),
    glow=0.0,
    shadow=110,
)
OVERCAST = Light(
    phrases=("on a cloudy day", "under a grey sky"),
    sky_top=(158, 168, 180),
    sky_low=(212, 216, 220),
    tint=(0.88, 0.9, 0.93),
    haze=(204, 208, 214),
    glow=0.1,
    shadow=60,
)
DUSK = Light(
    phrases=("at dusk", "in the evening"),
    sky_top=(72, 72, 134),
    sky_low=(250, 168, 116),
    tint=(0.92, 0.8, 0.84),
    haze=(206, 150, 142),
    glow=0.55,
    shadow=90,
)
NIGHT = Light(
    phrases=("at night",),
    sky_top=(14, 18, 44),
    sky_low=(48, 52, 92),
    tint=(0.66, 0.66, 0.78),
    haze=(46, 50, 84),
    glow=0.6,
    shadow=110,
)


def mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """Blend two colours; ``share`` (0..1) is the weight of ``second``."""
    a, b, c = (round(p + (q - p) * share) for p, q in zip(first, second, strict=True))
    return a, b, c


def scale(colour: Rgb, gain: float) -> Rgb:
    """Lighten (gain > 1) or darken (gain < 1) a colour, kept within 0..255."""
    a, b, c = (min(255, max(0, round(part * gain))) for part in colour)
    return a, b, c


def jitter(colour: Rgb, rng: np.random.Generator, spread: float) -> Rgb:
    """A nearby colour: normal noise of ``spread`` levels, half shared by the three channels."""
    common = rng.normal(0.0, spread)
    a, b, c = (min(255, max(0, round(part + common + rng.normal(0.0, spread / 2)))) for part in colour)
    return a, b, c


def lit(colour: Rgb, light: Light, depth: float, gain: float = 1.0) -> Rgb:
    """The colour seen in ``light`` from ``depth`` metres away: tinted, then faded into the haze."""
    a, b, c = (part * tint * gain for part, tint in zip(colour, light.tint, strict=True))
    fade = depth / (depth + 160.0)
    r, g, h = light.haze
    return (
        min(255, int(a + (r - a) * fade)),
        min(255, int(b + (g - b) * fade)),
        min(255, int(c + (h - c) * fade)),
    )
