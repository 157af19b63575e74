"""A pinhole camera that looks along the street, and poses of things in front of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Pixel = tuple[float, float]
Place = Callable[[float, float, float], Pixel]


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """Metres to pixels: x to the right, y up from the ground, z away from the camera (z > 0)."""

    centre: float  # column of the vanishing point
    horizon: float  # row of the horizon
    focal: float  # pixels
    height: float  # metres above the ground
    x: float = 0.0  # metres right of the middle of the road

    def project(self, x: float, y: float, z: float) -> Pixel:
        """The (column, row) at which the point is seen."""
        ratio = self.focal / z
        return self.centre + (x - self.x) * ratio, self.horizon + (self.height - y) * ratio

    def ground(self, x0: float, x1: float, z0: float, z1: float) -> list[Pixel]:
        """The outline of a rectangle that lies on the ground."""
        return [self.project(x, 0.0, z) for x, z in ((x0, z0), (x1, z0), (x1, z1), (x0, z1))]

    def upright(self, x0: float, x1: float, y0: float, y1: float, z: float) -> list[Pixel]:
        """The outline of a rectangle that faces the camera."""
        return [self.project(x, y, z) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]

    def along(self, x: float, y0: float, y1: float, z0: float, z1: float) -> list[Pixel]:
        """The outline of an upright rectangle that runs along the street."""
        return [self.project(x, y, z) for y, z in ((y0, z0), (y1, z0), (y1, z1), (y0, z1))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pose:
    """Where a thing stands on the ground; at yaw 0 it heads away from the camera, clockwise from above."""

    x: float
    z: float
    yaw: float = 0.0

    def placer(self, camera: Camera) -> Place:
        """Map the thing's own (u right, y up, v forward) metres to pixels."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)

        def place(u: float, y: float, v: float) -> Pixel:
            return camera.project(self.x + u * cos + v * sin, y, self.z - u * sin + v * cos)

        return place

    def eye(self, camera: Camera) -> tuple[float, float, float]:
        """The camera's position in the thing's own (u, y, v) metres."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        dx, dz = camera.x - self.x, -self.z
        return dx * cos - dz * sin, camera.height, dx * sin + dz * cos
