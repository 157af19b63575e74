"""From a model and the maps of a data set to a training set for perception, stage by stage.

    <work>/plan.json     losses of classes, rare classes, how many pictures     survey.py, plan.py
    <work>/layouts/      the layouts that are drawn                             layouts.py, mixing.py
    <work>/drawn/        their pictures and records                             mamoe.sampling.folders
    <work>/readings/     what the segmenter sees in them                        reading.py
    <out>/               the set                                                written.py

Each stage can be stopped at any moment and goes on where it was. Drawing is shared by all processes, the rest, which
costs little beside it, is the work of the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mamoe.console import Bar, silent
from mamoe.data.dataset import LayoutDataset
from mamoe.errors import ConfigError, DatasetError
from mamoe.evaluation.layout.asked import Classes
from mamoe.evaluation.layout.domain import MOST_PICTURES, Domain, data_hash
from mamoe.evaluation.layout.rare import rare_classes
from mamoe.machine.processes import Processes
from mamoe.prepare.writer import ImportSummary
from mamoe.sampling.filling import claim
from mamoe.sampling.folders import sample_folder
from mamoe.sampling.jobs import LayoutFolder
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.sampling.records import model_hash
from mamoe.storage.staging import require_free, write_whole
from mamoe.synthesis.layouts import INSTANCE_PROMPTS, MAPS, PROMPTS, Maps, donors_of, read_layouts, write_layouts
from mamoe.synthesis.plan import Aims, plan
from mamoe.synthesis.reading import Cleaning, Rules, class_means, read_back
from mamoe.synthesis.survey import class_losses, hardness, mean_losses, survey
from mamoe.synthesis.written import SYNTHESIS, Made, write_set
from mamoe.vocabulary.drawing import Drawing
from mamoe.vocabulary.selection import spread

PLAN, LAYOUTS, DRAWN, READINGS = "plan.json", "layouts", "drawn", "readings"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Material:
    """What a set is made of."""

    real: LayoutDataset  # pictures and maps the segmenter learns from, not augmented
    layouts: LayoutDataset  # maps to draw, at the size they are drawn at; may be those of ``real``
    groups: Mapping[str, frozenset[int]]  # of ``layouts``: segments that hold several things, by ``SPLIT/NAME``
    learn: Callable[[], Domain]  # the segmenter of ``real``; called by the first process alone


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is wanted of a set, and where."""

    out: Path
    work: Path  # what is made on the way; other rules need no new pictures
    aims: Aims
    rules: Rules = field(default_factory=Rules)
    rare: tuple[str, ...] | None = None  # names of classes; None: those with less than 1 % of the real pixels


def synthesize(
    pipe: LayoutPipeline,
    material: Material,
    wanted: Wanted,
    drawing: Drawing,
    *,
    processes: Processes | None = None,
    bar: Bar = silent,
    warn: Callable[[str], None] | None = None,
) -> ImportSummary | None:
    """Make the set; None where there is nothing to tell: it is there already, or another process writes it.

    Args:
        pipe: what draws.
        material: of what.
        wanted: what, and where.
        drawing: how pictures are drawn; its seed is that of the plan.
        processes: those that share the drawing; None: this one alone.
        bar: shows how far each stage has got.
        warn: told of what has no effect.

    Raises:
        ConfigError: an unknown class is called rare, or the work folder is of another set.
        DatasetError: files cannot be read, ``out`` is in use, or no picture is left.
    """
    processes = processes or Processes()
    classes = Classes.of(material.layouts.taxonomy)
    rare = None if wanted.rare is None else _numbers(wanted.rare, classes)
    about = {"maps": _hash_of(material.layouts), **asdict(wanted.aims), "rare": wanted.rare}
    made_by = {**about, **asdict(wanted.rules), **asdict(drawing), "model": model_hash(pipe)}
    if _is_there(wanted.out, made_by):
        return None
    require_free(wanted.out, DatasetError)
    processes.wait()  # all have looked before anybody writes
    layouts, domain = wanted.work / LAYOUTS, None
    if processes.first:
        domain = material.learn()
        claim(wanted.work, {**about, "segmenter": domain.learned_from})
        if not (layouts.is_dir() and (wanted.work / PLAN).is_file()):
            _lay_out(layouts, material, domain, wanted, rare, bar)
    processes.wait()
    folder = LayoutFolder(
        panoptic=layouts / MAPS, prompts=layouts / PROMPTS, instance_prompts=layouts / INSTANCE_PROMPTS
    )
    with bar("Drawing") as update:
        sample_folder(pipe, folder, wanted.work / DRAWN, drawing, processes=processes, progress=update, warn=warn)
    if domain is None:
        return None
    return _finished(wanted, material, domain, made_by, bar)


def _lay_out(
    folder: Path, material: Material, domain: Domain, wanted: Wanted, rare: Sequence[int] | None, bar: Bar
) -> None:
    """Plan the pictures, and write their layouts."""
    classes, source = domain.classes, material.layouts
    with bar("Reading real pictures") as update:
        places = spread(range(len(material.real)), MOST_PICTURES)
        sums = class_losses(material.real, places, domain.segmenter, classes, update)
    with bar("Reading maps") as update:
        facts = survey(source, material.groups, classes, update)
    losses = mean_losses(sums)
    rare = rare_classes(sums[1]) if rare is None else rare
    planned = plan(facts, hardness(facts, losses), rare, wanted.aims)
    held = np.array([one.pixels > 0 for one in facts])
    plain = {
        "rare": [classes.names[i] for i in rare],
        "losses": {name: float(losses[i]) for i, name in enumerate(classes.names) if sums[1, i]},
        "maps with": {name: int(held[:, i].sum()) for i, name in enumerate(classes.names) if held[:, i].any()},
        "maps": len(facts),
        "pictures": len(planned),
    }
    write_whole(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", folder.parent / PLAN)
    donors = donors_of(facts, rare)
    maps = Maps(source=source, groups=material.groups, donors=donors, seed=wanted.aims.seed)
    identity = [repr(wanted.aims), repr(planned), repr(donors), _hash_of(source)]
    if not folder.is_dir():
        with bar("Writing layouts") as update:
            write_layouts(folder, planned, maps, identity, update)


def _finished(
    wanted: Wanted, material: Material, domain: Domain, made_by: Mapping[str, Any], bar: Bar
) -> ImportSummary:
    """Read the pictures back, and write those that are kept."""
    layouts, drawn = wanted.work / LAYOUTS, wanted.work / DRAWN
    rows = read_layouts(layouts)
    reader = domain.segmenter, domain.classes, domain.learned_from
    with bar("Reading back") as update:
        verdicts = read_back(wanted.work / READINGS, list(rows), drawn, layouts / MAPS, reader, update)
    cleaning = Cleaning(
        segmenter=domain.segmenter,
        learned_from=domain.learned_from,
        classes=domain.classes,
        void_id=material.layouts.taxonomy.void_id,
        means=class_means(verdicts).tolist(),
        tolerance=wanted.rules.tolerance,
    )
    made = Made(
        rows=rows,
        verdicts=verdicts,
        drawn=drawn,
        maps=layouts / MAPS,
        cleaning=cleaning,
        floor=wanted.rules.floor,
        plan=json.loads((wanted.work / PLAN).read_text(encoding="utf-8")),
        made_by=made_by,
    )
    given = material.layouts.geometry.size
    size = given if isinstance(given, int) else (given[0], given[1])
    with bar("Writing the set") as update:
        return write_set(wanted.out, made, material.layouts.taxonomy, size, update)


def _is_there(out: Path, made_by: Mapping[str, Any]) -> bool:
    try:
        found = json.loads((out / SYNTHESIS).read_text(encoding="utf-8"))
        return found["made by"] == json.loads(json.dumps(made_by))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _hash_of(source: LayoutDataset) -> str:
    """Sixteen hex digits for maps and prompts, and the size they are brought to."""
    files = [sample.panoptic for sample in source.files.samples if sample.panoptic is not None]
    said = repr([(sample.key, sample.prompts) for sample in source.files.samples])
    return data_hash(files, str(source.geometry), said)


def _numbers(names: Sequence[str], classes: Classes) -> tuple[int, ...]:
    unknown = [name for name in names if name not in classes.names]
    if unknown:
        raise ConfigError(f"There is no class {', '.join(unknown)} to call rare; there are {', '.join(classes.names)}.")
    return tuple(classes.names.index(name) for name in names)
