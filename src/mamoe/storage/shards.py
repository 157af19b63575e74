"""Tensors by name in a folder of safetensors shards, read by memory mapping: what every cache on disk is made of.

Any number of processes may read and write one folder, without a lock that a killed one could leave behind: a shard is
written under a temporary name nobody reads and renamed when it is whole, under a name nobody else uses. At worst two
processes compute the same entry. A shard says what its tensors were made with and carries a hash of them; one that is
damaged or was made with something else is left out and stays as it is.
"""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mamoe.errors import MamoeError
from mamoe.storage.fingerprints import tensors_hash
from mamoe.storage.staging import is_disk_full, replaced_file

ABANDONED = 24 * 3600  # seconds after which an unfinished file belongs to a process that was killed


class CacheError(MamoeError):
    """A cache cannot be made, or lacks something it was thought to have."""


class ShardFolder:
    """The tensors of all sound shards in ``folder``; may be sent to other processes.

    Args:
        folder: made if need be.
        made_with: what decides the tensors' values, see
            :func:`~mamoe.storage.fingerprints.fingerprint_of`. Shards made with something else are
            left out, with a warning that names both.

    Raises:
        CacheError: the folder cannot be made.
    """

    def __init__(self, folder: Path, made_with: str) -> None:
        self.folder, self.made_with = folder, made_with
        self._shard_of: dict[str, Path] = {}  # name of a tensor -> its shard
        self._known: set[Path] = set()  # shards looked at, sound or not
        self._open: dict[Path, safe_open] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if is_disk_full(error):
                raise
            raise CacheError(
                f"The cache {folder} cannot be made: {error.strerror}. Choose another cache.folder."
            ) from None
        _remove_abandoned(folder)
        self.refresh()

    def __len__(self) -> int:
        return len(self._shard_of)

    def __contains__(self, name: str) -> bool:
        return name in self._shard_of

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}  # every process maps the files itself

    @property
    def nbytes(self) -> int:
        """Bytes on disk of the shards in use."""
        return sum(path.stat().st_size for path in set(self._shard_of.values()))

    def get(self, name: str) -> Tensor | None:
        """The tensor on the CPU, mapped from disk: do not write to it.

        Raises:
            CacheError: its shard disappeared since it was found.
        """
        path = self._shard_of.get(name)
        return None if path is None else self._opened(path).get_tensor(name)

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Write some tensors as one new shard."""
        if not tensors:
            return
        stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        path = self.folder / f"{uuid.uuid4().hex}.safetensors"
        with replaced_file(path) as partial:
            save_file(stored, partial, metadata={"made_with": self.made_with, "digest": tensors_hash(stored)})
        self._known.add(path)
        self._shard_of |= {name: path for name in stored if name not in self._shard_of}

    def refresh(self) -> None:
        """Take in the shards that other processes finished since."""
        for path in sorted(set(self.folder.glob("*.safetensors")) - self._known):
            self._known.add(path)
            self._take_in(path)

    def _take_in(self, path: Path) -> None:
        try:
            shard = safe_open(path, framework="pt")
            about = shard.metadata() or {}
            names = list(shard.keys())
            tensors = {name: shard.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            warnings.warn(f"{path} is damaged and left out; what it held is made anew ({error}).", stacklevel=4)
            return
        if (other := about.get("made_with")) != self.made_with:
            warnings.warn(
                f"{path} was made with {other} but belongs to a cache of {self.made_with}; it is left out and stays "
                "as it is. Was it copied here?",
                stacklevel=4,
            )
        elif about.get("digest") != tensors_hash(tensors):
            warnings.warn(
                f"{path} is damaged and left out; what it held is made anew (the hash of its {len(names)} tensors is "
                "not the one written with them). Delete it.",
                stacklevel=4,
            )
        else:
            self._open[path] = shard
            self._shard_of |= {name: path for name in names if name not in self._shard_of}

    def _opened(self, path: Path) -> safe_open:
        if path not in self._open:
            try:
                self._open[path] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise CacheError(f"{path} was there and cannot be read any more ({error}). Start again.") from None
        return self._open[path]


class EncoderCache:
    """What one encoder made; may be sent to data workers.

    Args:
        folder: where caches of all encoders live; made if need be.
        encoder_id: tells encoders apart.
    """

    def __init__(self, folder: str | Path, encoder_id: str) -> None:
        self.shards = ShardFolder(Path(folder) / encoder_id, made_with=encoder_id)

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def folder(self) -> Path:
        """Of this encoder's shards."""
        return self.shards.folder


def _remove_abandoned(folder: Path) -> None:
    for path in [*folder.glob("*.tmp"), *folder.glob(".*.partial")]:  # the first are of older versions
        with suppress(FileNotFoundError, PermissionError):  # its writer was quicker, or is somebody else
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
