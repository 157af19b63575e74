"""Pictures of one to three large things in front of a plain background."""

import math

from .camera import Pose
from .canvas import Stage, stuff
from .ground import draw_sky
from .palette import Label, Rgb, jitter, lit, mix, scale
from .people import draw_cyclist, draw_person
from .plants import draw_bush
from .setting import ASPHALT, GRASS, PAVING, TOWN
from .shapes import BUS, HATCH, SALOON, TRAIN, TRUCK
from .street import pick_colour
from .vehicles import draw_vehicle

FLOORS: dict[Label, Rgb] = {Label.ROAD: ASPHALT, Label.SIDEWALK: PAVING, Label.TERRAIN: GRASS}
BACKDROPS = (Label.BUILDING, Label.WALL, Label.SKY, Label.VEGETATION)
WALLS: tuple[Rgb, ...] = ((214, 200, 178), (176, 116, 96), (168, 176, 186), (226, 220, 208), (150, 142, 136))
KINDS = ("car", "person", "bus", "truck", "bicycle", "motorcycle", "train")
SHARES = (0.36, 0.28, 0.1, 0.09, 0.08, 0.06, 0.03)


def draw_close_up(stage: Stage) -> Label:
    """Fill the stage; returns the class of the ground, for the caption."""
    rng, canvas = stage.rng, stage.canvas
    floor = tuple(FLOORS)[int(rng.integers(len(FLOORS)))]
    foot = stage.camera.horizon + 0.06 * canvas.height
    draw_sky(stage, foot)
    _draw_backdrop(stage, foot)
    near = jitter(FLOORS[floor], rng, 6.0)
    canvas.gradient(
        foot,
        canvas.height,
        (lit(near, stage.light, 9.0, 0.84), lit(near, stage.light, 0.0, 1.04)),
        stuff(floor),
    )
    count = int(rng.choice(3, p=(0.6, 0.3, 0.1))) + 1
    room = canvas.width / count
    for slot in range(count):
        _draw_thing(stage, (slot + 0.5) * room, room)
    return floor


def _draw_backdrop(stage: Stage, foot: float) -> None:
    rng, canvas, light = stage.rng, stage.canvas, stage.light
    label = BACKDROPS[int(rng.integers(len(BACKDROPS)))]
    if label == Label.SKY:
        return
    if label == Label.VEGETATION:
        hedge = lit((64, 104, 60), light, 12.0)
        canvas.gradient(0.7 * foot, foot, (hedge, scale(hedge, 0.8)), stuff(label))
        for _ in range(26):
            draw_bush(stage, float(rng.uniform(-14.0, 14.0)), 16.0, float(rng.uniform(1.4, 3.0)), TOWN)
        return
    top = 0.0 if label == Label.BUILDING else float(rng.uniform(0.3, 0.6)) * foot
    colour = lit(jitter(WALLS[int(rng.integers(len(WALLS)))], rng, 8.0), light, 12.0)
    canvas.gradient(top, foot, (colour, scale(colour, 0.86)), stuff(label))
    canvas.gradient(top, top + 0.03 * canvas.height, (scale(colour, 0.8), scale(colour, 0.8)), stuff(label))
    if label == Label.BUILDING:
        _draw_windows(stage, foot)


def _draw_windows(stage: Stage, foot: float) -> None:
    """A row of windows on the house behind."""
    rng, canvas = stage.rng, stage.canvas
    width = canvas.height * float(rng.uniform(0.16, 0.26))
    x = float(rng.uniform(-1.0, 0.0)) * width
    while x < canvas.width:
        pane = lit((104, 118, 138), stage.light, 12.0)
        if rng.random() < stage.light.glow:
            pane = mix((255, 208, 120), stage.light.haze, 0.1)
        corners = [(x, 0.2 * foot), (x + width, 0.2 * foot), (x + width, 0.72 * foot), (x, 0.72 * foot)]
        canvas.polygon(corners, pane, stuff(Label.BUILDING))
        x += 2.0 * width


def _draw_thing(stage: Stage, column: float, room: float) -> None:
    """One thing that fills most of ``room`` pixels of width or of the picture's height."""
    rng, camera, height = stage.rng, stage.camera, stage.canvas.height
    kind = KINDS[int(rng.choice(len(KINDS), p=SHARES))]
    tall = height * float(rng.uniform(0.5, 0.8))
    # Closer than this the feet or wheels would fall below the picture.
    nearest = camera.focal * camera.height / (0.93 * height - camera.horizon)
    if kind in ("person", "bicycle", "motorcycle"):
        wide = 0.9 if kind == "person" else 2.2
        depth = max(nearest, camera.focal * 1.8 / tall, camera.focal * wide / room)
        pose = Pose(x=camera.x + (column - camera.centre) * depth / camera.focal, z=depth)
        if kind == "person":
            draw_person(stage, pose, pick_colour(stage))
        else:
            coat = pick_colour(stage) if rng.random() < 0.6 else None
            draw_cyclist(stage, pose, coat, pick_colour(stage), kind == "motorcycle")
        return
    shape = {"bus": BUS, "truck": TRUCK, "train": TRAIN}.get(kind, HATCH if rng.random() < 0.5 else SALOON)
    yaw = float(rng.choice((0.0, math.pi))) + float(rng.choice((0.0, 0.5, 0.9, 1.57, -0.5, -0.9, -1.57)))
    wide = abs(math.cos(yaw)) * shape.width + abs(math.sin(yaw)) * shape.length
    high = max(y for _, y in shape.outline)
    reach = (abs(math.cos(yaw)) * shape.length + abs(math.sin(yaw)) * shape.width) / 2
    depth = max(nearest, camera.focal * high / tall, camera.focal * wide / (room * 0.95)) + reach
    pose = Pose(x=camera.x + (column - camera.centre) * depth / camera.focal, z=depth, yaw=yaw)
    draw_vehicle(stage, shape, pose, pick_colour(stage))
