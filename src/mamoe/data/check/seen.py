"""Files that were opened once and found sound, on disk: a start that finds them as they were opens none again.

One safetensors file, written beside its place and renamed. It is never needed: a damaged one, or one of another
version, is left out with a warning, and the files are opened again.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mamoe.data.reading.looks import MapLook, PictureLook, Reading
from mamoe.storage.staging import replaced_file

VERSION = "1"  # of what looks say, and of how they are found: raise it, and all files are opened again
MOST_KEPT = 4096  # colours of a map; one with more is opened at every start
Stamp = tuple[int, int]  # bytes, and nanoseconds of the last change
Look = PictureLook | MapLook
_Entry = tuple[Stamp, Look]
_ARRAYS = ("names", "stamps", "sizes", "colours", "counts")


def stamp_of(path: Path) -> Stamp | None:
    """What changes when a file does; None: there is no such file, or it cannot be reached."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


class SeenFiles:
    """What is known of sound files by path, size and time of the last change.

    Args:
        path: of the file that keeps it; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, _Entry] = {}
        self._changed = False
        if path.exists():
            try:
                self._entries = _read(path)
            except (SafetensorError, OSError, ValueError, KeyError) as error:
                warnings.warn(f"{path} is left out ({error}); the data set's files are opened again.", stacklevel=2)

    def picture(self, path: Path) -> PictureLook | None:
        """What is known of a picture that is as it was."""
        known = self._known("picture", path)
        return known if isinstance(known, PictureLook) else None

    def map(self, path: Path) -> MapLook | None:
        """The colours of a map that is as it was."""
        known = self._known("map", path)
        return known if isinstance(known, MapLook) else None

    def add(self, path: Path, stamp: Stamp, look: Look) -> None:
        """Remember a sound file, as it was when ``stamp`` was taken, which must have been before it was opened."""
        kind = "map" if isinstance(look, MapLook) else "picture"
        if isinstance(look, MapLook) and (look.colours is None or len(look.colours) > MOST_KEPT):
            return
        self._entries[_name(kind, path)] = (stamp, look)
        self._changed = True

    def save(self) -> None:
        """Write it, if there is anything new."""
        if not self._changed:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            arrays = _arrays(self._entries)
            with replaced_file(self.path) as partial:
                save_file(arrays, partial, metadata={"version": VERSION, "digest": _digest(arrays)})
            self._changed = False
        except (SafetensorError, OSError) as error:
            warnings.warn(f"{self.path} cannot be written ({error}); the next start checks anew.", stacklevel=2)

    def _known(self, kind: str, path: Path) -> Look | None:
        entry = self._entries.get(_name(kind, path))
        return entry[1] if entry is not None and entry[0] == stamp_of(path) else None


def _name(kind: str, path: Path) -> str:
    return f"{kind} {os.path.abspath(path)}"


def _arrays(entries: Mapping[str, _Entry]) -> dict[str, np.ndarray]:
    looks = [look for _, look in entries.values()]
    maps = [look for look in looks if isinstance(look, MapLook)]
    none = np.zeros(0, dtype=np.int64)
    rows = [
        (*look.size, len(look.counts), 0) if isinstance(look, MapLook) else (*look.size, 0, look.readings.value)
        for look in looks
    ]
    return {
        "names": np.frombuffer(json.dumps(list(entries)).encode(), dtype=np.uint8),
        "stamps": np.array([stamp for stamp, _ in entries.values()], dtype=np.int64).reshape(-1, 2),
        "sizes": np.array(rows, dtype=np.int64).reshape(-1, 4),  # height, width, colours, readings
        "colours": np.concatenate(
            [none.astype(np.uint32), *(look.colours for look in maps if look.colours is not None)]
        ),
        "counts": np.concatenate([none, *(look.counts for look in maps)]),
    }


def _read(path: Path) -> dict[str, _Entry]:
    with safe_open(path, framework="np") as file:
        about = file.metadata() or {}
        if about.get("version") != VERSION:
            raise ValueError(f"it is of version {about.get('version')}, not {VERSION}")
        arrays = {name: file.get_tensor(name) for name in _ARRAYS}
    if about.get("digest") != _digest(arrays):
        raise ValueError("its hash is not the one written with it")
    names, stamps = json.loads(arrays["names"].tobytes()), arrays["stamps"].tolist()
    found: dict[str, _Entry] = {}
    start = 0
    for name, stamp, (height, width, colours, readings) in zip(names, stamps, arrays["sizes"].tolist(), strict=True):
        look: Look = PictureLook(size=(height, width), readings=Reading(readings))
        if name.startswith("map "):
            part = slice(start, start := start + colours)
            look = MapLook(size=look.size, colours=arrays["colours"][part], counts=arrays["counts"][part])
        found[name] = ((stamp[0], stamp[1]), look)
    return found


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in _ARRAYS:
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
