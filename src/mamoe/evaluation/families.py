"""Families of scores, each a function from the pictures of one row to their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mamoe.data.geometry.joint import Geometry
from mamoe.evaluation.copying import BETTER, COPY_GAP, COPY_RATE, METHODS, copy_sheet, copying
from mamoe.evaluation.distances.family import Kind, Measured, better, measure, method, score_name
from mamoe.evaluation.features.extractors import Extractor
from mamoe.evaluation.features.store import Features, features_of, preprocessing_name
from mamoe.evaluation.protocol import (
    Family,
    PictureSet,
    Protocol,
    Score,
    hash_of_files,
    hash_of_names,
    library_versions,
)
from mamoe.machine.processes import Processes
from mamoe.storage.staging import replaced_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How pictures become features: the same for all rows of a table."""

    cache: Path
    geometry: Geometry | None  # None: pictures are taken as they are
    processes: Processes
    progress: Callable[[int, int], None] | None = None

    def features(self, paths: Sequence[Path], extractor: Extractor) -> Features:
        """Features of picture files; see :func:`mamoe.evaluation.features.store.features_of`."""
        return features_of(
            paths,
            extractor,
            self.cache,
            geometry=self.geometry,
            processes=self.processes,
            progress=self.progress,
        )


def distribution_family(
    reference: Sequence[Path], extractor: Extractor, kinds: Sequence[Kind], reading: Reading, *, seed: int = 0
) -> Family:
    """Scores of a row's pictures against the reference pictures; only the first process computes them.

    Args:
        reference: real pictures.
        extractor: whose features are compared.
        kinds: which scores.
        reading: how pictures become features.
        seed: of intervals.
    """
    real = reading.features(reference, extractor)
    hashed = hash_of_files(reference)

    def family(row: PictureSet) -> Sequence[Score]:
        if row.missing is None:
            drawn = reading.features(row.paths, extractor)
            found = (
                measure(kinds, drawn, real, seed=seed, layouts=row.layout_numbers) if reading.processes.first else {}
            )
        else:
            found = {kind: Measured(value=None, missing=row.missing) for kind in kinds}
        protocols = {kind: _protocol(method(kind), extractor, reading, hashed, row) for kind in found}
        return [
            measured.as_score(score_name(kind, extractor.name), better(kind), len(row.paths), protocols[kind])
            for kind, measured in found.items()
        ]

    return family


def copying_family(
    train: Sequence[Path] | None,
    held_out: Sequence[Path],
    extractor: Extractor,
    reading: Reading,
    *,
    sheets: Path,
    seed: int = 0,
) -> Family:
    """Copy rate and copy gap of a row's pictures, and a sheet of the closest pairs of every drawn row.

    Args:
        train: pictures the model was trained on; None when they are not known.
        held_out: real pictures it was not trained on.
        extractor: in whose features neighbours are looked for.
        reading: how pictures become features.
        sheets: folder for ``copies-<row>-<extractor>.png``.
        seed: of intervals.
    """
    names = (COPY_RATE, COPY_GAP)
    known = None
    if train is not None:
        known = reading.features(train, extractor), reading.features(held_out, extractor)
    hashed = hash_of_files([*(train or ()), *held_out])

    def family(row: PictureSet) -> Sequence[Score]:
        if train is None or known is None or row.missing is not None:
            why = row.missing or "the training pictures are not given"
            found = {name: Measured(value=None, missing=why) for name in names}
        else:
            drawn = reading.features(row.paths, extractor)
            if not reading.processes.first:
                return []
            result = copying(drawn, *known, seed=seed, layouts=row.layout_numbers)
            found = {COPY_RATE: result.rate, COPY_GAP: result.gap}
            if row.generation is not None:
                with replaced_file(sheets / f"copies-{row.label}-{extractor.name}.png") as partial:
                    copy_sheet(result, row.paths, train).save(partial, format="PNG")
        return [
            measured.as_score(
                f"{name}-{extractor.name}",
                BETTER,
                len(row.paths),
                _protocol(METHODS[name], extractor, reading, hashed, row),
            )
            for name, measured in found.items()
        ]

    return family


def _protocol(name: str, extractor: Extractor, reading: Reading, reference: str, row: PictureSet) -> Protocol:
    return Protocol(
        name=name,
        extractor=extractor.identity,
        preprocessing=preprocessing_name(extractor, reading.geometry),
        reference=reference,
        images=hash_of_names(row.names),
        generation=row.generation,
        versions=library_versions(),
    )
