"""What kinds of places the streets run through."""

from dataclasses import dataclass

from .palette import Rgb

ASPHALT: Rgb = (98, 98, 104)
PAVING: Rgb = (176, 168, 160)
GRASS: Rgb = (122, 152, 84)
LEAVES: tuple[Rgb, ...] = ((74, 118, 62), (92, 132, 66), (60, 104, 70))


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One kind of place; lengths in metres, shares in 0..1."""

    phrases: tuple[str, ...]
    road: float  # half the width of the road
    walk: float  # width of each sidewalk; 0 for none
    yard: float  # green strip between sidewalk and houses
    storeys: tuple[int, int]
    facades: tuple[Rgb, ...]
    roofs: tuple[Rgb, ...]  # empty: flat roofs
    gaps: float  # share of plots without a house
    trees: float  # share of the places along the kerb that have a tree
    leaves: tuple[Rgb, ...] = LEAVES
    railing: bool = False  # a wall or fence along the road
    tram: float = 0.0  # chance of a train


TOWN = Setting(
    phrases=("a street in a town", "a town street"),
    road=4.8,
    walk=2.6,
    yard=0.0,
    storeys=(2, 3),
    facades=((226, 196, 160), (214, 170, 140), (232, 212, 184), (200, 160, 150)),
    roofs=((150, 82, 66), (132, 76, 70)),
    gaps=0.12,
    trees=0.42,
)
CITY = Setting(
    phrases=("a city street", "a street in a city"),
    road=6.4,
    walk=3.2,
    yard=0.0,
    storeys=(4, 8),
    facades=((176, 172, 170), (150, 156, 166), (188, 160, 140), (206, 200, 190), (134, 128, 132)),
    roofs=(),
    gaps=0.06,
    trees=0.3,
    tram=0.15,
)
SUBURB = Setting(
    phrases=("a suburban street", "a quiet street with gardens"),
    road=4.2,
    walk=1.8,
    yard=3.0,
    storeys=(1, 2),
    facades=((236, 228, 214), (220, 200, 176), (196, 206, 210), (214, 186, 170)),
    roofs=((108, 90, 88), (148, 92, 76), (92, 96, 108)),
    gaps=0.3,
    trees=0.6,
)
HIGHWAY = Setting(
    phrases=("a highway", "a wide road"),
    road=8.0,
    walk=0.0,
    yard=9.0,
    storeys=(2, 4),
    facades=((190, 186, 180), (170, 172, 178)),
    roofs=(),
    gaps=0.8,
    trees=0.5,
    railing=True,
)
OLD_TOWN = Setting(
    phrases=("a street in a town", "a town street"),
    road=4.9,
    walk=2.6,
    yard=0.0,
    storeys=(2, 3),
    facades=((224, 190, 152), (216, 176, 142), (230, 204, 172)),
    roofs=((146, 84, 68),),
    gaps=0.16,
    trees=0.5,
    leaves=((84, 112, 62), (96, 120, 64)),
)
