"""How many pairs of picture and map per second `mamoe check` looks at, and in how much memory.

    python perf/check.py [--quick] [--pairs N]

Drawn streets of 512x1024 as JPEG or PNG with their panoptic PNGs; a few are drawn and linked until there are N pairs.
The yardstick is how it was done before: every file decoded and converted to an array, every map taken apart into two
id planes whose pixels are counted, all samples handed to the threads at once. "now" is what a training does at its
start, "closely" what `mamoe check` does.

All sides use a thread per core, "closely" a process where there are 300 pairs, and run alternately, each in a process
of its own; a figure is the best of its rounds, which a busy machine blurs least. CPU seconds are those of all threads
and processes, memory is that of the one that asks. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from mamoe.data.check.split import inspect_split
from mamoe.data.folder.split import SampleFiles, SplitFiles, index_split
from mamoe.data.reading.pictures import read_picture
from mamoe.machine.allocation import keep_freed_memory
from mamoe.prepare.doctor.cells import CellCounter
from mamoe.prepare.doctor.closer import CloserLook, Gathered
from mamoe.scenes.scene import draw_scene
from mamoe.vocabulary.panoptic import read_panoptic
from mamoe.vocabulary.taxonomy import Taxonomy

HEIGHT, WIDTH = 512, 1024
DRAWN = 8  # different pairs
TAXONOMY = Taxonomy.load("scenes")


def make_pairs(folder: Path, count: int, suffix: str) -> None:
    """``count`` pairs in the package's layout, of a few drawn ones."""
    images, maps = folder / "images/train", folder / "panoptic/train"
    images.mkdir(parents=True)
    maps.mkdir(parents=True)
    for i in range(count):
        if i < DRAWN:
            scene = draw_scene(i, height=HEIGHT, width=WIDTH)
            Image.fromarray(scene.image).save(images / f"{i}{suffix}", quality=92)
            scene.panoptic.write(maps / f"{i}.png")
        else:
            (images / f"{i}{suffix}").hardlink_to(images / f"{i % DRAWN}{suffix}")
            (maps / f"{i}.png").hardlink_to(maps / f"{i % DRAWN}.png")


def index_of(folder: Path) -> SplitFiles:
    return index_split(
        images=folder / "images",
        panoptic_maps=folder / "panoptic",
        split="train",
        prompts=None,
        instance_prompts=None,
    )


def as_before(files: SplitFiles) -> np.ndarray:
    """The yardstick; returns the pixels of every class."""

    def inspect(sample: SampleFiles) -> tuple[np.ndarray, np.ndarray]:
        assert sample.panoptic is not None
        size = read_picture(sample.image).shape[:2]
        panoptic = read_panoptic(sample.panoptic)
        assert size == panoptic.size and not TAXONOMY.check(panoptic)
        segments = panoptic.classes
        pixels = np.bincount(panoptic.class_id.ravel(), minlength=256)
        return pixels, np.bincount(np.fromiter(segments.values(), dtype=np.int64), minlength=256)

    pixels = np.zeros(256, dtype=np.int64)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for found, _ in pool.map(inspect, files.samples):
            pixels += found
    return pixels


def as_now(files: SplitFiles) -> np.ndarray:
    keep_freed_memory()
    contents = inspect_split(files, TAXONOMY)
    assert not contents.problems
    return contents.pixels


def closely(files: SplitFiles) -> np.ndarray:
    keep_freed_memory()
    gathered = Gathered()
    closer = CloserLook("train", files, TAXONOMY, CellCounter(TAXONOMY), as_it_is, gathered)
    contents = inspect_split(files, TAXONOMY, closer=closer)
    assert not contents.problems and not gathered.findings
    return contents.pixels


def as_it_is(height: int, width: int) -> tuple[int, int]:
    return height, width


SIDES: dict[str, Callable[[SplitFiles], np.ndarray]] = {"before": as_before, "now": as_now, "closely": closely}


def measured(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Pairs per second, CPU milliseconds per pair and peak memory of every side."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    for _ in range(rounds):
        for name in SIDES:
            words = [sys.executable, __file__, "--side", name, str(folder)]
            said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            found[name].append(json.loads(said.splitlines()[-1]))
    assert len({one["classes"] for rows in found.values() for one in rows}) == 1
    return {
        name: {
            "pairs_per_second": max(one["pairs_per_second"] for one in rows),
            "cpu_ms_per_pair": min(one["cpu_ms_per_pair"] for one in rows),
            "peak_mib": max(one["peak_mib"] for one in rows),
        }
        for name, rows in found.items()
    }


def measure_here(name: str, folder: Path) -> dict[str, float | str]:
    """One side, once, in this process, whose start is not counted."""
    files = index_of(folder)
    wall, cpu = time.perf_counter(), sum(os.times()[:4])  # with the processes that it starts and waits for
    pixels = SIDES[name](files)
    wall, cpu = time.perf_counter() - wall, sum(os.times()[:4]) - cpu
    # Linux counts what the parent held into ru_maxrss of a child, but not into this.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    count = len(files.samples)
    return {
        "pairs_per_second": count / wall,
        "cpu_ms_per_pair": 1000 * cpu / count,
        "peak_mib": peak,
        "classes": str(pixels.tolist()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side is not None:
        print(json.dumps(measure_here(asked.side[0], Path(asked.side[1]))))
        return
    pairs = asked.pairs or (64 if asked.quick else 1000)
    results: dict[str, object] = {"pairs": pairs, "size": [HEIGHT, WIDTH], "cores": os.cpu_count()}
    for suffix in (".jpg", ".png"):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            make_pairs(folder, pairs, suffix)
            best = measured(folder, rounds=2 if asked.quick else 3)
            for name, row in best.items():
                print(f"{suffix} pictures, {name}: {', '.join(f'{key} {value:.1f}' for key, value in row.items())}")
            results[suffix[1:]] = best
    print(json.dumps(results))


if __name__ == "__main__":
    main()
