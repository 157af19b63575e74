"""Features of picture files, kept on disk: a picture is read once per extractor, however often a score is asked for.

    <cache>/<extractor and preprocessing>/<hash of the picture>.safetensors      features f32[d]
    <cache>/<extractor and preprocessing>/about.json                          what made them

An entry is written beside its place and renamed. Several processes may share the work: each makes its batches of what
is missing, and then all read everything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mamoe.data.folder.listing import listed, some
from mamoe.data.geometry.joint import Geometry
from mamoe.data.reading.pictures import SUFFIXES, picture_size, read_picture
from mamoe.errors import DatasetError
from mamoe.evaluation.features.extractors import Extractor
from mamoe.evaluation.protocol import picture_hash
from mamoe.machine.processes import Processes
from mamoe.storage.hashing import text_hash
from mamoe.storage.staging import replaced_file, write_whole

_KEY = "features"
Size = tuple[int, int]  # (H, W) in pixels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Features:
    """Features of some pictures and what made them."""

    values: Float[Tensor, "n d"]
    extractor: str  # identity
    preprocessing: str
    names: tuple[str, ...]  # file names, in order

    def fits(self, other: Features) -> None:
        """Refuse to compare features of different makings.

        Raises:
            ValueError: names both.
        """
        ours, theirs = ((f.extractor, f.preprocessing, f.values.shape[1]) for f in (self, other))
        if ours != theirs:
            raise ValueError(f"Features of another extractor cannot be compared: {ours} against {theirs}.")


def features_of(
    paths: Sequence[Path],
    extractor: Extractor,
    cache: Path,
    *,
    geometry: Geometry | None = None,
    processes: Processes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Features of picture files, from the cache where it has them.

    Args:
        paths: pictures; the result has their order.
        extractor: what makes features.
        cache: folder, made if needed.
        geometry: what every picture goes through first, without chance; None leaves it as it is.
        processes: those that share the work; None: this one alone.
        progress: called with (pictures done, pictures in all) of this process's share.

    Raises:
        DatasetError: a picture cannot be read.
    """
    processes = processes or Processes()
    preprocessing = preprocessing_name(extractor, geometry)
    folder = _folder(cache, extractor, preprocessing)
    entries = [folder / f"{picture_hash(path)}.safetensors" for path in paths]
    missing = [i for i, entry in enumerate(entries) if _read(entry) is None]
    missing = list({entries[i]: i for i in reversed(missing)}.values())[::-1]  # the same picture twice is one entry
    processes.wait()  # before anybody writes: all must see the same list
    batches = [missing[i : i + extractor.batch_size] for i in range(0, len(missing), extractor.batch_size)]
    mine = processes.share(batches)
    for number, batch in enumerate(mine):
        values = extractor([read_through(paths[i], geometry) for i in batch])
        for i, value in zip(batch, values, strict=True):
            _write(entries[i], value)
        if progress is not None:
            progress(number + 1, len(mine))
    processes.wait()
    return Features(
        values=torch.stack([_kept(entry) for entry in entries]),
        extractor=extractor.identity,
        preprocessing=preprocessing,
        names=tuple(path.name for path in paths),
    )


def preprocessing_name(extractor: Extractor, geometry: Geometry | None) -> str:
    """All that happens to a picture before the network, in words."""
    if geometry is None:
        return extractor.preprocessing.name
    if geometry.buckets:
        size = "x".join(map(str, (geometry.size,) * 2 if isinstance(geometry.size, int) else geometry.size))
        return f"resized to the bucket of its aspect, about {size}; {extractor.preprocessing.name}"
    size = f"short side {geometry.size}" if isinstance(geometry.size, int) else "{}x{}".format(*geometry.size)
    how = "resized to" if geometry.crop is None else "centre crop of"
    return f"{how} {size}; {extractor.preprocessing.name}"


def list_pictures(folder: Path, *, recursive: bool = False) -> tuple[Path, ...]:
    """The pictures of a folder, and with ``recursive`` of all folders in it, ordered by the numbers in their names.

    Raises:
        DatasetError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}; wanted one with pictures ({', '.join(SUFFIXES)}).")
    found = listed(folder, SUFFIXES, recursive=recursive)
    if not found.names:
        hint = f" but folders ({some(found.inner)}); --recursive looks into them" if found.inner else ""
        raise DatasetError(f"{folder} holds no pictures ({', '.join(SUFFIXES)}){hint}.")
    return tuple(folder / name for name in found.names)


def common_size(groups: Mapping[str, Sequence[Path]], geometry: Geometry | None = None) -> Size:
    """The one size (H, W) of all pictures after ``geometry``; with buckets, the one that they are all about.

    Args:
        groups: what the pictures are called in the message, and their files.
        geometry: see :func:`features_of`.

    Raises:
        DatasetError: they differ; sizes resized differently give different features, so nothing is scored.
    """
    before = {path: picture_size(path) for paths in groups.values() for path in paths}
    after = {size: _size_after(size, geometry) for size in set(before.values())}
    counts = {title: Counter(after[before[path]] for path in paths) for title, paths in groups.items()}
    sizes = {size for counter in counts.values() for size in counter}
    if len(sizes) == 1:
        return sizes.pop()
    lines = [
        f"  {title}: " + ", ".join(f"{h}x{w} ({n} pictures)" for (h, w), n in counter.most_common(4))
        for title, counter in counts.items()
    ]
    raise DatasetError(
        "The pictures are not of one size (height x width):\n"
        + "\n".join(lines)
        + "\nGive --size HEIGHT WIDTH, and all are brought to it in the same way first."
    )


def read_through(path: Path, geometry: Geometry | None) -> UInt8[np.ndarray, "H W 3"]:
    """A picture, resized and cropped by ``geometry`` without chance.

    Raises:
        DatasetError: it cannot be read.
    """
    image = read_picture(path)
    if geometry is None:
        return image
    planes = torch.from_numpy(image).permute(2, 0, 1)
    pixels, _, _ = geometry.for_evaluation()(planes, planes, void_id=0)
    return pixels.permute(1, 2, 0).numpy()


def _size_after(size: Size, geometry: Geometry | None) -> Size:
    if geometry is None:
        return size
    if geometry.buckets or geometry.crop is not None or not isinstance(geometry.size, int):
        height, width = (geometry.size, geometry.size) if isinstance(geometry.size, int) else geometry.size
        return height, width
    blank = torch.zeros(3, *size, dtype=torch.uint8)
    height, width = geometry.for_evaluation()(blank, blank, void_id=0)[0].shape[1:]
    return height, width


def _folder(cache: Path, extractor: Extractor, preprocessing: str) -> Path:
    about = {"extractor": extractor.identity, "preprocessing": preprocessing}
    key = text_hash(json.dumps(about, sort_keys=True))
    folder = cache / f"{extractor.name}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(json.dumps(about, indent=1) + "\n", folder / "about.json")
    return folder


def _write(entry: Path, value: Float[Tensor, "d"]) -> None:
    with replaced_file(entry) as partial:
        save_file({_KEY: value.contiguous()}, partial)


def _read(entry: Path) -> Float[Tensor, "d"] | None:
    try:
        return load_file(entry)[_KEY]
    except (OSError, SafetensorError, KeyError):  # not there, or damaged: made again
        return None


def _kept(entry: Path) -> Float[Tensor, "d"]:
    value = _read(entry)
    assert value is not None, f"{entry} was written and cannot be read"
    return value
