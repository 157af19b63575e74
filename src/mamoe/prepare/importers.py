"""The importers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mamoe.prepare.camvid import import_camvid
from mamoe.prepare.cityscapes import import_cityscapes
from mamoe.prepare.coco import import_coco
from mamoe.prepare.writer import ImportSummary, Progress

# Each takes (source folder, folder to make, progress) and raises DatasetError.
IMPORTERS: Mapping[str, Callable[[Path, Path, Progress | None], ImportSummary]] = {
    "camvid": import_camvid,
    "cityscapes": import_cityscapes,
    "coco": import_coco,
}
