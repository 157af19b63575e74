"""Write drawn scenes as a data set on disk."""

import csv
import json
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mamoe.data.folder.description import DATA_YAML, data_yaml
from mamoe.errors import ConfigError
from mamoe.machine.pool import mapped
from mamoe.storage.staging import staged_folder
from mamoe.vocabulary.splits import split_name

from .scene import Domain, draw_scene

WORTH_A_PROCESS = 64  # scenes of the usual size, which take two seconds; a process starts in one
Written = tuple[str, str, dict[str, str]]  # name of a scene's files, caption, segment id -> prompt


def write_scenes(
    folder: str | Path,
    *,
    domain: Domain = Domain.DUSK_TOWN,
    counts: Mapping[str, int],
    seed: int = 0,
    height: int = 128,
    width: int = 256,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draw ``counts[split]`` scenes of every split and write them with their maps and prompts.

    Files: ``images/{split}/scene_000123.png``, ``panoptic/{split}/scene_000123.png``, ``prompts_{split}.csv``
    (columns img_name, prompt), ``instance_prompts_{split}.json`` (file name -> segment id -> prompt) and ``data.yaml``.

    Args:
        folder: is made if needed; files of the same name are replaced, once all scenes are drawn.
        domain: which pictures to draw.
        counts: split name -> number of scenes, below one million each.
        seed: of the whole data set.
        height: of the pictures in pixels, a multiple of 8.
        width: of the pictures in pixels, a multiple of 8.
        workers: processes that draw at most, for what starts them only ``if __name__ == "__main__"``.
        progress: called with (scenes written, scenes in all) after every scene.

    Raises:
        ConfigError: a count or size that cannot be drawn, a split whose name is none, or ``folder``
            has the ``data.yaml`` of another data set.
        DiskFullError: the folder is as it was.
    """
    root = Path(folder)
    described = data_yaml("scenes", (height, width))
    if (root / DATA_YAML).exists() and (root / DATA_YAML).read_bytes() != described.encode():
        raise ConfigError(f"{root / DATA_YAML} describes another data set; name a new folder, or delete that one.")
    for split, count in counts.items():
        split_name(split)
        if not 0 <= count < 1_000_000:
            raise ConfigError(f"counts[{split!r}] must be from 0 to 999999, got {count}; draw several data sets")
    with staged_folder(root, merge=True) as stage:
        draw = partial(_write_scene, stage, domain, seed, (height, width))
        _write_splits(stage, counts, draw, workers, progress)
        (stage / DATA_YAML).write_text(described, encoding="utf-8")


def _write_splits(
    root: Path,
    counts: Mapping[str, int],
    draw: Callable[[tuple[str, int]], Written],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    for split in counts:
        for kind in ("images", "panoptic"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
    places = [(split, index) for split, count in counts.items() for index in range(count)]
    captions: dict[str, list[tuple[str, str]]] = {split: [] for split in counts}
    prompts: dict[str, dict[str, dict[str, str]]] = {split: {} for split in counts}
    with closing(mapped(draw, places, workers, least=WORTH_A_PROCESS)) as written:  # before anybody clears up
        for done, ((split, _), (name, caption, own)) in enumerate(zip(places, written, strict=True), start=1):
            captions[split].append((name, caption))
            prompts[split][name] = own
            if progress is not None:
                progress(done, len(places))
    for split in counts:
        _write_prompts(root, split, captions[split], prompts[split])


def _write_scene(root: Path, domain: Domain, seed: int, size: tuple[int, int], place: tuple[str, int]) -> Written:
    """Draw scene ``index`` of a split and write it with its map."""
    split, index = place
    scene = draw_scene(scene_seed(seed, split, index), domain=domain, height=size[0], width=size[1])
    name = f"scene_{index:06d}.png"
    Image.fromarray(scene.image).save(root / "images" / split / name)
    scene.panoptic.write(root / "panoptic" / split / name)
    return name, scene.caption, {str(segment): prompt for segment, prompt in scene.instance_prompts.items()}


def scenes_problems(
    folder: str | Path,
    *,
    domain: Domain,
    counts: Mapping[str, int],
    seed: int = 0,
    height: int = 128,
    width: int = 256,
) -> list[str]:
    """In what a folder differs from what :func:`write_scenes` writes there; empty where it does not.

    Pictures are counted, and one of every split is drawn again.
    """
    problems = []
    for split, count in counts.items():
        pictures = sorted((Path(folder) / "images" / split).glob("*.png"))
        if len(pictures) != count:
            problems.append(f"{split} has {len(pictures)} pictures, wanted {count}")
        elif pictures:
            wanted = draw_scene(scene_seed(seed, split, 0), domain=domain, height=height, width=width).image
            with Image.open(pictures[0]) as found:
                if not np.array_equal(np.asarray(found.convert("RGB")), wanted):
                    problems.append(f"{pictures[0]} is not the first {domain.value} scene of {split}")
    return problems


def scene_seed(seed: int, split: str, index: int) -> int:
    """The seed of one scene of a data set: splits share none, whether written together or one by one."""
    return (seed << 64) | (zlib.crc32(split.encode()) << 32) | index


def _write_prompts(root: Path, split: str, captions: list[tuple[str, str]], prompts: dict[str, dict[str, str]]) -> None:
    with (root / f"prompts_{split}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("img_name", "prompt"))
        writer.writerows(captions)
    path = root / f"instance_prompts_{split}.json"
    path.write_text(json.dumps(prompts, indent=1), encoding="utf-8")
