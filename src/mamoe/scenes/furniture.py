"""Street lamps, traffic lights, signs, walls and fences."""

from itertools import pairwise

from .canvas import Stage, disc, stuff
from .palette import LAMP_GLOW, METAL, PAINT_WHITE, Label, Rgb, scale

POST: Rgb = (84, 86, 94)


def draw_lamp_post(stage: Stage, x: float, z: float) -> None:
    """A street lamp that leans over the road; it shines when the light of the day has gone."""
    camera, inward = stage.camera, -1.0 if x > 0 else 1.0
    pole = stuff(Label.POLE)
    for outline in (
        ((-0.09, 0.0), (0.09, 0.0), (0.06, 5.4), (-0.06, 5.4)),
        ((0.0, 5.28), (inward * 1.1, 5.5), (inward * 1.1, 5.64), (0.0, 5.42)),
    ):
        stage.paint([camera.project(x + a, b, z) for a, b in outline], POST, z, pole)
    shining = stage.light.glow > 0.3
    head = camera.upright(x + inward * 0.7, x + inward * 1.3, 5.4, 5.56, z)
    if shining:
        stage.canvas.polygon(head, LAMP_GLOW, pole)
        pool_x, pool_y = camera.project(x + inward, 0.0, z)
        radius = 2.4 * camera.focal / z
        stage.canvas.glaze(disc(pool_x, pool_y, radius, radius * 0.22), LAMP_GLOW, 22)
        stage.halo(camera.project(x + inward, 5.45, z), 1.5 * camera.focal / z, LAMP_GLOW)
    else:
        stage.paint(head, METAL, z, pole)


def draw_signal(stage: Stage, x: float, z: float) -> None:
    """A traffic light on a post; the lamp that shines is always drawn in full brightness."""
    camera = stage.camera
    stage.paint(camera.upright(x - 0.07, x + 0.07, 0.0, 2.5, z), POST, z, stuff(Label.POLE))
    stage.paint(camera.upright(x - 0.22, x + 0.22, 2.4, 3.5, z), (40, 42, 46), z, stuff(Label.TRAFFIC_LIGHT))
    active = int(stage.rng.integers(3))
    for number, colour in enumerate(((60, 220, 110), (250, 190, 50), (240, 50, 44))):
        centre, radius = camera.project(x, 2.6 + 0.35 * number, z), 0.14 * camera.focal / z
        shown = colour if number == active else scale(colour, 0.3)
        stage.canvas.polygon(disc(*centre, radius, radius), shown, stuff(Label.TRAFFIC_LIGHT))


def draw_sign(stage: Stage, x: float, z: float) -> None:
    """A road sign: a blue square, a red-rimmed disc or a yellow diamond on a post."""
    camera, sign = stage.camera, stuff(Label.TRAFFIC_SIGN)
    stage.paint(camera.upright(x - 0.05, x + 0.05, 0.0, 2.4, z), METAL, z, stuff(Label.POLE))
    (column, row), size = camera.project(x, 2.5, z), 0.38 * camera.focal / z
    kind = int(stage.rng.integers(3))
    if kind == 0:
        corners = [(column - size, row - size), (column + size, row - size), (column + size, row + size)]
        stage.paint([*corners, (column - size, row + size)], (40, 96, 190), z, sign)
        stage.paint(disc(column, row, size * 0.5, size * 0.5), PAINT_WHITE, z, sign)
    elif kind == 1:
        stage.paint(disc(column, row, size, size), (206, 44, 44), z, sign)
        stage.paint(disc(column, row, size * 0.62, size * 0.62), PAINT_WHITE, z, sign)
    else:
        stage.paint(disc(column, row, size * 1.15, size * 1.15, 4), PAINT_WHITE, z, sign)
        stage.paint(disc(column, row, size * 0.85, size * 0.85, 4), (240, 196, 60), z, sign)


def draw_railing(stage: Stage, x: float, label: Label) -> None:
    """A low wall, or a fence with posts, along the whole street at ``x``."""
    colour = (172, 168, 162) if label == Label.WALL else (132, 110, 92)
    cuts = (3.0, 8.0, 16.0, 32.0, 80.0)
    for z0, z1 in pairwise(cuts):
        stage.paint(stage.camera.along(x, 0.0, 1.0, z0, z1), colour, z0, stuff(label))
    if label == Label.FENCE:
        for number in range(40):
            z = 3.0 + 0.9 * number
            stage.paint(stage.camera.along(x, 0.0, 1.0, z, z + 0.16), scale(colour, 0.75), z, stuff(label))
