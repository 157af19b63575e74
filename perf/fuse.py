"""Maps a second that are fused: a map of classes of 1024x2048 and 30 masks a picture become a data set.

Drawn streets as in perf/data.py; the masks are COCO run lengths, the pictures are linked. One JSON object is printed at
the end. ``maps_per_second`` is by the clock, start of the processes aside, with two processes;
``cpu_seconds_per_map`` is what one map takes of one core.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mamoe.machine.allocation import keep_freed_memory
from mamoe.prepare.classes import table_of
from mamoe.prepare.fuse.folders import FuseSources, fuse_folders
from mamoe.prepare.fuse.rules import FuseRules
from mamoe.prepare.labelled import Manner
from mamoe.vocabulary.taxonomy import Taxonomy

WORKERS = 2
INSTANCES = 30


def draw(folder: Path, count: int) -> FuseSources:
    """Pictures, maps of classes and one JSON of masks; the same drawing under many names."""
    from data import draw_map  # loads torch, which the other processes need not

    panoptic = draw_map()
    for kind in ("images", "semantic"):
        (folder / kind).mkdir()
    Image.new("RGB", panoptic.size[::-1]).save(folder / "0.jpg")
    Image.fromarray(panoptic.class_id).save(folder / "0.png")
    masks = []
    for segment, class_id in panoptic.classes.items():
        if segment >= 300:
            runs = coco_mask.encode(np.asfortranarray(panoptic.segment_id == segment, dtype=np.uint8))
            runs["counts"] = runs["counts"].decode()
            masks.append({"category_id": class_id, "segmentation": runs, "score": 0.9})
    assert len(masks) >= INSTANCES - 5  # small ones may be covered
    for number in range(count):
        (folder / "images" / f"{number:05}.jpg").symlink_to(folder / "0.jpg")
        (folder / "semantic" / f"{number:05}.png").symlink_to(folder / "0.png")
    found = [{"image_id": number, **mask} for number in range(count) for mask in masks]
    (folder / "masks.json").write_text(json.dumps(found))
    return FuseSources(images=folder / "images", semantic=folder / "semantic", instances=folder / "masks.json")


class Clock:
    """When the first and the last picture came."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.seen.append((time.perf_counter(), done))

    @property
    def rate(self) -> float:
        """Pictures a second, from the first on."""
        (start, first), (end, last) = self.seen[0], self.seen[-1]
        return (last - first) / (end - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer maps, below a minute")
    count = 80 if parser.parse_args().quick else 400
    logging.disable()
    keep_freed_memory()  # as the command does
    table = table_of(Taxonomy.load("cityscapes"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = draw(folder, count)
        clock = Clock()
        manner = Manner(link=True, follow_links=True, workers=WORKERS)
        fuse_folders(sources, folder / "out", table, FuseRules(), progress=clock, manner=manner)
        alone = Manner(link=True, follow_links=True)
        few = draw_few(sources, folder)
        start = time.process_time()
        fuse_folders(few, folder / "alone", table, FuseRules(), manner=alone)
        cpu = (time.process_time() - start) / len(list(few.images.iterdir()))
    print(f"{count} maps of 1024x2048 with {INSTANCES} masks: {clock.rate:.1f} maps/s with {WORKERS} processes")
    print(json.dumps({"maps_per_second": round(clock.rate, 1), "cpu_seconds_per_map": round(cpu, 4)}))


def draw_few(sources: FuseSources, folder: Path) -> FuseSources:
    """The first ten pictures alone."""
    (folder / "few").mkdir()
    for path in sorted(sources.images.iterdir())[:10]:
        (folder / "few" / path.name).symlink_to(path.resolve())
    return FuseSources(images=folder / "few", semantic=sources.semantic, instances=sources.instances)


if __name__ == "__main__":
    main()
