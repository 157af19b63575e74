"""The demo from end to end: draw a town, fine-tune on it, draw the test layouts, measure, write the page.

The flow:  Data. Train. Pictures. Scores. Page.  Data and training are taken up where an earlier call left them.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from mamoe.assemble.data import dataset, layout_settings
from mamoe.assemble.training import train
from mamoe.bases.shipped import resolved
from mamoe.commands.demo.models import SEED, DemoModel
from mamoe.commands.demo.page import Command, DemoReport, GalleryRow, InstanceLine, write_page
from mamoe.commands.demo.scores import DemoScores, measured, side_by_side
from mamoe.config.compose import compose, setting
from mamoe.config.train import Train, validated
from mamoe.data.folder.listing import bare_name
from mamoe.data.reading.pictures import read_picture
from mamoe.errors import ConfigError
from mamoe.evaluation.layout.attributes import (
    caption_chance,
    instances_that_count,
    named_colours,
    swap_colours,
    swap_in_caption,
)
from mamoe.machine.memory import peak_mib
from mamoe.machine.pool import usable_cores
from mamoe.machine.precision import autocast_where_faster, bf16_is_faster
from mamoe.pages.curve import Series
from mamoe.randomness import derive_seed
from mamoe.runs.checkpoint import step_of
from mamoe.runs.lookup import find_checkpoint
from mamoe.runs.recipe import read_recipe
from mamoe.sampling.batches import batches_by_size, sample_batch
from mamoe.sampling.filling import fill
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.sampling.records import model_hash, record_of
from mamoe.sampling.schedulers import scheduler_named
from mamoe.scenes import COLOURS, Domain, write_scenes
from mamoe.storage.staging import write_whole
from mamoe.training.loop.metrics import read_rows
from mamoe.vocabulary.colourize import colourize
from mamoe.vocabulary.drawing import Drawing
from mamoe.vocabulary.sample import Sample
from mamoe.vocabulary.taxonomy import Taxonomy

COUNTS = {"train": 256, "val": 32, "test": 32}
DRAWN = "drawn"  # folder of the pictures that the page shows and the scores are of
SWAPPED_PROMPTS = "instance_prompts_swapped.json"  # in it
ROWS = 12  # of the gallery
CPU = torch.device("cpu")  # where the memory is counted
COLOUR_WORDS = tuple(COLOURS)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pictures:
    """Three kinds of pictures of the same test layouts, u8 [H W 3] each."""

    mamoe: list[np.ndarray]
    swapped: list[np.ndarray]
    base: list[np.ndarray]


def run_demo(
    out: Path, *, model: DemoModel = DemoModel.TINY, steps: int | None = None, settings: Sequence[str] = ()
) -> int:
    """Run what is not there yet of the demo in ``out``; returns the exit code of the command.

    Args:
        out: folder for data, run and page.
        model: the base model that is fine-tuned.
        steps: of the training; None = as its experiment says.
        settings: further settings of the training, as on the command line of ``mamoe train``.
    """
    console = Console()
    started = time.perf_counter()
    say = Narrator(console)

    # Data.
    data = out / "data"
    if not (data / "instance_prompts_test.json").exists():
        with say.part("Drawing one town at dusk: 256 scenes to train on, 64 to look at") as update:
            write_scenes(
                data, domain=Domain.DUSK_TOWN, counts=COUNTS, seed=SEED, workers=usable_cores(), progress=update
            )

    # Train.
    overrides = [
        f"experiment={model.experiment}",
        setting("data.root", data),
        setting("runs", out / "runs"),
        f"seed={SEED}",
    ]
    if torch.cuda.is_available() and bf16_is_faster("cuda", training=True):  # on CPUs float32 trains faster
        overrides.append("trainer.precision=bf16-mixed")
    overrides.append("callbacks.samples=null")  # the page shows pictures
    overrides += [*settings, *([] if steps is None else [f"trainer.max_steps={steps}"])]
    latest = out / "runs" / "demo" / "latest"
    resume = [setting("resume", latest)] if (latest / "checkpoints" / "latest").exists() else []
    if resume:
        begun = read_recipe(find_checkpoint(latest))
        _check_model(begun.base.path, model, out)
        # An earlier version's demo weighs its regions as that version did.
        overrides.insert(1, setting("regions.strength", begun.terms.layout.strength))
    plain = compose([*overrides, *resume])
    config = validated(plain)
    done = step_of(find_checkpoint(latest)) if resume and steps is None else 0
    if done > (config.trainer.max_steps or done):
        overrides.append(f"trainer.max_steps={done}")  # an earlier version's demo was longer, and is finished
        plain = compose([*overrides, *resume])
        config = validated(plain)
    say.line(f"Fine-tuning {model}, {model.kind}, with regions and experts (Ctrl-C is safe: start again to go on)")
    result, run = train(config, plain=plain, overrides=overrides)
    if result.exit_code:
        return result.exit_code
    trained = time.perf_counter()

    # Pictures.
    tests = samples_of(config, "test")
    swapped = [with_swapped_colours(sample) for sample in tests]
    pictures = draw_all(config, run, out / DRAWN, tests, swapped, model, say)

    # Scores.
    scores = measure(out, data, tests, swapped, say)

    # Page.
    report = DemoReport(
        title="One town at dusk",
        summary=SUMMARY.format(kind=model.kind),
        scores=scores,
        rows=tuple(gallery(tests, swapped, pictures, Taxonomy.load("scenes"))[:ROWS]),
        losses=losses_of(run),
        commands=commands_after(out, run),
        facts=facts(started, trained, result.step, config.data.batch_size, model.drawing),
    )
    page = out / "index.html"
    write_page(report, page)
    say.line(f"Done: open {page}")
    figures = {
        **scores.to_dict(),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gib": round(peak_mib(CPU) / 2**10, 2),
    }
    write_whole(json.dumps(figures, indent=2) + "\n", out / "scores.json")
    print(json.dumps(figures))
    return 0


SUMMARY = (
    "A small latent diffusion model, {kind}, trained on drawn streets of every kind, was fine-tuned on 256 pictures "
    "of one town at dusk. It now draws layouts it has never seen: every car, bus and coat has a prompt of its own, and "
    "each group of classes an expert of its own."
)


class Narrator:
    """Says what the demo is doing, with a bar for the parts that take long."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def line(self, text: str) -> None:
        self._console.print(text, highlight=False)

    @contextmanager
    def part(self, title: str) -> Iterator[Callable[[int, int], None]]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def samples_of(config: Train, split: str) -> list[Sample]:
    """All samples of a split, as evaluation sees them."""
    source = dataset(config, split, layout_settings(config).taxonomy)
    shown = source.unaugmented()
    return [shown[i] for i in range(len(shown))]


def with_swapped_colours(sample: Sample) -> Sample:
    """The same layout with another colour in every prompt that names one, in the caption too."""
    rng = np.random.default_rng(derive_seed(SEED, "swap", sample.index))
    before = sample.prompts.by_segment
    after = swap_colours(before, COLOUR_WORDS, rng)
    caption = swap_in_caption(sample.prompts.global_prompt, before, after)
    return replace(sample, prompts=replace(sample.prompts, by_segment=after, global_prompt=caption))


def _check_model(begun: str, model: DemoModel, out: Path) -> None:
    """Refuse to go on with another model's demo.

    Raises:
        ConfigError: names that model, and what to do.
    """
    for other in DemoModel:
        if begun == f"package:{other}" and other is not model:
            raise ConfigError(
                f"{out} holds the demo of {other}. Go on with that (--model {other}), or give the demo of {model} a "
                "folder of its own (--out)."
            )


def draw_all(
    config: Train,
    run: Path,
    folder: Path,
    tests: Sequence[Sample],
    swapped: Sequence[Sample],
    model: DemoModel,
    say: Narrator,
) -> Pictures:
    """Draw every test layout with its prompts, with swapped prompts, and by the base model without layout.

    They lie in ``folder``, which is filled anew: the run may have gone on since.
    """
    tuned = _quiet(LayoutPipeline.from_pretrained(run))
    base = _quiet(LayoutPipeline.from_pretrained(resolved(str(config.model.path or config.model.init_from))))
    if model.scheduler is not None:
        for pipe in (tuned, base):
            pipe.scheduler = scheduler_named(model.scheduler, pipe.scheduler)
    drawing = model.drawing
    seeds = [derive_seed(drawing.seed, "demo", sample.index) for sample in tests]

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def draw(
        title: str, name: str, pipe: LayoutPipeline, samples: Sequence[Sample], *, layout: bool
    ) -> list[np.ndarray]:
        made_by = {"scheduler": type(pipe.scheduler).__name__, "model_hash": model_hash(pipe)}

        def make(batch: list[int]) -> list[Image.Image]:
            return sample_batch(pipe, [samples[i] for i in batch], [seeds[i] for i in batch], drawing, layout=layout)

        def record(i: int) -> dict[str, Any]:
            sample = samples[i]
            return record_of(sample.prompts, sample.panoptic.size, seeds[i], drawing, key=sample.key, **made_by)

        names = [f"{bare_name(sample.key)}.png" for sample in samples]
        batches = list(batches_by_size([sample.panoptic.size for sample in samples], drawing.batch_size))
        with say.part(title) as update, autocast_where_faster(device, training=False):
            paths = fill(folder / name, names, batches, make, record=record, again=True, progress=update)
        return [read_picture(path) for path in paths]

    return Pictures(
        mamoe=draw("Drawing the test layouts", "mamoe", tuned, tests, layout=True),
        swapped=draw("Drawing them with swapped colours", "swapped", tuned, swapped, layout=True),
        base=draw("Drawing them with the base model, without layout", "base", base, tests, layout=False),
    )


def _quiet(pipe: LayoutPipeline) -> LayoutPipeline:
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def measure(out: Path, data: Path, tests: Sequence[Sample], swapped: Sequence[Sample], say: Narrator) -> DemoScores:
    """Colours and layout of the pictures in ``out``, as `mamoe evaluate` judges them: by the real training pictures."""
    told = {sample.key: {str(i): text for i, text in sample.prompts.by_segment.items()} for sample in swapped}
    prompts = out / DRAWN / SWAPPED_PROMPTS
    write_whole(json.dumps(told, indent=1, ensure_ascii=False) + "\n", prompts)
    with say.part("Measuring, by a small segmenter of the real pictures") as update:
        tables = {
            name: measured(
                out / DRAWN / name, data, out / "eval" / name, seed=SEED, prompts=drawn_with, progress=update
            )
            for name, drawn_with in (("mamoe", None), ("swapped", prompts), ("base", None))
        }
    maps, colours = [sample.panoptic for sample in tests], [colours_of(sample) for sample in tests]
    captions = [sample.prompts.global_prompt for sample in tests]
    return side_by_side(
        tables,
        instances=instances_that_count(maps, colours),
        chance=1 / len(COLOUR_WORDS),
        caption_chance=caption_chance(maps, colours, captions, COLOUR_WORDS),
    )


def colours_of(sample: Sample) -> dict[int, str]:
    """The colour word of every instance prompt that names one."""
    return named_colours(sample.prompts.by_segment, COLOUR_WORDS)


def gallery(
    tests: Sequence[Sample], swapped: Sequence[Sample], pictures: Pictures, taxonomy: Taxonomy
) -> list[GalleryRow]:
    """A row per test layout, those with most instances large enough to be measured first."""
    rows = []
    for i, (sample, other) in enumerate(zip(tests, swapped, strict=True)):
        rows.append(
            GalleryRow(
                name=sample.key,
                prompt=sample.prompts.global_prompt,
                instances=instance_lines(sample, other),
                panoptic=colourize(sample.panoptic, taxonomy),
                real=sample.picture,
                base=pictures.base[i],
                mamoe=pictures.mamoe[i],
                swapped=pictures.swapped[i],
            )
        )
    return rows


def instance_lines(sample: Sample, swapped: Sample) -> tuple[InstanceLine, ...]:
    """What was asked for in each instance, largest first; tiny ones are left out."""
    areas = np.bincount(sample.panoptic.segment_id.ravel())
    words, others = colours_of(sample), colours_of(swapped)
    shown = [segment for segment in sample.prompts.by_segment if areas[segment] >= 64]
    return tuple(
        InstanceLine(
            prompt=sample.prompts.by_segment[segment],
            swapped_prompt=swapped.prompts.by_segment[segment],
            colour=COLOURS.get(words.get(segment, "")),
            swapped_colour=COLOURS.get(others.get(segment, "")),
        )
        for segment in sorted(shown, key=lambda segment: -areas[segment])
    )


def losses_of(run: Path) -> tuple[Series, ...]:
    """The curves of metrics.csv."""
    rows = read_rows(run / "metrics.csv")
    names = {"train/loss": "training loss", "val/loss": "validation loss"}
    return tuple(
        Series(name=title, points=tuple((int(row["step"]), float(row[key])) for row in rows if row.get(key)))
        for key, title in names.items()
    )


def commands_after(out: Path, run: Path) -> tuple[Command, ...]:
    """How to go on."""
    latest, data, maps, drawn, pictures = (
        shlex.quote(str(out / path))
        for path in ("runs/demo/latest", "data", "data/panoptic/test", f"{DRAWN}/mamoe", "pictures")
    )
    return (
        Command(
            what="More pictures of this run",
            line=f"mamoe sample {latest} --panoptic {maps} --out {pictures}",
        ),
        Command(what="These scores, and others, of a folder of pictures", line=f"mamoe evaluate {drawn} --data {data}"),
        Command(
            what="Your own photographs, in the official format of Cityscapes, CamVid or COCO",
            line="mamoe prepare cityscapes /path/to/cityscapes data/mine",
        ),
        Command(what="Look for mistakes in a data set", line="mamoe check data/mine"),
        Command(what="Fine-tune Stable Diffusion 2.1 on it", line="mamoe train experiment=mamoe data.root=data/mine"),
    )


def facts(started: float, trained: float, steps: int, batch_size: int, drawing: Drawing) -> tuple[tuple[str, str], ...]:
    """The small print of the page."""
    now = time.perf_counter()
    return (
        ("Machine", f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}, torch {torch.__version__}"),
        (
            "Training",
            f"{steps} steps of {batch_size} pictures of 128x256, {trained - started:.0f} s with drawing the data",
        ),
        (
            "Pictures and scores",
            f"{now - trained:.0f} s, {drawing.steps} denoising steps, guidance {drawing.guidance_scale:g}",
        ),
        ("Peak memory", f"{peak_mib(CPU) / 2**10:.1f} GiB"),
    )
