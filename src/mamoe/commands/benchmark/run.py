"""A benchmark from the command line to its report. Every cell runs in a process of its own.

The flow:  Configuration. Cells. Data. Run. Report.
"""

from __future__ import annotations

import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mamoe.commands.benchmark.cell import training_overrides
from mamoe.commands.benchmark.plan import Cell, View, cells, steps_of_images, steps_of_time
from mamoe.commands.benchmark.report import MARKDOWN, About, write_report
from mamoe.commands.benchmark.results import LOG, Outcome, Stopped, read_error, read_result, run_cells
from mamoe.config.benchmark import Benchmark, parted, replaced
from mamoe.config.compose import compose
from mamoe.config.schema import checked
from mamoe.config.train import validated
from mamoe.console import note
from mamoe.errors import ConfigError, DatasetError
from mamoe.evaluation.protocol import library_versions
from mamoe.evaluation.run import check_scores
from mamoe.machine.pool import usable_cores
from mamoe.storage.lock import held

ROOT = "benchmark"
_INTERRUPTED = (130, 75)  # Ctrl-C, told to stop
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A checked benchmark."""

    config: Benchmark
    plain: Mapping[str, Any]  # as composed
    common: tuple[str, ...]  # overrides of every cell
    cells: tuple[Cell, ...]
    command: str

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def scoring(self) -> dict[str, Any]:
        """How cells are drawn and scored, for their records."""
        return {
            "pictures": self.config.pictures.model_dump(),
            "scores": self.config.scores.model_dump(),
            "keep_weights": self.config.keep_weights,
        }


def run_benchmark(overrides: Sequence[str], config_dirs: Sequence[Path], *, dry_run: bool, say: Say) -> int:
    """Run what is not there yet of a benchmark and write its report.

    Returns:
        0: all cells have results; 1: some failed; 75 or 130: stopped, to be gone on with.

    Raises:
        MamoeError: what the user can mend; nothing was run.
    """
    plan = planned(overrides, config_dirs)
    if dry_run:
        for line in listed(plan):
            say(line)
        return 0
    plan.out.mkdir(parents=True, exist_ok=True)
    with held(plan.out):
        return _run(plan, config_dirs, say)


def _run(plan: Plan, config_dirs: Sequence[Path], say: Say) -> int:
    _draw_scenes(plan, say)
    began, stopped = time.perf_counter(), 0

    def start(cell: Cell, folder: Path) -> None:
        run_process(folder, config_dirs)

    outcomes: list[Outcome] = []
    try:
        outcomes = run_cells(plan.cells, plan.out, scoring=plan.scoring, start=start, say=say)
        if plan.config.budget.wall_clock:
            outcomes += _equal_time(plan, outcomes, start, say)
    except Stopped as stop:
        stopped = stop.code
        outcomes = outcomes or _as_found(plan)
    page = write_report(outcomes, _about(plan, outcomes, time.perf_counter() - began), plan.out)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    say(f"{len(outcomes)} cells, {len(failed)} failed. Open {page}; to paste: {plan.out / MARKDOWN}")
    return stopped or int(bool(failed))


def planned(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Plan:
    """The cells of a benchmark, every one's configuration checked.

    Raises:
        ConfigError: the benchmark's configuration or that of cells does not fit; all cells' problems in one message.
    """
    mine, theirs = parted(overrides)
    plain = compose(mine, config_dirs, root=ROOT)
    plain.pop("hydra", None)
    config = checked(Benchmark, plain)
    check_scores(config.scores.names)
    common = tuple(replaced(config.settings, theirs))
    methods = {name: config.method_settings[name] for name in config.chosen}
    steps, problems, said = {}, [], list[str]()
    for place, of_data in config.datasets.items():
        for method, of_method in methods.items():
            try:
                cell = training_overrides([*common, *of_data, *of_method], Path(config.out), 1)
                training = validated(compose(cell, config_dirs, say=said.append))
            except (ConfigError, DatasetError) as error:
                problems.append(f"  {method} on {place}: {' '.join(str(error).split())}")
                continue
            accumulated = training.trainer.accumulate_grad_batches
            steps[place, method] = steps_of_images(config.budget.images, training.data.batch_size, accumulated)
    for text in dict.fromkeys(said):
        note(text)
    if problems:
        raise ConfigError("Cells of the benchmark cannot be run:\n" + "\n".join(problems))
    grid = cells(methods, config.datasets, config.seeds, common=common, steps=steps)
    command = shlex.join(["mamoe", "benchmark", *overrides])
    return Plan(config=config, plain=plain, common=common, cells=grid, command=command)


def listed(plan: Plan) -> list[str]:
    """The cells and what distinguishes them, for people."""
    lines = [f"{cell.key}: {cell.steps} steps; {' '.join(cell.overrides[len(plan.common) :])}" for cell in plan.cells]
    second = "; then again with equal wall-clock" if plan.config.budget.wall_clock else ""
    return [
        f"{len(plan.cells)} cells in {plan.out}, {plan.config.budget.images} pictures each{second}",
        f"every cell: {' '.join(plan.common) or 'the defaults'}",
        *lines,
    ]


def run_process(folder: Path, config_dirs: Sequence[Path] = ()) -> None:
    """Run the cell in ``folder`` in a process of its own; what it says goes to log.txt.

    Raises:
        Stopped: it was interrupted, and so are we; Ctrl-C and SIGTERM are left to it, so that it can save its state.
        RuntimeError: it failed; with the reason it gave.
    """
    words = [sys.executable, "-m", "mamoe.cli", "benchmark-cell", str(folder)]
    words += [word for config_dir in config_dirs for word in ("--config-dir", str(config_dir))]
    with (folder / LOG).open("a", encoding="utf-8") as log:
        said = log.tell()
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        told = []

        def pass_on(number: int, _frame: object) -> None:
            told.append(number)
            process.terminate()

        before = signal.signal(signal.SIGTERM, pass_on)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()
            code = _INTERRUPTED[0]
        finally:
            signal.signal(signal.SIGTERM, before)
    if told and code not in _INTERRUPTED:  # it was not training, and died of the signal or got done before it came
        code = _INTERRUPTED[1]
    if code in _INTERRUPTED:
        raise Stopped(code)
    if code:
        with (folder / LOG).open(encoding="utf-8", errors="replace") as log:
            log.seek(said)
            raise RuntimeError(reason(code, log.read()))


def reason(code: int, said: str) -> str:
    """Why a process ended with ``code``: its error message, or what is known about the code.

    Args:
        code: exit code; negative: the signal that killed it.
        said: what it wrote.
    """
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", often for want of memory" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{hint}"
    lines = [line for line in said.splitlines() if line.strip()]
    start = next((i for i in reversed(range(len(lines))) if lines[i].startswith("Error: ")), None)
    if start is not None:
        return "\n".join(lines[start:]).removeprefix("Error: ")
    return f"{lines[-1] if lines else 'it said nothing'} (exit code {code})"


def _equal_time(
    plan: Plan, outcomes: Sequence[Outcome], start: Callable[[Cell, Path], None], say: Say
) -> list[Outcome]:
    """The second grid; its lengths come from the first one, so that one must be whole."""
    if any(outcome.result is None for outcome in outcomes):
        say("The cells of equal wall-clock wait until all others have a result.")
        return []
    again: list[Cell] = []
    known: dict[str, Outcome] = {}
    for place in plan.config.datasets:
        here = [outcome for outcome in outcomes if outcome.cell.data == place]
        steps = {outcome.cell.method: outcome.cell.steps for outcome in here}
        pace = {
            method: statistics.median(found)
            for method in steps
            if (found := [seconds for o in here if o.cell.method == method and (seconds := _pace(o)) is not None])
        }
        for outcome in here:
            if outcome.cell.method not in pace:
                continue
            cell = replace(outcome.cell, view=View.TIME, steps=steps_of_time(steps, pace)[outcome.cell.method])
            if cell.steps == outcome.cell.steps:  # the fastest: trained already
                known[cell.key] = replace(outcome, cell=cell)
            else:
                again.append(cell)
    ran = run_cells(again, plan.out, scoring=plan.scoring, start=start, say=say) if again else []
    return [*known.values(), *ran]


def _pace(outcome: Outcome) -> float | None:
    return None if outcome.result is None else outcome.result.cost.seconds_per_step


def _as_found(plan: Plan) -> list[Outcome]:
    """The cells as they lie on disk."""
    folders = [plan.out / "cells" / cell.key for cell in plan.cells]
    return [
        Outcome(cell=cell, folder=folder, result=read_result(folder), error=read_error(folder))
        for cell, folder in zip(plan.cells, folders, strict=True)
    ]


def _draw_scenes(plan: Plan, say: Say) -> None:
    """The drawn scenes of the configuration, where they are not there yet.

    Raises:
        ConfigError: others are there.
    """
    scenes = plan.config.scenes
    if scenes is None:
        return
    from mamoe.scenes import Domain, scenes_problems, write_scenes

    root, domain = Path(scenes.root), Domain(scenes.domain)
    counts = {"train": scenes.train, "val": scenes.val, "test": scenes.test}
    if not (root / "instance_prompts_test.json").exists():
        say(f"Drawing {sum(counts.values())} scenes in {root}")
        write_scenes(root, domain=domain, counts=counts, workers=usable_cores())
    elif problems := scenes_problems(root, domain=domain, counts=counts):
        raise ConfigError(
            f"{root} holds other scenes than scenes={{…}} asks for: {'; '.join(problems)}. Choose another scenes.root "
            "or out, or delete that folder."
        )


def _about(plan: Plan, outcomes: Sequence[Outcome], seconds: float) -> About:
    config = plan.config
    finished = sum(outcome.result is not None for outcome in outcomes)
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    pictures = config.pictures
    facts = (
        ("Cells", f"{finished} of {len(outcomes)} finished; seeds {', '.join(map(str, config.seeds))}"),
        ("Budget", f"{config.budget.images} pictures seen by every method"),
        (
            "Pictures scored",
            f"{pictures.split} split, {pictures.mode}, {pictures.steps} steps, guidance {pictures.guidance_scale:g}",
        ),
        (
            "Machine",
            f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}, Python {sys.version.split()[0]}",
        ),
        ("Libraries", versions),
        ("This call", f"{seconds:.0f} s"),
    )
    return About(
        name=config.name,
        command=plan.command,
        config=dict(plan.plain),
        facts=facts,
        scores=config.report.scores,
        sheet=config.report.sheet,
    )
