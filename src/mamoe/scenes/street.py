"""A whole street: who and what stands where, drawn from far to near."""

import math
from collections.abc import Callable
from functools import partial

from .camera import Pose
from .canvas import Stage
from .furniture import draw_lamp_post, draw_railing, draw_sign, draw_signal
from .ground import draw_ground, draw_sky
from .houses import draw_house, draw_vista
from .palette import COLOURS, Label
from .people import draw_cyclist, draw_person
from .plants import draw_bush, draw_tree
from .setting import Setting
from .shapes import BUS, HATCH, SALOON, TRAIN, TRUCK, Shape
from .vehicles import draw_vehicle

Item = tuple[float, Callable[[], None]]  # depth in metres, what to draw there

WORDS = tuple(COLOURS)


def pick_colour(stage: Stage) -> str:
    """Every word is as likely as any other, so that each is learnt equally well."""
    return WORDS[int(stage.rng.integers(len(WORDS)))]


def draw_street(stage: Stage, setting: Setting) -> None:
    """Fill the stage with a street; things hide what stands behind them."""
    rng = stage.rng
    crossing = float(rng.uniform(8.0, 15.0)) if setting.walk and rng.random() < 0.4 else None
    draw_sky(stage, stage.camera.horizon)
    draw_ground(stage, setting, crossing)
    draw_vista(stage, setting)
    if setting.railing:
        label = Label.WALL if rng.random() < 0.5 else Label.FENCE
        for side in (-1.0, 1.0):
            draw_railing(stage, side * (setting.road + 0.6), label)
    items = _houses(stage, setting) + _furniture(stage, setting)
    items += _traffic(stage, setting) + _walkers(stage, setting, crossing)
    for _, draw in sorted(items, key=lambda item: -item[0]):
        draw()


def _houses(stage: Stage, setting: Setting) -> list[Item]:
    rng = stage.rng
    items: list[Item] = []
    edge = setting.road + setting.walk + setting.yard
    for side in (-1.0, 1.0):
        z = float(rng.uniform(4.0, 9.0))
        while z < 100.0:
            length = float(rng.uniform(7.0, 13.0))
            if rng.random() > setting.gaps:
                items.append((z + length, partial(draw_house, stage, setting, side, z, z + length)))
            else:
                for step in (0.25, 0.75):
                    x = side * (edge + float(rng.uniform(1.5, 4.0)))
                    items.append((z + length * step, partial(draw_tree, stage, x, z + length * step, setting)))
            z += length
        if setting.yard:
            for _ in range(8):
                x, depth = side * (edge - float(rng.uniform(0.6, 1.6))), float(rng.uniform(8.0, 50.0))
                items.append((depth, partial(draw_bush, stage, x, depth, float(rng.uniform(0.6, 1.2)), setting)))
    return items


def _furniture(stage: Stage, setting: Setting) -> list[Item]:
    rng = stage.rng
    items: list[Item] = []
    for side in (-1.0, 1.0):
        kerb = side * (setting.road + (0.5 if setting.walk else 2.0))
        z = float(rng.uniform(7.0, 13.0))
        while z < 70.0:
            if rng.random() < setting.trees:
                items.append((z, partial(draw_tree, stage, kerb + side * 0.4, z, setting)))
            elif rng.random() < 0.5:
                items.append((z, partial(draw_lamp_post, stage, kerb, z)))
            z += float(rng.uniform(5.0, 9.0))
        for chance, draw in ((0.4, draw_signal), (0.5, draw_sign)):
            if rng.random() < chance:
                depth = float(rng.uniform(8.0, 20.0))
                items.append((depth, partial(draw, stage, kerb, depth)))
    return items


def _pick_shape(stage: Stage, big: float) -> Shape:
    rng = stage.rng
    if rng.random() < big:
        return BUS if rng.random() < 0.5 else TRUCK
    return HATCH if rng.random() < 0.5 else SALOON


def _traffic(stage: Stage, setting: Setting) -> list[Item]:
    """Vehicles that drive or park along the street, and now and then one that crosses it."""
    rng = stage.rng
    items: list[Item] = []
    across = rng.random() < 0.35
    if across:
        items.append(_crossing_vehicle(stage))
    busy = items[0][0] if across else math.inf  # depth that the lanes keep free
    parking = setting.road - 1.1
    lanes = [(parking, 0.0, 0.06), (-parking, math.pi, 0.06), (-setting.road * 0.28, math.pi, 0.28)]
    lanes.append((setting.road * 0.3, 0.0, 0.28))
    for x, yaw, big in lanes:
        z = float(rng.uniform(5.5, 14.0))
        for _ in range(int(rng.integers(0, 3))):
            shape = _pick_shape(stage, big)
            depth = z + shape.length / 2
            lean = yaw + float(rng.normal(0.0, 0.04))
            pose = Pose(x=x + float(rng.normal(0.0, 0.15)), z=depth, yaw=lean)
            if abs(busy - depth) > shape.length / 2 + 1.6:
                items.append((depth, partial(draw_vehicle, stage, shape, pose, pick_colour(stage))))
            z = depth + shape.length / 2 + float(rng.uniform(2.0, 12.0))
    if rng.random() < setting.tram:
        pose = Pose(x=-0.3, z=float(rng.uniform(20.0, 30.0)), yaw=math.pi)
        items.append((pose.z, partial(draw_vehicle, stage, TRAIN, pose, pick_colour(stage))))
    return items


def _crossing_vehicle(stage: Stage) -> Item:
    """A vehicle that stands across the street, seen from the side."""
    rng = stage.rng
    shape = _pick_shape(stage, 0.3)
    depth = float(rng.uniform(10.0, 26.0))
    turn = math.pi / 2 if rng.random() < 0.5 else -math.pi / 2
    pose = Pose(x=float(rng.uniform(-2.5, 2.5)), z=depth, yaw=turn + float(rng.normal(0.0, 0.12)))
    return depth, partial(draw_vehicle, stage, shape, pose, pick_colour(stage))


def _walkers(stage: Stage, setting: Setting, crossing: float | None) -> list[Item]:
    rng = stage.rng
    items: list[Item] = []
    if setting.walk:
        for _ in range(int(rng.integers(1, 5))):
            side = 1.0 if rng.random() < 0.5 else -1.0
            x = side * (setting.road + float(rng.uniform(0.5, setting.walk - 0.4)))
            pose = Pose(x=x, z=float(rng.uniform(7.5, 20.0)))
            items.append((pose.z, partial(draw_person, stage, pose, pick_colour(stage))))
    if crossing is not None:
        pose = Pose(x=float(rng.uniform(-0.7, 0.7)) * setting.road, z=crossing)
        items.append((pose.z, partial(draw_person, stage, pose, pick_colour(stage))))
    if setting.walk and rng.random() < 0.45:
        ridden = rng.random() < 0.75
        x = float(rng.uniform(-0.6, 0.6)) * setting.road if ridden else setting.road + 0.7
        pose = Pose(x=x, z=float(rng.uniform(6.0, 13.0)))
        coat = pick_colour(stage) if ridden else None
        motor = bool(rng.random() < 0.35)
        items.append((pose.z, partial(draw_cyclist, stage, pose, coat, pick_colour(stage), motor)))
    return items
