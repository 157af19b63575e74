"""The sky and the ground: grass, sidewalks, the road and its markings."""

from itertools import pairwise

from .canvas import Stage, disc, stuff
from .palette import PAINT_WHITE, Label, Rgb, lit, mix, scale
from .setting import ASPHALT, GRASS, PAVING, Setting

NEAR = 1.2  # metres; nothing is drawn closer, where the perspective has no end
FAR = 240.0


def draw_sky(stage: Stage, bottom: float) -> None:
    """A gradient down to the row ``bottom``, with a few soft clouds."""
    canvas, light, rng = stage.canvas, stage.light, stage.rng
    canvas.gradient(0.0, bottom, (light.sky_top, light.sky_low), stuff(Label.SKY))
    puff = mix(light.sky_low, (255, 250, 246), 0.35)
    for _ in range(int(rng.integers(2, 6))):
        x, y = rng.uniform(0, canvas.width), rng.uniform(0, bottom * 0.8)
        width = rng.uniform(0.06, 0.2) * canvas.width
        for shift, size in ((-0.5, 0.5), (0.1, 0.75), (0.6, 0.45)):
            canvas.glaze(disc(x + shift * width, y, width * size, width * size * 0.2), puff, 46)


def draw_ground(stage: Stage, setting: Setting, crossing: float | None) -> None:
    """Grass, sidewalks and the road with its markings; ``crossing`` is the depth of a zebra crossing."""
    camera, canvas, light = stage.camera, stage.canvas, stage.light
    shades = lit(GRASS, light, FAR, 0.92), lit(GRASS, light, 0.0, 1.05)
    canvas.gradient(camera.horizon, canvas.height, shades, stuff(Label.TERRAIN))
    road, walk = setting.road, setting.walk
    _strip(stage, -road, road, ASPHALT, Label.ROAD)
    if walk:
        for side in (-1.0, 1.0):
            _strip(stage, side * road, side * (road + walk), PAVING, Label.SIDEWALK)
            _strip(stage, side * road, side * (road + 0.22), scale(PAVING, 1.12), Label.SIDEWALK)
        _draw_slabs(stage, setting)
    _draw_markings(stage, setting, crossing)


def _strip(stage: Stage, x0: float, x1: float, colour: Rgb, label: Label) -> None:
    """A strip of ground that runs along the street, in slices so that the haze grows with depth."""
    cuts = (NEAR, 4.0, 8.0, 14.0, 24.0, 45.0, FAR)
    for z0, z1 in pairwise(cuts):
        stage.paint(stage.camera.ground(x0, x1, z0, z1), colour, (z0 + z1) / 3, stuff(label))


def _draw_slabs(stage: Stage, setting: Setting) -> None:
    """The joints between the paving slabs."""
    joint = scale(PAVING, 0.9)
    for side in (-1.0, 1.0):
        x0, x1 = side * (setting.road + 0.22), side * (setting.road + setting.walk)
        for number in range(12):
            z = 3.0 + 1.4 * number
            _mark(stage, x0, x1, z, z + 0.08, joint, Label.SIDEWALK)


def _draw_markings(stage: Stage, setting: Setting, crossing: float | None) -> None:
    offset = float(stage.rng.uniform(0.0, 6.0))
    lines = (0.0,) if setting.road < 6.0 else (0.0, -setting.road / 2, setting.road / 2)
    for line in lines:
        z = NEAR + offset
        while z < 70.0:
            _mark(stage, line - 0.08, line + 0.08, z, z + 2.6)
            z += 6.0
    for side in (-1.0, 1.0):
        edge = side * (setting.road - 0.35)
        _mark(stage, edge - 0.06, edge + 0.06, NEAR, 90.0)
    if crossing is not None:
        x = -setting.road + 0.6
        while x < setting.road - 0.6:
            _mark(stage, x, x + 0.55, crossing - 1.3, crossing + 1.3)
            x += 1.1


def _mark(
    stage: Stage,
    x0: float,
    x1: float,
    z0: float,
    z1: float,
    colour: Rgb = PAINT_WHITE,
    label: Label = Label.ROAD,
) -> None:
    stage.paint(stage.camera.ground(x0, x1, z0, z1), colour, (z0 + z1) / 2, stuff(label), 0.92)
