"""What the page sends and is sent, as plain JSON; everything that can be wrong with it."""

from __future__ import annotations

import base64
import binascii
import json
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mamoe.commands.app.sizes import SegmentSize
from mamoe.commands.app.studio import Drawn, Part, Studio, Wish
from mamoe.conditioning.regions import has_own_prompt
from mamoe.data.reading.pictures import as_rgb
from mamoe.errors import DatasetError, MamoeError
from mamoe.vocabulary.drawing import DRAWING, Drawing, mode_of
from mamoe.vocabulary.panoptic import UNREADABLE, PanopticMap, encode_panoptic, panoptic_of_bytes
from mamoe.vocabulary.prompts import RegionPrompts

MOST_BYTES = 24 * 2**20  # of a request
MOST_SIDE = 2048  # pixels of a map
_LARGEST_SEED = 2**53 - 1  # the largest whole number that JavaScript keeps exact
_KEYS = ("map", "prompt", "instance_prompts", "seed", "steps", "guidance_scale")
_PART_KEYS = ("picture", "only")  # of an instance that is drawn anew


def map_of(data: bytes) -> PanopticMap:
    """A map that was sent as a PNG.

    Raises:
        DatasetError: it is none, or larger than the page can paint.
    """
    _opened(data, "a panoptic map is an RGB PNG (segment id = R*256 + G, class id = B)").close()
    return panoptic_of_bytes(data, "that was sent")


def _opened(data: bytes, wanted: str) -> Image.Image:
    """A picture of which the header was read; not yet its pixels, which may be many."""
    try:
        picture = Image.open(BytesIO(data))
    except UNREADABLE:
        raise DatasetError(f"This file is no picture ({len(data)} bytes): {wanted}.") from None
    if max(picture.size) > MOST_SIDE:
        width, height = picture.size
        raise DatasetError(f"This picture is {width} x {height} pixels; the page takes up to {MOST_SIDE} a side.")
    return picture


def wish_of(body: bytes) -> Wish:
    """A picture that is asked for: JSON with the map as PNG in base64, prompts and numbers; and where one instance is
    to be drawn anew, the picture as PNG in base64, and its number.

    Raises:
        MamoeError: all that is wrong, in one error.
    """
    try:
        sent: Any = json.loads(body)
    except (ValueError, RecursionError):
        sent = None
    if not isinstance(sent, dict) or set(sent) not in ({*_KEYS}, {*_KEYS, *_PART_KEYS}):
        raise MamoeError(f"A drawing is JSON with {', '.join(_KEYS)}, and of a part {' and '.join(_PART_KEYS)}.")
    problems = []
    prompt, by_segment = sent["prompt"], sent["instance_prompts"]
    if not isinstance(prompt, str):
        problems.append(f"prompt must be text, got {prompt!r:.40}")
    if not isinstance(by_segment, dict) or not all(isinstance(text, str) for text in by_segment.values()):
        problems.append(f"instance_prompts must map segment ids to text, got {by_segment!r:.60}")
    elif odd := [key for key in by_segment if not (key.isascii() and key.isdigit())]:
        problems.append(f"instance_prompts: segment ids are whole numbers, got {odd[:3]!r:.80}")
    if not _is_whole(sent["seed"]) or not 0 <= sent["seed"] <= _LARGEST_SEED:
        problems.append(f"seed must be a whole number in 0..{_LARGEST_SEED}, got {sent['seed']!r:.40}")
    if not _is_whole(sent["steps"]):
        problems.append(f"steps must be a whole number, got {sent['steps']!r:.40}")
    if not isinstance(sent["guidance_scale"], int | float) or isinstance(sent["guidance_scale"], bool):
        problems.append(f"guidance_scale must be a number, got {sent['guidance_scale']!r:.40}")
    if not _is_whole(sent.get("only", 1)):
        problems.append(f"only must be the number of a segment, got {sent['only']!r:.40}")
    if problems:
        raise MamoeError(f"This cannot be drawn: {'; '.join(problems)}.")
    part = Part(picture=_picture_of(_bytes_of(sent, "picture")), segment=sent["only"]) if "only" in sent else None
    scale = float(sent["guidance_scale"])
    return Wish(
        panoptic=map_of(_bytes_of(sent, "map")),
        prompts=RegionPrompts(
            global_prompt=prompt, by_segment={int(key): text for key, text in by_segment.items() if text.strip()}
        ),
        drawing=Drawing(mode=mode_of(scale), steps=sent["steps"], guidance_scale=scale, seed=sent["seed"]),
        part=part,
    )


def about(studio: Studio) -> dict[str, Any]:
    """What the page must know before anybody paints."""
    settings, pipe = studio.settings, studio.pipe
    taxonomy = settings.taxonomy
    return {
        "name": studio.name,
        "void_id": taxonomy.void_id,
        "taxonomy": taxonomy.name,
        "classes": [
            {
                "id": row.id,
                "name": row.name,
                "thing": row.is_thing,
                "prompt": row.prompt,
                "colour": list(row.colour),
                "own_prompt": settings.region_attention and has_own_prompt(row.id, settings),
            }
            for row in taxonomy.classes
        ],
        "reads_prompt": settings.global_prompt,
        "cell": pipe.vae_scale_factor,
        "multiple": pipe.side_multiple,
        "most_side": MOST_SIDE,
        "most_bytes": MOST_BYTES,
        "size": list(studio.usual_size),
        "steps": DRAWING.steps,
        "most_steps": pipe.scheduler.config["num_train_timesteps"],
        "guidance_scale": DRAWING.guidance_scale,
        "maps": {split: len(names) for split, names in studio.layouts.names.items()},
    }


def layout_sent(panoptic: PanopticMap, prompts: RegionPrompts | None = None) -> dict[str, Any]:
    """A map as the page takes it: the bytes R, G, B of its pixels, row by row; and what is written about it."""
    prompts = prompts or RegionPrompts()
    return {
        "height": panoptic.size[0],
        "width": panoptic.size[1],
        "rgb": base64.b64encode(encode_panoptic(panoptic).tobytes()).decode("ascii"),
        "prompt": prompts.global_prompt,
        "instance_prompts": {str(segment): text for segment, text in prompts.by_segment.items()},
    }


def sizes_sent(sizes: list[SegmentSize]) -> dict[str, Any]:
    """The sizes of segments as the page takes them."""
    return {
        "segments": [
            {"id": one.segment, "cells": round(one.cells, 2), "held": one.held, "vanishes": one.vanishes}
            for one in sizes
        ]
    }


def drawn_sent(drawn: Drawn, seconds: float) -> dict[str, Any]:
    """A picture as the page takes it."""
    file = BytesIO()
    drawn.picture.save(file, format="PNG")
    return {
        "picture": base64.b64encode(file.getvalue()).decode("ascii"),
        "record": drawn.record,
        "notes": list(drawn.notes),
        "seconds": round(seconds, 2),
    }


def _picture_of(data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    with _opened(data, "what is to be changed must be one") as picture:
        try:
            return as_rgb(picture)
        except UNREADABLE as error:
            raise DatasetError(f"The picture to change cannot be read: {error}") from None


def _bytes_of(sent: dict[str, Any], key: str) -> bytes:
    try:
        return base64.b64decode(sent[key], validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise MamoeError(f"This cannot be drawn: {key} must be a PNG in base64.") from None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
