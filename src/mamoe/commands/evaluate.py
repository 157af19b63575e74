"""Evaluations put together: a run's test split sampled and scored, or a folder of pictures scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mamoe.assemble.data import TRAIN, dataset, layout_settings
from mamoe.assemble.layout_scores import layout_families
from mamoe.assemble.record import config_of
from mamoe.assemble.run_data import STORE, with_data
from mamoe.console import note
from mamoe.data.dataset import LayoutDataset
from mamoe.data.encoded import content_of
from mamoe.data.folder.description import DataFolder, data_folder
from mamoe.data.folder.listing import bare_name
from mamoe.data.folder.matching import same_name
from mamoe.data.folder.prompts import raise_problems
from mamoe.data.geometry.joint import Crop, Geometry
from mamoe.data.geometry.sizes import MULTIPLE
from mamoe.errors import ConfigError, DatasetError
from mamoe.evaluation.features.extractors import Extractor, load_extractor
from mamoe.evaluation.features.store import common_size, list_pictures
from mamoe.evaluation.protocol import Generation, PictureSet
from mamoe.evaluation.reconstruction import load_autoencoder
from mamoe.evaluation.request import Asked, Progress
from mamoe.evaluation.run import (
    LAYOUT,
    LAYOUT_SCORES,
    SCORES,
    Comparison,
    check_common_size,
    check_scores,
    drawn_otherwise,
    evaluate,
    folder_row,
    layout_of,
)
from mamoe.evaluation.table import Table
from mamoe.machine.processes import Processes, started_processes
from mamoe.randomness import derive_seed
from mamoe.runs.lookup import find_checkpoint
from mamoe.sampling.batches import batches_by_size, sample_batch
from mamoe.sampling.filling import fill
from mamoe.sampling.finite import required_finite
from mamoe.sampling.folders import load_run
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.sampling.records import key_of, model_hash, record_of
from mamoe.vocabulary.drawing import DRAWING, Drawing
from mamoe.vocabulary.selection import spread
from mamoe.vocabulary.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Layouts:
    """The data set that pictures were made from."""

    tests: LayoutDataset
    trains: LayoutDataset
    index: Sequence[int]  # the layouts that were drawn
    store: Path  # of the domain segmenter

    @property
    def pictures(self) -> tuple[Path, ...]:
        return tuple(self.tests.files.samples[i].image for i in self.index)

    @property
    def train_pictures(self) -> tuple[Path, ...]:
        return tuple(sample.image for sample in self.trains.files.samples)


def evaluate_folder(folder: Path, asked: Asked, progress: Progress | None = None) -> tuple[Table | None, Path]:
    """Score a folder of pictures; returns the table (on the first process) and the folder it is in.

    Raises:
        MamoeError: what the user can mend.
    """
    if asked.against is None and asked.data is None:
        raise ConfigError(
            f"{folder} is a folder of pictures: say with --against FOLDER which real pictures to compare, or with "
            "--data FOLDER from which data set its layouts are."
        )
    scores = asked.scores or (SCORES if asked.data is None else (*SCORES, LAYOUT))
    check_scores(scores)
    if asked.data is None and any(name in LAYOUT_SCORES for name in scores):
        raise ConfigError(f"The scores {', '.join(LAYOUT_SCORES)} need the maps: name their data set with --data.")
    if asked.data is None and asked.instance_prompts is not None:
        raise ConfigError(
            f"--instance-prompts {asked.instance_prompts} belongs to maps: name their data set with --data."
        )
    out = asked.out or Path("eval") / folder.resolve().name
    drawn = folder_row(folder, recursive=asked.recursive).spread(asked.images)
    geometry = None if asked.size is None else Geometry(size=asked.size, crop=Crop.CENTER, multiple=1)
    train = None if asked.train is None else list_pictures(asked.train, recursive=asked.recursive)
    layouts = None
    if asked.data is not None:
        geometry = geometry or Geometry(size=common_size({drawn.label: drawn.paths}), multiple=1)
        _check_layout_size(geometry.size)
        parts = data_folder(asked.data, None if asked.taxonomy is None else Taxonomy.load(asked.taxonomy))
        for text in parts.notes:
            note(text)
        trains = split_of(asked.data, parts, asked.seed, TRAIN, geometry)
        asked_for = replace(parts, instance_prompts=asked.instance_prompts or parts.instance_prompts)
        tests = split_of(asked.data, asked_for, asked.seed, asked.split, geometry)
        drawn = _with_layouts(drawn, tests)
        if any(name in LAYOUT_SCORES for name in scores):
            for text in drawn_otherwise(drawn, {same_name(one.key): one for one in tests.files.samples}):
                note(f"{folder}: {text}.")
        layouts = _Layouts(tests=tests, trains=trains, index=_places_of(drawn, tests), store=asked.data / STORE)
        train = layouts.train_pictures if train is None else train
    if asked.against is not None:
        reference = spread(list_pictures(asked.against, recursive=asked.recursive), asked.images)
    else:
        assert layouts is not None
        reference = layouts.pictures
    comparison = Comparison(
        reference=reference,
        root=asked.against or (None if layouts is None else layouts.tests.folder),
        train=train,
        autoencoder=None if asked.autoencoder is None else load_autoencoder(asked.autoencoder),
        extractors=extractors_of(asked.extractors, scores, asked.device),
        scores=_of_features(scores),
        geometry=geometry,
        out=out,
        cache=asked.cache or out / "features",
        seed=asked.seed,
    )
    with started_processes() as processes:
        return _evaluated([drawn], comparison, layouts, scores, asked, processes, progress), out


def evaluate_run(
    run: Path,
    asked: Asked,
    drawing: Drawing = DRAWING,
    progress: Progress | None = None,
    clock: Callable[[int, float], None] | None = None,
    *,
    alone: bool = False,
) -> tuple[Table | None, Path]:
    """Draw a split of a run's data in every mode and score it; returns the table (first process) and its folder.

    ``drawing`` says how, but for the mode: ``asked`` has them all.
    ``clock`` is called with (pictures, seconds) of every batch that is drawn now. ``alone``: other processes that were
    started with this one take no part.

    Raises:
        MamoeError: what the user can mend.
    """
    given = {"--autoencoder": asked.autoencoder, "--size": asked.size, "--taxonomy": asked.taxonomy}
    given |= {"--instance-prompts": asked.instance_prompts}
    own = [name for name, value in given.items() if value is not None]
    if own:
        raise ConfigError(f"{run} is a run and brings its own: leave out {', '.join(own)}.")
    scores = asked.scores or (*SCORES, LAYOUT)
    check_scores(scores)
    checkpoint = find_checkpoint(run, asked.checkpoint)
    home, config = config_of(checkpoint)
    settings = layout_settings(config)
    if asked.data is not None:
        config = with_data(config, asked.data, settings.taxonomy)
    elif not Path(config.data.images).is_dir():
        raise DatasetError(
            f"The data of {home} is not in {config.data.images} any more. If it moved, give its place: --data FOLDER."
        )
    wanted = dataset(config, asked.split, settings.taxonomy)
    pipe = load_run(checkpoint, base=asked.base)
    pipe.to(asked.device)
    pipe.set_progress_bar_config(disable=True)
    out = asked.out or home / "eval" / asked.split / checkpoint.name
    layouts = _Layouts(
        tests=wanted,
        trains=dataset(config, TRAIN, settings.taxonomy),
        index=spread(range(len(wanted)), asked.images),
        store=(asked.data or Path(config.data.images).parent) / STORE,
    )
    named = partial(list_pictures, recursive=asked.recursive)
    comparison = Comparison(
        reference=layouts.pictures if asked.against is None else named(asked.against),
        root=asked.against or wanted.folder,
        train=layouts.train_pictures if asked.train is None else named(asked.train),
        autoencoder=pipe.vae,
        extractors=extractors_of(asked.extractors, scores, asked.device),
        scores=_of_features(scores),
        geometry=wanted.geometry,
        out=out,
        cache=asked.cache or Path(config.runs) / "cache" / "features",
        seed=asked.seed,
    )
    check_common_size(comparison)  # before hours of drawing
    with nullcontext(Processes()) if alone else started_processes() as processes:
        rows = [
            _drawn(pipe, wanted, layouts.index, replace(drawing, mode=mode), out / mode, processes, progress, clock)
            for mode in asked.modes
        ]
        return _evaluated(rows, comparison, layouts, scores, asked, processes, progress), out


def _evaluated(
    rows: Sequence[PictureSet],
    comparison: Comparison,
    layouts: _Layouts | None,
    scores: Sequence[str],
    asked: Asked,
    processes: Processes,
    progress: Progress | None,
) -> Table | None:
    families, ceiling = (), None
    # Layout scores are the work of the first process alone: reading the pictures costs little beside drawing them.
    if layouts is not None and processes.first and any(name in LAYOUT_SCORES for name in scores):
        families, ceiling = layout_families(
            scores, layouts.tests, layouts.index, layouts.trains, layouts.store, asked, progress
        )
    return evaluate(rows, comparison, processes=processes, families=families, ceiling=ceiling, progress=progress)


def _drawn(
    pipe: LayoutPipeline,
    source: LayoutDataset,
    index: Sequence[int],
    drawing: Drawing,
    folder: Path,
    processes: Processes,
    progress: Progress | None,
    clock: Callable[[int, float], None] | None,
) -> PictureSet:
    mode = drawing.mode
    keys = [source.keys[i] for i in index]
    sizes = [source[i].panoptic.size for i in index] if isinstance(source.geometry.size, int) else [(0, 0)] * len(index)
    layout = pipe.settings is not None and (pipe.settings.region_attention or pipe.settings.moe)

    def seed_of(place: int) -> int:
        return derive_seed(drawing.seed, "evaluate", key_of(keys[place]))

    def record(place: int) -> dict[str, Any]:
        sample, path = source[index[place]], source.files.samples[index[place]].panoptic
        made_of = {} if path is None else {"panoptic": str(path), "panoptic_hash": content_of(path)}
        made_by = {"scheduler": generation.sampler, "model_hash": about["model"]}
        return record_of(sample.prompts, sample.panoptic.size, seed_of(place), drawing, **made_of, **made_by)

    def make(batch: list[int]) -> list[Any]:
        began = time.perf_counter()
        with required_finite([keys[place] for place in batch]):
            images = sample_batch(
                pipe,
                [source[index[place]] for place in batch],
                [seed_of(place) for place in batch],
                drawing,
                layout=layout,
            )
        if clock is not None:
            clock(len(batch), time.perf_counter() - began)
        return images

    generation = Generation(
        mode=mode.value, sampler=type(pipe.scheduler).__name__, steps=drawing.steps, guidance=drawing.scale
    )
    about = {
        "model": model_hash(pipe),
        "sampler": generation.sampler,
        "steps": drawing.steps,
        "guidance_scale": drawing.scale,
        "seed": drawing.seed,
        "geometry": str(source.geometry),
    }
    names = [f"{bare_name(key)}.png" for key in keys]
    batches = list(batches_by_size(sizes, drawing.batch_size))
    paths = fill(folder, names, batches, make, record=record, about=about, processes=processes, progress=progress)
    return PictureSet(label=mode.value, paths=paths, generation=generation, root=folder)


def _check_layout_size(size: Sequence[int] | int) -> None:
    sides = (size,) if isinstance(size, int) else tuple(size)
    if any(side % MULTIPLE for side in sides):
        nearest = " ".join(str(max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)) for side in sides)
        raise ConfigError(
            f"--data reads pictures and maps as a training does, at sides divisible by {MULTIPLE}; got "
            f"{'x'.join(map(str, sides))}. Give --size {nearest}, or leave out --data and name real pictures with "
            "--against."
        )


def split_of(folder: Path, parts: DataFolder, seed: int, split: str, geometry: Geometry) -> LayoutDataset:
    """A split of a data set that is evaluated.

    Raises:
        DatasetError: files are missing or do not belong together.
    """
    source = LayoutDataset(
        images=parts.images,
        panoptic_maps=parts.panoptic_maps,
        split=split,
        prompts=parts.prompts,
        instance_prompts=parts.instance_prompts,
        taxonomy=parts.taxonomy,
        geometry=geometry,
        seed=seed,
        recursive=parts.recursive,
    )
    raise_problems(list(source.files.problems), f"The split {split!r} of {folder}")
    return source


def _with_layouts(drawn: PictureSet, source: LayoutDataset) -> PictureSet:
    """The pictures with the names of the layouts they were drawn of."""
    known = {same_name(key) for key in source.keys}
    layouts = [layout_of(path, name, known) for path, name in zip(drawn.paths, drawn.names, strict=True)]
    strange = [path.name for path, layout in zip(drawn.paths, layouts, strict=True) if layout is None]
    if strange:
        raise DatasetError(
            f"{len(strange)} of {len(drawn.paths)} pictures have no map in the split {source.split!r}, such as "
            f"{strange[0]}. Maps and pictures belong together by their names without endings; see --split."
        )
    return replace(drawn, drawn_from=tuple(layout for layout in layouts if layout is not None))


def _places_of(drawn: PictureSet, source: LayoutDataset) -> tuple[int, ...]:
    places = {same_name(key): place for place, key in enumerate(source.keys)}
    return tuple(dict.fromkeys(places[name] for name in drawn.layout_names))


def _of_features(scores: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in scores if name not in LAYOUT_SCORES)


def extractors_of(named: Sequence[str], scores: Sequence[str], device: str) -> tuple[Extractor, ...]:
    """The networks, if one of the scores needs them; each is NAME or NAME=PATH."""
    if not _of_features(scores):
        return ()
    found = []
    for text in named:
        name, _, source = text.partition("=")
        found.append(load_extractor(name, Path(source) if source else None, device))
    return tuple(found)
