"""Houses along the street and the view at its end."""

from collections.abc import Sequence

from .camera import Pixel
from .canvas import Stage, stuff
from .palette import Label, jitter, mix
from .plants import draw_bush
from .setting import Setting

STOREY = 3.1  # metres
VISTA = 110.0  # metres to the houses that close the view


def draw_vista(stage: Stage, setting: Setting) -> None:
    """What closes the view at the end of the street: far houses behind a band of trees."""
    rng, camera = stage.rng, stage.camera
    reach = stage.canvas.width / camera.focal * VISTA
    x = -reach / 2 + camera.x
    while x < reach / 2 + camera.x:
        width, height = rng.uniform(8, 16), rng.uniform(*setting.storeys) * STOREY * 0.8 + 2.0
        colour = jitter(setting.facades[int(rng.integers(len(setting.facades)))], rng, 6.0)
        corners = camera.upright(x, x + width, 0.0, height, VISTA)
        stage.paint(corners, colour, 130.0, stuff(Label.BUILDING))
        x += width * (1.0 if rng.random() > setting.gaps else 1.6)
    for _ in range(12):
        x = rng.uniform(-reach / 2, reach / 2) + camera.x
        draw_bush(stage, x, 100.0, float(rng.uniform(3.0, 7.0)), setting)


def draw_house(stage: Stage, setting: Setting, side: float, near: float, far: float) -> None:
    """A house on one side of the street, from depth ``near`` to ``far``, with windows and a roof."""
    rng, project = stage.rng, stage.camera.project
    x = side * (setting.road + setting.walk + setting.yard)
    storeys = int(rng.integers(setting.storeys[0], setting.storeys[1] + 1))
    height, back = storeys * STOREY + 0.6, x + side * 9.0
    wall = jitter(setting.facades[int(rng.integers(len(setting.facades)))], rng, 5.0)
    building = stuff(Label.BUILDING)
    peak = height + (3.2 if setting.roofs else 0.0)
    ridge = (x + back) / 2
    if setting.roofs:
        roof = jitter(setting.roofs[int(rng.integers(len(setting.roofs)))], rng, 5.0)
        eaves = [project(x - side * 0.3, height - 0.1, z) for z in (near, far)]
        slope = [eaves[0], eaves[1], project(ridge, peak, far), project(ridge, peak, near)]
        stage.paint(slope, roof, near, building)
    gable = [(x, 0.0), (x, height), (ridge, peak), (back, height), (back, 0.0)]
    stage.paint([project(a, b, near) for a, b in gable], wall, near, building, 0.82)
    along = stage.camera.along
    stage.paint(along(x, 0.0, height, near, far), wall, near, building)
    stage.paint(along(x, 0.0, 0.5, near, far), wall, near, building, 0.78)
    if not setting.roofs:
        stage.paint(along(x, height - 0.4, height, near, far), wall, near, building, 1.12)
    if near < 60.0:
        _draw_windows(stage, x, near, far, storeys)
        _draw_gable_windows(stage, x, back, near, storeys)


def _fill_window(stage: Stage, corners: Sequence[Pixel], depth: float, gain: float = 1.0) -> None:
    if stage.rng.random() < stage.light.glow:
        shine = jitter((255, 208, 120), stage.rng, 8.0)
        stage.canvas.polygon(corners, mix(shine, stage.light.haze, depth / (depth + 200.0)), stuff(Label.BUILDING))
    else:
        stage.paint(corners, (96, 104, 122), depth, stuff(Label.BUILDING), gain)


def _draw_windows(stage: Stage, x: float, near: float, far: float, storeys: int) -> None:
    """Rows of windows, and one door, on the face along the street."""
    columns = max(1, int((far - near) / 2.6))
    pitch = (far - near) / columns
    door = int(stage.rng.integers(columns))
    for row in range(storeys):
        for column in range(columns):
            z0 = near + (column + 0.28) * pitch
            z1, top = z0 + 0.46 * pitch, row * STOREY + 2.6
            entrance = row == 0 and column == door
            bottom = 0.1 if entrance else top - 1.6
            corners = stage.camera.along(x, bottom, top, z0, z1)
            if entrance:
                stage.paint(corners, (104, 70, 52), z0, stuff(Label.BUILDING))
            else:
                _fill_window(stage, corners, z0)


def _draw_gable_windows(stage: Stage, x: float, back: float, near: float, storeys: int) -> None:
    """Two columns of windows on the face towards the camera."""
    for row in range(storeys):
        for share in (0.2, 0.6):
            x0 = x + (back - x) * share
            x1, y0 = x0 + (back - x) * 0.16, row * STOREY + 1.0
            _fill_window(stage, stage.camera.upright(x0, x1, y0, y0 + 1.5, near), near, 0.9)
