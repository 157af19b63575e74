"""Pictures a second that are imported with links: drawn pictures of 256x512 with 8-bit indices, as a folder.

One JSON object is printed at the end: ``pictures_per_second`` by the clock with two processes, their start aside;
``cpu_seconds_per_picture`` is what one picture takes of one core.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
from fuse import WORKERS, Clock
from PIL import Image

from mamoe.machine.allocation import keep_freed_memory
from mamoe.prepare.classes import table_of
from mamoe.prepare.folder import import_folder
from mamoe.prepare.labelled import Manner
from mamoe.vocabulary.panoptic import resized_panoptic
from mamoe.vocabulary.taxonomy import Taxonomy

SIZE = (256, 512)


def draw(folder: Path, count: int) -> None:
    """One drawing under many names; the ids are Cityscapes' kind, 16 bits."""
    from data import draw_map  # loads torch, which the other processes need not

    panoptic = resized_panoptic(draw_map(), SIZE)
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "0.jpg", quality=90)
    single = (panoptic.segment_id >= 300) * (panoptic.segment_id - 300)
    ids = np.where(panoptic.segment_id >= 300, 1000 * panoptic.class_id.astype(np.int32) + single, panoptic.class_id)
    Image.fromarray(ids.astype(np.uint16)).save(folder / "0.png")
    for kind, suffix in (("images", "jpg"), ("maps", "png")):
        (folder / kind).mkdir()
        for number in range(count):
            (folder / kind / f"{number:05}.{suffix}").symlink_to(folder / f"0.{suffix}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pictures, below a minute")
    count = 1000 if parser.parse_args().quick else 10_000
    logging.disable()
    keep_freed_memory()  # as the command does
    table = table_of(Taxonomy.load("cityscapes"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder, count)
        clock = Clock()
        manner = Manner(link=True, follow_links=True, workers=WORKERS)
        start = time.perf_counter()
        import_folder(folder / "images", folder / "out", clock, manner, maps=folder / "maps", table=table)
        whole = time.perf_counter() - start
        few = folder / "few"
        few.mkdir()
        for path in sorted((folder / "images").iterdir())[:200]:
            (few / path.name).symlink_to(path.resolve())
        cpu = time.process_time()
        alone = Manner(link=True, follow_links=True)
        import_folder(few, folder / "alone", None, alone, maps=folder / "maps", table=table)
        cpu = (time.process_time() - cpu) / 200
    print(f"{count} pictures of {SIZE[0]}x{SIZE[1]}, linked: {clock.rate:.0f} a second, {whole:.1f} s in all")
    figures = {"pictures_per_second": round(clock.rate, 1), "cpu_seconds_per_picture": round(cpu, 5)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
