"""What a sampling job writes: pictures and records, each whole or not at all, and one sheet to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mamoe.data.reading.pictures import read_picture
from mamoe.models.wrapped import unwrapped
from mamoe.randomness import number_of
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.storage.fingerprints import weights_hash
from mamoe.storage.staging import replaced_file, write_whole
from mamoe.vocabulary.colourize import colourize
from mamoe.vocabulary.drawing import Drawing, mode_of
from mamoe.vocabulary.panoptic import read_panoptic
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.selection import spread
from mamoe.vocabulary.taxonomy import Taxonomy

JPEG = ".jpg"
_JPEG_QUALITY = 95  # with colours at full size: edges of the layout stay where they are
_SHEET_PAIRS = 40  # more would make a sheet nobody can open
_SHEET_COLUMNS = 4  # pairs beside each other
_THUMBNAIL = 256  # pixels, longest side
_GAP = 4  # pixels


def key_of(name: str) -> int:
    """A number for a file name, stable across machines."""
    return number_of(name)


def model_hash(pipe: LayoutPipeline) -> str:
    """Sixteen hex digits that stand for the weights of UNet, autoencoder and text encoders."""
    networks = [pipe.unet, pipe.vae, *pipe.text_encoders]
    return weights_hash(*(unwrapped(network) for network in networks), size=8)


def record_of(
    prompts: RegionPrompts, size: tuple[int, int], seed: int, drawing: Drawing, **further: Any
) -> dict[str, Any]:
    """What the JSON beside a drawn picture says: how it was drawn, and with ``further`` all it takes to do it again.

    Args:
        prompts: of the picture and its instances.
        size: (H, W) of the picture.
        seed: of this picture.
        drawing: the rest; its seed, of the whole job, is not written.
        further: of what, and by which model; plain JSON.
    """
    return {
        **further,
        "prompt": prompts.global_prompt,
        "instance_prompts": {str(segment): text for segment, text in sorted(prompts.by_segment.items())},
        "size": list(size),
        "seed": seed,
        "mode": drawing.mode.value,
        "steps": drawing.steps,
        "guidance_scale": drawing.scale,
        **drawing.said,
    }


def with_mode(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record from before they named the mode, with the one its guidance scale stands for; others as they are."""
    scale = record.get("guidance_scale")
    if "mode" in record or not isinstance(scale, int | float):
        return record
    return {**record, "mode": mode_of(scale).value}


def write_picture(image: Image.Image, path: Path) -> None:
    """Write a picture, as its name says in PNG or JPEG, under a temporary name and move it into place."""
    with replaced_file(path) as partial:
        if path.suffix == JPEG:
            image.save(partial, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
        else:
            image.save(partial, format="PNG")


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write JSON under a temporary name and move it into place."""
    write_whole(json.dumps(content, indent=1, ensure_ascii=False) + "\n", path)


def contact_sheet(pairs: Sequence[tuple[Path, Path]], taxonomy: Taxonomy | None) -> Image.Image:
    """Thumbnails of (map, picture) side by side, at most 40 of them, spread evenly over the job.

    Args:
        pairs: panoptic PNG and picture; at least one.
        taxonomy: gives the maps their colours; without one only the pictures are shown.
    """
    cells = [_cell(panoptic, picture, taxonomy) for panoptic, picture in spread(pairs, _SHEET_PAIRS)]
    count = len(cells)
    width, height = max(cell.width for cell in cells) + _GAP, max(cell.height for cell in cells) + _GAP
    columns = min(_SHEET_COLUMNS, count)
    sheet = Image.new("RGB", (columns * width + _GAP, -(-count // columns) * height + _GAP), "white")
    for i, cell in enumerate(cells):
        sheet.paste(cell, (_GAP + i % columns * width, _GAP + i // columns * height))
    return sheet


def _cell(panoptic: Path, picture: Path, taxonomy: Taxonomy | None) -> Image.Image:
    right = Image.fromarray(read_picture(picture))
    right.thumbnail((_THUMBNAIL, _THUMBNAIL))
    if taxonomy is None:
        return right
    left = Image.fromarray(colourize(read_panoptic(panoptic), taxonomy)).resize(right.size, Image.Resampling.NEAREST)
    cell = Image.new("RGB", (2 * right.width, right.height))
    cell.paste(left, (0, 0))
    cell.paste(right, (right.width, 0))
    return cell
