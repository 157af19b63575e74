"""What a measured number carries with it, and which numbers may stand side by side.

A ``Score`` is never a bare float: it knows how many pictures it was measured on, how sure it is, and the ``Protocol``
that made it. A number that could not be measured says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mamoe.data.folder.matching import same_name
from mamoe.data.reading.pictures import reading_of
from mamoe.errors import MamoeError
from mamoe.storage.hashing import file_hash, text_hash
from mamoe.vocabulary.selection import spread

CONFIDENCE = 0.95
_PACKAGES = ("mamoe", "torch", "torchvision", "numpy", "pillow", "diffusers", "transformers", "torch-fidelity")


class ProtocolError(MamoeError):
    """Numbers that were not measured the same way were asked to stand in one table."""


class Better(StrEnum):
    """Which way a score improves."""

    LOWER = "lower"
    HIGHER = "higher"


class Over(StrEnum):
    """What an interval was taken over."""

    IMAGES = "bootstrap over images"
    LAYOUTS = "bootstrap over layouts"  # of which some have several pictures
    SEEDS = "over seeds"


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """How the measured pictures were drawn."""

    mode: str | None  # cond, uncond or cfg; None: not known
    sampler: str | None
    steps: int | None
    guidance: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How a number was made."""

    name: str  # the score and its settings, e.g. "Frechet distance, torch-fidelity Inception 2048"
    extractor: str | None  # network and its weights; None where pixels or labels are measured
    preprocessing: str | None  # from 8-bit pictures to the network's input
    reference: str  # hash of the reference list with contents, see hash_of_files
    images: str  # hash of the names of the measured pictures, see hash_of_names
    generation: Generation | None  # None: the measured pictures are photographs
    versions: Mapping[str, str]  # of libraries; on the record, no ground for refusal


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A 95 % interval of a score."""

    low: float
    high: float
    over: Over


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One number, or the reason why there is none.

    Raises:
        ValueError: neither a finite value nor a reason, or both; an interval without a value or upside down.
    """

    name: str  # e.g. "FID", "KID-alexnet", "IoU/road"; the column of a table
    value: float | None
    missing: str | None = None  # why there is no value
    n: int  # pictures measured
    interval: Interval | None = None
    better: Better
    protocol: Protocol

    def __post_init__(self) -> None:
        if (self.value is None) == (self.missing is None):
            raise ValueError(f"{self.name}: give a value or the reason why there is none, and not both.")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"{self.name}: the value is {self.value}; give the reason as missing instead.")
        if self.interval is not None and (self.value is None or not self.interval.low <= self.interval.high):
            raise ValueError(f"{self.name}: the interval {self.interval} does not belong to the value {self.value}.")

    @property
    def text(self) -> str:
        """The number with its interval and n, or ``n/a (why)``."""
        if self.value is None:
            return f"n/a ({self.missing})"
        around = "" if self.interval is None else f" [{self.interval.low:.4g}, {self.interval.high:.4g}]"
        return f"{self.value:.4g}{around} (n={self.n})"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; :meth:`from_dict` takes it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Score:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: it is none of ours.
        """
        try:
            how = dict(plain["protocol"])
            generation = None if how["generation"] is None else Generation(**how["generation"])
            interval = plain["interval"]
            if interval is not None:
                interval = Interval(low=interval["low"], high=interval["high"], over=Over(interval["over"]))
            given = {**plain, "interval": interval, "better": Better(plain["better"])}
            return cls(**{**given, "protocol": Protocol(**{**how, "generation": generation})})
        except (KeyError, TypeError) as error:
            raise ValueError(f"This is no score as mamoe writes it: {error!s}.") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureSet:
    """The pictures of one row of a table; all of one size."""

    label: str  # the row, e.g. "cfg" or "real (train)"
    paths: tuple[Path, ...]
    generation: Generation | None  # None: photographs
    missing: str | None = None  # why there are no pictures; then every score of the row is n/a with this reason
    root: Path | None = None  # the folder that names are relative to; None: file names alone
    drawn_from: tuple[str, ...] | None = None  # names of the layouts, without endings; None: the pictures' own

    @property
    def names(self) -> tuple[str, ...]:
        """What the pictures are called, without endings."""
        root = self.root
        return tuple(same_name(path.name if root is None else path.relative_to(root).as_posix()) for path in self.paths)

    @property
    def layout_names(self) -> tuple[str, ...]:
        """What the layouts of the pictures are called, without endings."""
        return self.names if self.drawn_from is None else self.drawn_from

    @property
    def layout_numbers(self) -> tuple[int, ...] | None:
        """Which pictures are of one layout: a number each, from 0 on; None where each has a layout of its own."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self.drawn_from or ()))}
        if len(numbers) == len(self.drawn_from or ()):
            return None
        return tuple(numbers[name] for name in self.layout_names)

    def spread(self, count: int | None) -> PictureSet:
        """``count`` of the pictures, spread evenly; all when there are no more or None is given."""
        places = spread(range(len(self.paths)), count)
        of = None if self.drawn_from is None else tuple(self.drawn_from[place] for place in places)
        return replace(self, paths=tuple(self.paths[place] for place in places), drawn_from=of)


Family = Callable[[PictureSet], Sequence[Score]]  # measures one row: distribution scores, layout scores, ...


def conflicts(one: Protocol, other: Protocol) -> list[str]:
    """What keeps two numbers of one score from standing in one column; empty when they may.

    Name, extractor, preprocessing and reference must be the same. Photographs (floors) stand beside any drawn pictures;
    drawn pictures must be of the same list, sampler and steps, and of the same guidance where the mode is the same.
    """
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in ("name", "extractor", "preprocessing")]
    pairs.append(("reference pictures", one.reference, other.reference))
    if one.generation is not None and other.generation is not None:
        pairs.append(("picture list", one.images, other.images))
        names = (
            ("sampler", "steps", "guidance") if one.generation.mode == other.generation.mode else ("sampler", "steps")
        )
        pairs += [(name, getattr(one.generation, name), getattr(other.generation, name)) for name in names]
    return [f"{name} {a!r} against {b!r}" for name, a, b in pairs if a != b]


def hash_of_files(paths: Iterable[Path]) -> str:
    """Sixteen hex digits for a set of pictures: names and contents, whatever their order and folder."""
    lines = sorted(f"{path.name} {picture_hash(path)}" for path in paths)
    return text_hash("\n".join(lines))


def hash_of_names(names: Iterable[str]) -> str:
    """Sixteen hex digits for a set of pictures by their names without endings: which layouts were drawn."""
    return text_hash("\n".join(sorted(names)))


def picture_hash(path: Path) -> str:
    """What a picture shows: the sha256 of its file's contents, and what reading does to its pixels."""
    return file_hash(path) + reading_of(path)


@cache
def library_versions() -> Mapping[str, str]:
    """What is installed of the libraries that numbers depend on."""
    installed = {name: _version(name) for name in _PACKAGES}
    return {name: version for name, version in installed.items() if version is not None}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
