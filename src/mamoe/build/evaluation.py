"""Evaluations put together: a run's test split sampled and scored, or a folder of pictures scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mamoe.build.data import TRAIN, dataset, layout_settings
from mamoe.config import Train, validated
from mamoe.data.dataset import LayoutDataset
from mamoe.data.transforms import Crop, Geometry
from mamoe.errors import ConfigError
from mamoe.evaluation.drawings import fill
from mamoe.evaluation.evaluate import (
    SCORES,
    Comparison,
    check_scores,
    evaluate,
    folder_row,
    spread,
)
from mamoe.evaluation.extractors import Extractor, load_extractor
from mamoe.evaluation.features import list_pictures
from mamoe.evaluation.processes import Processes, started_processes
from mamoe.evaluation.protocol import Generation, PictureSet
from mamoe.evaluation.reconstruction import load_autoencoder
from mamoe.evaluation.table import Table
from mamoe.randomness import derive_seed
from mamoe.sampling.batches import Mode, batches_by_size, guidance_of, sample_batch
from mamoe.sampling.jobs import load_run
from mamoe.sampling.output import key_of, model_hash
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.sampling.runs import find_checkpoint

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the command line asks for, besides what is evaluated."""

    against: Path | None  # folder of real pictures; None: the run's split
    train: Path | None = None  # folder of training pictures; None: the run's, or unknown
    autoencoder: str | None = None  # base model; None: the run's, or none
    scores: tuple[str, ...] = SCORES
    extractors: tuple[str, ...] = ("inception",)  # NAME or NAME=PATH
    size: tuple[int, int] | None = None  # (H, W) every picture of a folder is brought to
    out: Path | None = None
    cache: Path | None = None
    images: int | None = None  # at most so many, spread evenly; None: all
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """How a run's pictures are drawn."""

    split: str = "test"
    checkpoint: str = "latest"
    modes: tuple[str, ...] = tuple(Mode)
    steps: int = 50
    guidance_scale: float = 4.0
    batch_size: int = 4


def evaluate_folder(folder: Path, asked: Asked, progress: Progress | None = None) -> tuple[Table | None, Path]:
    """Score a folder of pictures; returns the table (on the first process) and the folder it is in.

    Raises:
        MamoeError: what the user can mend.
    """
    if asked.against is None:
        raise ConfigError(
            f"{folder} is a folder of pictures: say with --against FOLDER which real pictures to compare."
        )
    check_scores(asked.scores)
    out = asked.out or Path("eval") / folder.resolve().name
    row = folder_row(folder)
    comparison = Comparison(
        reference=spread(list_pictures(asked.against), asked.images),
        train=None if asked.train is None else list_pictures(asked.train),
        autoencoder=None if asked.autoencoder is None else load_autoencoder(asked.autoencoder),
        extractors=_extractors(asked),
        scores=asked.scores,
        geometry=None if asked.size is None else Geometry(size=asked.size, crop=Crop.CENTER),
        out=out,
        cache=asked.cache or out / "features",
        seed=asked.seed,
    )
    rows = [PictureSet(label=row.label, paths=spread(row.paths, asked.images), generation=row.generation)]
    with started_processes() as processes:
        return evaluate(rows, comparison, processes=processes, progress=progress), out


def evaluate_run(
    run: Path, asked: Asked, drawing: Drawing, progress: Progress | None = None
) -> tuple[Table | None, Path]:
    """Draw a split of a run's data in every mode and score it; returns the table (first process) and its folder.

    Raises:
        MamoeError: what the user can mend.
    """
    own = [name for name, given in (("--autoencoder", asked.autoencoder), ("--size", asked.size)) if given is not None]
    if own:
        raise ConfigError(f"{run} is a run and brings its own: leave out {', '.join(own)}.")
    check_scores(asked.scores)
    unknown = [mode for mode in drawing.modes if mode not in list(Mode)]
    if unknown:
        raise ConfigError(f"There is no mode {', '.join(unknown)}; there are {', '.join(Mode)}.")
    checkpoint = find_checkpoint(run, drawing.checkpoint)
    home, config = _config_of(checkpoint)
    settings = layout_settings(config)
    wanted = dataset(config, drawing.split, settings.taxonomy)
    pipe = load_run(checkpoint)
    pipe.to(asked.device)
    pipe.set_progress_bar_config(disable=True)
    out = asked.out or home / "eval" / drawing.split / checkpoint.name
    index = [
        i * len(wanted) // count for count in [min(asked.images or len(wanted), len(wanted))] for i in range(count)
    ]
    pictures = tuple(wanted.files.samples[i].image for i in index)
    comparison = Comparison(
        reference=pictures if asked.against is None else list_pictures(asked.against),
        train=_train_pictures(config, settings.taxonomy) if asked.train is None else list_pictures(asked.train),
        autoencoder=pipe.vae,
        extractors=_extractors(asked),
        scores=asked.scores,
        geometry=wanted.geometry,
        out=out,
        cache=asked.cache or Path(config.runs) / "cache" / "features",
        seed=asked.seed,
    )
    with started_processes() as processes:
        rows = [
            _drawn(pipe, wanted, index, Mode(mode), drawing, asked.seed, out / mode, processes, progress)
            for mode in drawing.modes
        ]
        return evaluate(rows, comparison, processes=processes, progress=progress), out


def _drawn(
    pipe: LayoutPipeline,
    source: LayoutDataset,
    index: Sequence[int],
    mode: Mode,
    drawing: Drawing,
    seed: int,
    folder: Path,
    processes: Processes,
    progress: Progress | None,
) -> PictureSet:
    guidance = guidance_of(mode, drawing.guidance_scale)
    keys = [source.keys[i] for i in index]
    sizes = [source[i].panoptic.size for i in index] if isinstance(source.geometry.size, int) else [(0, 0)] * len(index)
    layout = pipe.settings is not None and (pipe.settings.region_attention or pipe.settings.moe)

    def make(batch: list[int]) -> list[Any]:
        return sample_batch(
            pipe,
            [source[index[place]] for place in batch],
            mode=mode,
            seeds=[derive_seed(seed, "evaluate", key_of(keys[place])) for place in batch],
            steps=drawing.steps,
            batch_size=drawing.batch_size,
            guidance_scale=drawing.guidance_scale,
            layout=layout,
        )

    generation = Generation(
        mode=mode.value, sampler=type(pipe.scheduler).__name__, steps=drawing.steps, guidance=guidance
    )
    about = {
        "model": model_hash(pipe),
        "sampler": generation.sampler,
        "steps": drawing.steps,
        "guidance_scale": guidance,
        "seed": seed,
        "geometry": str(source.geometry),
    }
    names = [f"{Path(key).stem}.png" for key in keys]
    batches = list(batches_by_size(sizes, drawing.batch_size))
    paths = fill(folder, names, batches, make, about=about, processes=processes, progress=progress)
    return PictureSet(label=mode.value, paths=paths, generation=generation)


def _train_pictures(config: Train, taxonomy: Any) -> tuple[Path, ...]:
    return tuple(sample.image for sample in dataset(config, TRAIN, taxonomy).files.samples)


def _config_of(checkpoint: Path) -> tuple[Path, Train]:
    home = checkpoint.parent.parent
    path = home / "config.yaml"
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} says which data the run was trained on, and cannot be read: {error}. Sample the layouts with "
            "`mamoe sample` and evaluate the folder."
        ) from None
    return home, validated(plain)


def _extractors(asked: Asked) -> tuple[Extractor, ...]:
    found = []
    for text in asked.extractors:
        name, _, source = text.partition("=")
        found.append(load_extractor(name, Path(source) if source else None, asked.device))
    return tuple(found)
