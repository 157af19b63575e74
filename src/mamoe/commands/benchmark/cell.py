"""One cell of a benchmark: train, draw the test layouts, score them, leave the result."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mamoe.assemble.checking import check_data
from mamoe.assemble.data import dataset, layout_settings
from mamoe.assemble.device import device_of
from mamoe.assemble.training import train
from mamoe.commands.benchmark.results import Cost, Curve, Result, read_cell, relative, write_result
from mamoe.commands.evaluate import evaluate_run
from mamoe.config.compose import compose, setting
from mamoe.config.train import Train, validated
from mamoe.console import progress
from mamoe.data.folder.listing import bare_name, listed
from mamoe.evaluation.request import Asked
from mamoe.training.loop.metrics import read_rows
from mamoe.training.watch.cost import COST_FILE
from mamoe.vocabulary.drawing import Drawing, Mode

NAME = "cell"  # of the training


def training_overrides(overrides: Sequence[str], folder: Path, steps: int) -> list[str]:
    """A cell's overrides with what the grid sets: where it runs, how long, where all cells keep encoded pictures."""
    return [
        setting("cache.folder", folder.parent.parent / "cache"),
        *overrides,
        f"name={NAME}",
        setting("runs", folder / "run"),
        f"trainer.max_steps={steps}",
        "trainer.max_epochs=null",
    ]


def run_cell(folder: Path, config_dirs: Sequence[Path] = ()) -> int:
    """Run the cell whose cell.json is in ``folder``; returns the exit code of its training, 0 with a result.

    Raises:
        MamoeError: what the user can mend.
    """
    cell, scoring = read_cell(folder)
    overrides = training_overrides(cell.overrides, folder, cell.steps)
    latest = folder / "run" / NAME / "latest"
    resume = [setting("resume", latest)] if (latest / "checkpoints" / "latest").exists() else []
    plain = compose([*overrides, *resume], config_dirs)
    config = validated(plain)
    tests = dataset(config, scoring["pictures"]["split"], layout_settings(config).taxonomy)
    check_data(config, [tests], progress)  # said before the training, not behind it
    ended, run = train(config, plain=plain, overrides=overrides)
    if ended.exit_code:
        return ended.exit_code
    write_result(_scored(config, run, folder, scoring), folder)
    if not scoring["keep_weights"]:
        shutil.rmtree(run / "checkpoints")
    return 0


def _scored(config: Train, run: Path, folder: Path, scoring: dict[str, Any]) -> Result:
    pictures, scores = scoring["pictures"], scoring["scores"]
    mode, drawn = Mode(pictures["mode"]), []
    drawing = Drawing(mode=mode, **{key: pictures[key] for key in ("steps", "guidance_scale", "batch_size", "seed")})
    asked = Asked(
        split=pictures["split"],
        modes=(mode,),
        scores=tuple(scores["names"]),
        segmenters=tuple(scores["segmenters"]),
        clip=scores["clip"],
        extractors=tuple(scores["extractors"]),
        out=folder / "eval",
        cache=folder.parent.parent / "features",
        images=pictures["images"],
        seed=drawing.seed,
        device=str(device_of(config)),
    )
    table, out = evaluate_run(run, asked, drawing, clock=lambda count, seconds: drawn.append(seconds / count))
    assert table is not None, "a cell is one process"
    rows = {row.label: row for row in table.rows}
    files = dataset(config, pictures["split"], layout_settings(config).taxonomy).files.samples
    stems = {bare_name(name): out / mode / name for name in listed(out / mode, (".png",), recursive=True).names}
    copies = sorted(out.glob(f"copies-{mode}-*.png"))
    return Result(
        drawn=rows[mode],
        floors=tuple(row for label, row in rows.items() if label != mode),
        cost=_cost(run, statistics.median(drawn) if drawn else None),
        curves=curves_of(run),
        pictures={stem: relative(path, folder) for stem, path in stems.items()},
        real={name: relative(file.image, folder) for file in files if (name := bare_name(file.key)) in stems},
        copies=relative(copies[0], folder) if copies else None,
    )


def curves_of(run: Path) -> dict[str, Curve]:
    """The metrics of a training by step, as metrics.csv has them."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in read_rows(run / "metrics.csv"):
        for name, text in row.items():
            if name != "step" and text and math.isfinite(float(text)):
                points.setdefault(name, []).append((float(row["step"]), float(text)))
    return {name: tuple(found) for name, found in points.items()}


def _cost(run: Path, seconds_per_picture: float | None) -> Cost:
    path = run / COST_FILE
    measured = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    names = ("parameters", "trained_parameters", "seconds_per_step", "peak_mib")
    return Cost(**{name: measured.get(name) for name in names}, seconds_per_picture=seconds_per_picture)
