"""Draw a vehicle: its side outline stretched across its width, the faces turned to the camera only."""

import math

from .camera import Place, Pose
from .canvas import Stage, Thing, disc
from .caption import with_article
from .palette import COLOURS, GLASS, LAMP_GLOW, METAL, RUBBER, TAIL_GLOW, Label, Rgb, jitter, mix
from .shapes import Shape, box


def draw_vehicle(stage: Stage, shape: Shape, pose: Pose, colour: str) -> None:
    """Draw the faces that the camera sees, far ones first."""
    segment = stage.canvas.add(Thing(label=shape.label, prompt=with_article(f"{colour} {shape.noun}"), colour=colour))
    paint = jitter(COLOURS[colour], stage.rng, 5.0)
    eye = pose.eye(stage.camera)
    _draw_shadow(stage, shape, pose)
    _draw_tyres(stage, shape, pose, segment)
    side = 1.0 if eye[0] > 0 else -1.0
    faces = [(-abs(eye[2] - (a[0] + b[0]) / 2), number) for number, (a, b) in enumerate(_pieces(shape))]
    for _, number in sorted(faces):
        _draw_strip(stage, shape, pose, number, paint, segment)
    if abs(eye[0]) > shape.width / 2:
        _draw_side(stage, shape, pose, side, paint, segment)


def _pieces(shape: Shape) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    return list(zip(shape.outline[:-1], shape.outline[1:], strict=True))


def _draw_shadow(stage: Stage, shape: Shape, pose: Pose) -> None:
    place = pose.placer(stage.camera)
    for grow in (0.0, 0.3):
        half, end = shape.width / 2 + grow, shape.length / 2 + grow
        stage.shadow([place(u, 0.0, v) for u, v in ((-half, -end), (half, -end), (half, end), (-half, end))])


def _draw_tyres(stage: Stage, shape: Shape, pose: Pose, segment: int) -> None:
    """The tyres under both ends: the body is drawn over all but their feet."""
    place, sill = pose.placer(stage.camera), shape.outline[0][1]
    for axle in shape.wheels:
        for sign in (-1.0, 1.0):
            inner, outer = sign * (shape.width / 2 - 0.28), sign * shape.width / 2
            corners = [place(u, y, axle) for u, y in ((inner, 0.0), (outer, 0.0), (outer, sill), (inner, sill))]
            stage.paint(corners, RUBBER, pose.z, segment)


def _draw_strip(stage: Stage, shape: Shape, pose: Pose, number: int, paint: Rgb, segment: int) -> None:
    """One piece of the outline stretched across the width: a bumper, the bonnet, a pane, the roof."""
    (v0, y0), (v1, y1) = _pieces(shape)[number]
    eye = pose.eye(stage.camera)
    normal = (-(y1 - y0), v1 - v0)
    if normal[0] * (eye[2] - v0) + normal[1] * (eye[1] - y0) <= 0:
        return
    place, half = pose.placer(stage.camera), shape.width / 2
    top = half * 0.88 if shape.label == Label.CAR else half
    inner = [top if y > 1.2 else half for y in (y0, y1)]
    low, high = inner
    corners = [place(-low, y0, v0), place(low, y0, v0), place(high, y1, v1), place(-high, y1, v1)]
    steep = abs(normal[0]) / math.hypot(*normal)
    gain = 1.1 - 0.2 * steep
    stage.paint(corners, paint, pose.z, segment, gain)
    if number in shape.panes:
        _draw_panel(stage, pose, (v0, y0), (v1, y1), (0.1, 0.92), high * 0.86, GLASS, segment)
    if number == 0 or number == len(shape.outline) - 2:
        _draw_end(stage, shape, pose, number == 0, segment)


def _draw_panel(
    stage: Stage,
    pose: Pose,
    low: tuple[float, float],
    high: tuple[float, float],
    span: tuple[float, float],
    half: float,
    colour: Rgb,
    segment: int,
) -> None:
    """A rectangle on the sloping face from ``low`` to ``high``, between two shares of its rise."""
    place = pose.placer(stage.camera)
    ends = [(low[0] + (high[0] - low[0]) * s, low[1] + (high[1] - low[1]) * s) for s in span]
    corners = [place(u, y, v) for (v, y), u in ((ends[0], -half), (ends[0], half), (ends[1], half), (ends[1], -half))]
    stage.paint(corners, colour, pose.z, segment)


def _draw_end(stage: Stage, shape: Shape, pose: Pose, rear: bool, segment: int) -> None:
    """Lamps, number plate and (on tall vehicles) the pane of the rear or the front."""
    first, second = _pieces(shape)[0 if rear else -1]
    low, high = (first, second) if rear else (second, first)
    rise = high[1] - low[1]
    half = shape.width / 2
    _draw_panel(stage, pose, low, high, (0.0, 0.12), half, RUBBER, segment)
    if shape.label in (Label.BUS, Label.TRAIN):
        _draw_panel(stage, pose, low, high, (0.5, 0.9), half * 0.84, GLASS, segment)
    if shape.label == Label.TRUCK and rear:
        _draw_panel(stage, pose, low, high, (0.12, 0.94), 0.03, mix(METAL, RUBBER, 0.5), segment)
    _draw_panel(stage, pose, low, high, (0.16, 0.16 + 0.13 / rise), 0.24, (225, 225, 220), segment)
    _draw_lamps(stage, shape, pose, rear, segment)


def _draw_lamps(stage: Stage, shape: Shape, pose: Pose, rear: bool, segment: int) -> None:
    place = pose.placer(stage.camera)
    v = (-0.5 if rear else 0.5) * shape.length
    bright = TAIL_GLOW if rear else (255, 244, 205)
    shining = stage.light.glow > 0.3
    colour = bright if shining else mix(bright, (120, 110, 110), 0.35)
    for sign in (-1.0, 1.0):
        u, size = sign * (shape.width / 2 - 0.24), 0.15
        corners = [place(u + a * size, shape.lamp + b * 0.08, v) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        stage.canvas.polygon(corners, colour, segment)
        if shining:
            radius = stage.camera.focal * (0.28 if rear else 0.45) / pose.z
            stage.halo(place(u, shape.lamp, v), radius, bright if rear else LAMP_GLOW)


def _draw_side(stage: Stage, shape: Shape, pose: Pose, side: float, paint: Rgb, segment: int) -> None:
    place, half = pose.placer(stage.camera), side * shape.width / 2
    lean = 0.88 if shape.label == Label.CAR else 1.0

    def on_side(v: float, y: float) -> tuple[float, float]:
        return place(half * (lean if y > 1.2 else 1.0), y, v)

    gain = 1.0 if side > 0 else 0.94
    stage.paint([on_side(v, y) for v, y in shape.outline], paint, pose.z, segment, gain)
    sill = shape.outline[0][1]
    ends = (shape.outline[0][0], shape.outline[-1][0])
    stage.paint([on_side(v, y) for v, y in box(*ends, sill, sill + 0.1)], RUBBER, pose.z, segment)
    for window in shape.windows:
        stage.paint([on_side(v, y) for v, y in window], GLASS, pose.z, segment)
    if shape.stripe is not None:
        stage.paint([on_side(v, y) for v, y in shape.stripe], mix(paint, METAL, 0.6), pose.z, segment)
    for axle in shape.wheels:
        _draw_wheel(stage, place, half, axle, shape.wheel, pose.z, segment)


def _draw_wheel(stage: Stage, place: Place, u: float, axle: float, radius: float, depth: float, segment: int) -> None:
    for share, colour in ((1.0, RUBBER), (0.55, METAL)):
        rim = [place(u, y, v) for v, y in disc(axle, radius, share * radius, share * radius)]
        stage.paint(rim, colour, depth, segment)
