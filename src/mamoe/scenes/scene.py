"""Street scenes drawn from a seed: the picture, its panoptic map and true words about it."""

import math
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from mamoe.errors import ConfigError
from mamoe.vocabulary.panoptic import PanopticMap

from .camera import Camera
from .canvas import FIRST_THING, Canvas, Stage, stuff
from .caption import close_caption, street_caption
from .closeup import draw_close_up
from .palette import DAY, DUSK, NIGHT, OVERCAST, Label, Light, jitter
from .setting import CITY, HIGHWAY, OLD_TOWN, SUBURB, TOWN, Setting
from .street import draw_street

CLOSE_UPS = 0.3
NAMED_THINGS = 4
SMALLEST_NAMED = 0.002  # of the picture; smaller things cannot be told apart
GRAIN = 1.3  # grey levels of noise over the whole picture
FLOOR_NAMES = {Label.ROAD: "a road", Label.SIDEWALK: "a sidewalk", Label.TERRAIN: "grass"}


class Domain(Enum):
    """Which pictures to draw."""

    BROAD = "broad"  # every place, light and distance, close-ups too: to learn to draw at all
    DUSK_TOWN = "dusk_town"  # one town at dusk: to fine-tune on
    CLOSE_UPS = "close_ups"  # one to three large things, every light: to learn words, in small pictures even


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scene:
    """One drawn scene."""

    image: np.ndarray  # u8 [H W 3]
    panoptic: PanopticMap  # [H W]; every segment has one class, stuff classes are one segment each
    caption: str
    instance_prompts: dict[int, str]  # segment id -> "a red car"; things that are seen, only
    colours: dict[int, str]  # segment id -> the colour word of its prompt


def draw_scene(seed: int, *, domain: Domain = Domain.DUSK_TOWN, height: int = 128, width: int = 256) -> Scene:
    """Draw the scene that belongs to ``seed``; the same arguments always give the same scene.

    Args:
        seed: not negative.
        domain: which pictures to draw.
        height: of the picture in pixels, a multiple of 8, at least 32.
        width: of the picture in pixels, a multiple of 8, at least 32.

    Raises:
        ConfigError: a size or seed that is not such.
    """
    for name, size in (("height", height), ("width", width)):
        if size < 32 or size % 8:
            raise ConfigError(
                f"{name} must be a multiple of 8 and at least 32, got {size}; take {max(32, size // 8 * 8)}"
            )
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, got {seed}; take any other whole number")
    rng = np.random.default_rng(np.random.SeedSequence([seed, tuple(Domain).index(domain)]))
    light, setting, close = DUSK, OLD_TOWN, False
    varied = domain is not Domain.DUSK_TOWN
    if varied:
        light, setting = _any_light(rng), _any_setting(rng)
        close = domain is Domain.CLOSE_UPS or bool(rng.random() < CLOSE_UPS)
    camera = _set_up_camera(rng, height, width, varied)
    stage = Stage(canvas=Canvas(height, width), camera=camera, light=light, rng=rng)
    floor = draw_close_up(stage) if close else None
    if floor is None:
        draw_street(stage, setting)
    image, panoptic = _develop(stage)
    named = _largest_prompts(stage, panoptic)
    time = str(rng.choice(light.phrases))
    if floor is not None:
        caption = close_caption(rng, named, FLOOR_NAMES[floor], time)
    else:
        place = str(rng.choice(setting.phrases))
        caption = street_caption(rng, place, time, named, _extras(rng, panoptic))
    seen = {segment: stage.canvas.things[segment] for segment in panoptic.classes if segment >= FIRST_THING}
    return Scene(
        image=image,
        panoptic=panoptic,
        caption=caption,
        instance_prompts={segment: thing.prompt for segment, thing in seen.items()},
        colours={segment: thing.colour for segment, thing in seen.items()},
    )


def _any_light(rng: np.random.Generator) -> Light:
    light = (DAY, DUSK, NIGHT, OVERCAST)[int(rng.choice(4, p=(0.38, 0.26, 0.14, 0.22)))]
    return replace(light, sky_top=jitter(light.sky_top, rng, 8.0), sky_low=jitter(light.sky_low, rng, 8.0))


def _any_setting(rng: np.random.Generator) -> Setting:
    return (TOWN, CITY, SUBURB, HIGHWAY)[int(rng.choice(4, p=(0.38, 0.28, 0.22, 0.12)))]


def _set_up_camera(rng: np.random.Generator, height: int, width: int, varied: bool) -> Camera:
    """A camera about as high as a driver's eyes; ``varied`` also looks up, down and from higher."""
    low, high, tallest = (0.36, 0.54, 2.4) if varied else (0.42, 0.48, 1.6)
    return Camera(
        centre=width * float(rng.uniform(0.42, 0.58)),
        horizon=height * float(rng.uniform(low, high)),
        focal=float(rng.uniform(0.85, 1.05)) * math.sqrt(height * width),
        height=float(rng.uniform(1.35, tallest)),
        x=float(rng.uniform(-0.6, 1.4)),
    )


def _develop(stage: Stage) -> tuple[np.ndarray, PanopticMap]:
    """The picture u8 [H W 3] with a little grain, and its map."""
    image, ids = stage.canvas.read()
    grain = stage.rng.normal(0.0, GRAIN, ids.shape).astype(np.float32)
    image = np.clip(image + grain[..., None], 0, 255).astype(np.uint8)
    classes = np.full(256, 255, dtype=np.uint8)
    for label in Label:
        if stuff(label) < FIRST_THING:
            classes[stuff(label)] = label
    for segment, thing in stage.canvas.things.items():
        classes[segment] = thing.label
    return image, PanopticMap(segment_id=ids, class_id=classes[ids])


def _largest_prompts(stage: Stage, panoptic: PanopticMap) -> list[str]:
    """What the largest things are called, largest first, no prompt twice."""
    areas = np.bincount(panoptic.segment_id.ravel(), minlength=256)
    smallest = SMALLEST_NAMED * panoptic.segment_id.size
    large = [segment for segment in stage.canvas.things if areas[segment] >= smallest]
    large = sorted(large, key=lambda segment: -areas[segment])[:NAMED_THINGS]
    return list(dict.fromkeys(stage.canvas.things[segment].prompt for segment in large))


def _extras(rng: np.random.Generator, panoptic: PanopticMap) -> list[str]:
    """Now and then a word about the surroundings, if they are there to be seen."""
    shares = np.bincount(panoptic.class_id.ravel(), minlength=256) / panoptic.class_id.size
    options = [
        ("trees", Label.VEGETATION, 0.06),
        ("houses", Label.BUILDING, 0.1),
        ("a wide sky", Label.SKY, 0.2),
    ]
    return [name for name, label, least in options if shares[label] > least and rng.random() < 0.25]
