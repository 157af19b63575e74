"""What every importer hands to the writer: pictures of another data set, and what is annotated in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mamoe.errors import DatasetError
from mamoe.machine.shares import Share
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """What an annotation says about its picture."""

    panoptic: PanopticMap
    groups: Set[int] = frozenset()  # segments of thing classes that hold several things nobody told apart
    remarks: tuple[str, ...] = ()  # what was dropped or converted: "has ...", one wording per kind
    details: Mapping[str, Any] = field(default_factory=dict)  # of the picture, for a report; plain values alone
    prompts: RegionPrompts | None = None  # what it was drawn from; None: it is described, things by their classes


LoadAll = Callable[[Sequence[Path]], Sequence[Labelled | DatasetError]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePicture:
    """One annotated picture of a foreign data set."""

    name: str  # relative name with "/" between folders and the suffix of ``picture``; written without the folders
    picture: Path
    load: Callable[[], Labelled]  # raises DatasetError; fit for another process
    load_all: LoadAll | None = None  # does so for several pictures at once, and is then called instead


@dataclass(frozen=True, kw_only=True, slots=True)
class Manner:
    """How a data set is written, whatever it is made of."""

    link: bool = False  # pictures are links to where they lie, not copies
    val: float | None = None  # share of the pictures of ``train`` that become ``val``, in (0, 0.5]
    follow_links: bool = False  # files of the source may be links that lead out of it
    workers: int = 1  # processes of this command
    together: int = 1  # pictures that are done at once, by what can
    overwrite: bool = False  # a data set that is there already gives way at the end
    dry_run: bool = False  # look, say what would be done, write nothing
    share: Share = field(default_factory=Share)  # the part of the pictures that is done here


MANNER = Manner()
