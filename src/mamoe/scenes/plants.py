"""Trees and bushes."""

from .canvas import Stage, disc, stuff
from .palette import Label, Rgb, jitter
from .setting import Setting


def _leaf(stage: Stage, setting: Setting) -> Rgb:
    return jitter(setting.leaves[int(stage.rng.integers(len(setting.leaves)))], stage.rng, 6.0)


def draw_tree(stage: Stage, x: float, z: float, setting: Setting) -> None:
    """A trunk and a crown of overlapping discs, lighter towards the sky."""
    rng, camera = stage.rng, stage.camera
    height, spread = float(rng.uniform(4.6, 7.5)), float(rng.uniform(1.3, 2.0))
    green, leaves = stuff(Label.VEGETATION), _leaf(stage, setting)
    stage.shadow(camera.ground(x - 1.2, x + 1.2, z - 0.5, z + 0.6))
    trunk = [camera.project(x + a, b, z) for a, b in ((-0.16, 0), (0.16, 0), (0.1, height * 0.6), (-0.1, height * 0.6))]
    stage.paint(trunk, (96, 72, 56), z, green)
    scale_px = camera.focal / z
    for gain, lift in ((0.78, -0.5), (0.92, 0.0), (1.08, 0.55)):
        for shift in (-0.55, 0.5, 0.0):
            u = x + (shift + rng.uniform(-0.15, 0.15)) * spread
            y = height * 0.72 + lift + rng.uniform(-0.2, 0.3)
            size = spread * (0.95 if gain < 0.8 else 0.75 if gain < 1.0 else 0.5)
            crown = disc(*camera.project(u, y, z), size * scale_px, size * scale_px * 0.92, 28)
            stage.paint(crown, leaves, z, green, gain)


def draw_bush(stage: Stage, x: float, z: float, size: float, setting: Setting) -> None:
    """A round bush or a far crown that stands on the ground."""
    camera, green, leaves = stage.camera, stuff(Label.VEGETATION), _leaf(stage, setting)
    radius = size * camera.focal / z
    for gain, shift, lift, share in ((0.85, -0.4, 0.4, 0.75), (0.92, 0.45, 0.35, 0.7), (1.04, 0.0, 0.6, 0.65)):
        column, row = camera.project(x + shift * size, lift * size, z)
        stage.paint(disc(column, row, radius * share, radius * share), leaves, z, green, gain)
