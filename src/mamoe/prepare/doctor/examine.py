"""The whole examination of a data set: what a training is checked for, and what only a closer look finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mamoe.console import visible
from mamoe.data.folder.description import DataFolder, data_folder
from mamoe.data.folder.listing import some
from mamoe.data.folder.split import SampleFiles, SplitFiles, for_split
from mamoe.data.geometry.sizes import MULTIPLE, covering, in_cells
from mamoe.prepare.check import DatasetReport, Progress, check_folder
from mamoe.prepare.doctor.cells import LEVELS, CellCounter, CellCounts, GroupingLoad
from mamoe.prepare.doctor.closer import CloserLook, Gathered, located_colours
from mamoe.prepare.doctor.findings import Finding, Severity, located
from mamoe.prepare.doctor.names import name_clashes
from mamoe.prepare.doctor.needs import Need, Weights, cache_needs, checkpoint_needs, machine_notes
from mamoe.prepare.doctor.pixels import Trained
from mamoe.prepare.doctor.texts import TokenCounter, text_findings, things_without_prompt
from mamoe.prepare.doctor.twins import Twins, find_twins
from mamoe.vocabulary.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What is known of the base model that is going to be trained."""

    counter: TokenCounter
    weights: Callable[[int], Weights] | None  # of the method chosen, by the number of experts; None: not known


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Diagnosis:
    """Everything that was found."""

    folder: Path
    report: DatasetReport
    findings: tuple[Finding, ...]  # problems first, then warnings, then notes
    twins: tuple[Twins, ...]
    samples: Mapping[str, tuple[SampleFiles, ...]]  # of every split
    cells: CellCounts
    loads: tuple[GroupingLoad, ...]  # the most balanced first
    needs: tuple[Need, ...]
    instances: int  # segments of things
    vanishing: int  # of these, smaller than half a latent cell

    def text(self) -> str:
        """Counts, cells, experts, needs, then everything that is odd or wrong, as plain lines."""
        return "\n".join([*self.report.counts(), *self._cell_lines(), *self.report.said()])

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        names = {row.id: row.name for row in self.report.taxonomy.classes} | {self.report.taxonomy.void_id: "void"}
        shares = self.cells.shares()
        return {
            "version": 1,
            "folder": str(self.folder),
            "taxonomy": self.report.taxonomy.name,
            "trainable": not self.report.problems,
            "findings": [finding.plain() for finding in self.findings],
            "splits": {
                split: {
                    "pictures": c.images,
                    "with_prompt": c.with_prompt,
                    "instance_prompts": c.instance_prompts,
                    "class_pixels": {names.get(i, str(i)): int(c.pixels[i]) for i in np.flatnonzero(c.pixels).tolist()},
                    "class_segments": {
                        names.get(i, str(i)): int(c.instances[i]) for i in np.flatnonzero(c.instances).tolist()
                    },
                }
                for split, c in self.report.splits.items()
            },
            "cells": {
                str(8 << level): {
                    names.get(i, str(i)): float(shares[level, i]) for i in np.flatnonzero(shares[level]).tolist()
                }
                for level in range(LEVELS)
            },
            "vanishing_instances": {
                str(8 << level): {
                    names.get(i, str(i)): int(self.cells.vanishing[level, i])
                    for i in np.flatnonzero(self.cells.vanishing[level]).tolist()
                }
                for level in range(LEVELS)
            },
            "groupings": [
                {
                    "name": load.name,
                    "balance": load.balance,
                    "experts": dict(zip(load.experts, load.share, strict=True)),
                }
                for load in self.loads
            ],
            "disk": [{"what": need.what, "bytes": need.bytes, "how": need.how} for need in self.needs],
        }

    def _cell_lines(self) -> list[str]:
        if not self.cells.of_class.any():
            return []
        shares, lost = self.cells.shares(), self.cells.vanishing
        lines = ["", f"{'share of latent cells':<24}" + "".join(f"{f'{8 << i} px':>12}" for i in range(LEVELS))]
        for row in self.report.taxonomy.classes:
            if shares[:, row.id].any():
                lines.append(f"{row.name:<24}" + "".join(f"{share:>12.2%}" for share in shares[:, row.id]))
        if self.instances:
            parts = "".join(f"{count / self.instances:>12.2%}" for count in lost.sum(axis=1))
            lines.append(f"{'instances below 1/2 cell':<24}{parts}")
        lines += ["", f"{'grouping':<18}{'balance':>8}  busiest experts (share of the cells of 8 px)"]
        for load in self.loads:
            ranked = sorted(zip(load.share, load.experts, strict=True), reverse=True)
            busy = ", ".join(f"{name} {share:.0%}" for share, name in ranked[:4])
            idle = f"; never used: {some(load.idle, 4)}" if load.idle else ""
            lines.append(f"{load.name:<18}{load.balance:>8.2f}  {busy}{idle}")
        return [*lines, "", "disk for " + "\ndisk for ".join(map(str, self.needs))]


def examine(
    folder: Path,
    taxonomy: Taxonomy | None = None,
    model: Model | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Look through a folder in the package's own layout.

    Args:
        folder: of the data set; nothing is written into it.
        taxonomy: where ``data.yaml`` does not say it.
        model: the base model; None: prompts are measured in words, and checkpoints are not reckoned.
        progress: called with (files read, files of the split, split).

    Raises:
        DatasetError, ConfigError: what the folder says about itself is wrong, or is not what ``taxonomy`` says.
    """
    found = data_folder(folder, taxonomy)
    gathered, counter = Gathered(), CellCounter(found.taxonomy)
    looks: dict[str, tuple[SplitFiles, CloserLook]] = {}

    def closer(split: str, files: SplitFiles) -> CloserLook:
        look = CloserLook(split, files, found.taxonomy, counter, _trained(found), gathered)
        looks[split] = files, look
        return look

    report = check_folder(folder, taxonomy, progress, closer)
    texts = [
        finding
        for split, (files, look) in looks.items()
        for finding in (
            *text_findings(
                files,
                None if found.prompts is None else for_split(found.prompts, split),
                None if model is None else model.counter,
            ),
            *name_clashes(files),
            *([] if files.instance_prompts is None else things_without_prompt(files.instance_prompts, look.lacking)),
        )
    ]
    twins = find_twins(gathered.prints)
    prompts = {text for files, _ in looks.values() for text in _all_prompts(files)}
    needs = cache_needs(len(gathered.prints), gathered.latent_cells, len(prompts) + len(found.taxonomy.classes))
    if model is not None and model.weights is not None:
        needs.append(checkpoint_needs(model.weights(next(iter(counter.groupings.values())).num_experts)))
    machine = [Finding(severity=Severity.NOTE, kind="machine", text=text) for text in machine_notes(needs, folder)]
    closely = [*gathered.findings, *map(_of_twins, twins), *texts, *machine]
    named = {
        split: {visible(one.image.name): one.image for one in files.samples} for split, (files, _) in looks.items()
    }
    findings = [
        *located_colours(located(Severity.PROBLEM, report.problems, folder), gathered.wrong_colour),
        *located(Severity.WARNING, report.warnings, folder),
        *(one for one in closely if one.severity is Severity.WARNING),
        *located(Severity.NOTE, report.notes, folder),
        *(one for split, c in report.splits.items() for one in located(Severity.NOTE, c.notes, folder, named[split])),
        *(one for one in closely if one.severity is Severity.NOTE),
    ]
    more = {severity: tuple(one.text for one in closely if one.severity is severity) for severity in Severity}
    return Diagnosis(
        folder=folder,
        report=replace(report, across=more[Severity.WARNING], notes=(*report.notes, *more[Severity.NOTE])),
        findings=tuple(replace(one, text=visible(one.text)) for one in findings),
        twins=tuple(twins),
        samples={split: files.samples for split, (files, _) in looks.items()},
        cells=gathered.cells,
        loads=tuple(gathered.cells.loads(counter.groupings)),
        needs=tuple(needs),
        instances=gathered.instances,
        vanishing=gathered.vanishing,
    )


def _trained(found: DataFolder) -> Trained:
    return partial(_size_trained, size=found.size)


def _size_trained(height: int, width: int, size: int | tuple[int, int] | None) -> tuple[int, int]:
    if size is None:
        return in_cells((max(MULTIPLE, height), max(MULTIPLE, width)))
    return in_cells(covering((height, width), (size, size))) if isinstance(size, int) else size


def _all_prompts(files: SplitFiles) -> Iterable[str]:
    for sample in files.samples:
        yield sample.prompts.global_prompt
        yield from sample.prompts.by_segment.values()


def _of_twins(twins: Twins) -> Finding:
    same = "the same file" if twins.same_bytes else "the same picture"
    if twins.split != twins.other_split:
        text = (
            f"{twins.other} is {same} as {twins.image}, in the splits {twins.other_split!r} and {twins.split!r}: "
            "scores on what was trained on say nothing"
        )
        return Finding(severity=Severity.WARNING, kind="picture in two splits", text=text, file=twins.other)
    text = f"{twins.other} is {same} as {twins.image}: it is trained on twice as often"
    return Finding(severity=Severity.WARNING, kind="picture twice", text=text, file=twins.other)
