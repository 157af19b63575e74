"""Results of cells that nobody trained."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from mamoe.commands.benchmark.plan import Cell, View
from mamoe.commands.benchmark.results import Cost, Outcome, Result
from mamoe.evaluation.protocol import Better, Generation, Protocol, Score
from mamoe.evaluation.table import Row

DRAWN = Generation(mode="cfg", sampler="DDIM", steps=12, guidance=3.0)


def score(name: str, value: float | None, *, reference: str = "r", drawn: bool = True, n: int = 32) -> Score:
    protocol = Protocol(
        name=f"how {name} is made",
        extractor=None,
        preprocessing=None,
        reference=reference,
        images="i",
        generation=DRAWN if drawn else None,
        versions={},
    )
    better = Better.LOWER if name.startswith("FD") else Better.HIGHER
    missing = None if value is not None else "no such class"
    return Score(name=name, value=value, missing=missing, n=n, better=better, protocol=protocol)


def a_cell(method: str, seed: int = 0, *, view: View = View.IMAGES, data: str = "town", steps: int = 100) -> Cell:
    return Cell(view=view, data=data, method=method, seed=seed, steps=steps, overrides=(f"method={method}",))


def result(values: Mapping[str, float | None], *, pace: float = 0.5, pictures: Path | None = None) -> Result:
    files = {}
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        for i in range(3):
            Image.fromarray(np.full((16, 32, 3), 60 * i, dtype=np.uint8)).save(pictures / f"{i}.png")
            files[str(i)] = f"{i}.png"
    floor = tuple(score(name, 1.0, drawn=False) for name in values)
    return Result(
        drawn=Row(label="cfg", scores=tuple(score(name, value) for name, value in values.items())),
        floors=(Row(label="real", scores=floor),),
        cost=Cost(
            parameters=1000, trained_parameters=10, seconds_per_step=pace, peak_mib=100.0, seconds_per_picture=2.0
        ),
        curves={"val/loss": ((0.0, 1.0), (50.0, 0.5), (100.0, 0.2)), "train/lr": ((0.0, 1.0), (100.0, 0.0))},
        pictures=files,
        real=files,
        copies="0.png" if files else None,
    )


def outcome(method: str, seed: int, values: Mapping[str, float | None], folder: Path, **options) -> Outcome:
    place = folder / f"{method}-{seed}"
    pace = options.pop("pace", 0.5)
    found = result(values, pace=pace, pictures=place)
    return Outcome(cell=a_cell(method, seed, **options), folder=place, result=found, error=None)
