"""Where a training writes, and what it goes on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mamoe.assemble.callbacks import patience
from mamoe.assemble.record import newest_like
from mamoe.config.resuming import Change, OnResume, changed_on_resume
from mamoe.config.train import Train, comparable
from mamoe.errors import CheckpointError, ConfigError
from mamoe.runs.checkpoint import checkpoints_of, sound_checkpoint, step_of
from mamoe.runs.folder import new_run_dir, read_config, run_of
from mamoe.runs.recipe import RECIPE, Recipe, Terms, read_recipe
from mamoe.training.loop.continuing import refusal, terms_changes
from mamoe.training.loop.fit import FitResult
from mamoe.training.loop.metrics import METRICS
from mamoe.training.scale.cluster import Choice

AUTO = "auto"
REPLAY = ".json"  # a file of a step that was not finite


@dataclass(frozen=True, kw_only=True, slots=True)
class Going:
    """How a run that was named goes on."""

    run: Path
    done: FitResult | None  # it is where it was to get to: nothing is left to do


def going_on(config: Train, plain: Mapping[str, Any], terms: Terms, steps: int) -> Going | None:
    """What becomes of the run that ``resume`` names, before anything is loaded; None where it names none.

    Args:
        config: as it is now.
        plain: the same as it was composed.
        terms: what is known by now of what the run is held against.
        steps: optimizer steps in all.

    Raises:
        ConfigError: it is past its last step, or would be another training; all reasons in one message.
    """
    if config.resume is None or config.resume == AUTO:
        return None
    run, named = run_of(config.resume), Path(config.resume)
    replays = config.resume.endswith(REPLAY)
    at = named.resolve() if named.name in ("latest", "best") or named.name.startswith("step-") else run
    saved = [at] if at.parent.name == "checkpoints" else checkpoints_of(run)
    checkpoint = saved[-1] if saved else None
    _check(run, plain, terms, saved)
    if replays or checkpoint is None or not checkpoint.is_dir():
        return Going(run=run, done=None)
    reached = step_of(checkpoint)
    if reached > steps:
        earlier = [path.name for path in checkpoints_of(run) if step_of(path) < steps]
        raise ConfigError(
            f"{checkpoint} is already at step {reached} of {steps} ({_length(config, steps)}). To train on, give "
            f"trainer.max_steps=… above {reached}"
            + (f"; or resume={checkpoint.parent / earlier[-1]}, from before step {steps}." if earlier else ".")
        )
    if reached < steps or step_of(found := sound_checkpoint(named)) < steps:  # the newest may be damaged
        return Going(run=run, done=None)
    message = (
        f"{run} is done: step {steps} of {steps} ({_length(config, steps)}); nothing is changed. To train on, give "
        f"more steps: resume={run} trainer.max_steps=…"
    )
    return Going(run=run, done=FitResult(step=steps, checkpoint=found, stopped_by=None, message=message))


def told_anew(run: Path, plain: Mapping[str, Any]) -> list[Change]:
    """What a run's configuration is to change to; nothing where it has none, or begins."""
    before = read_config(run)
    if before is None:
        return []
    return changed_on_resume(*comparable(before, plain))


def notes_on(changes: list[Change], recipe: Recipe) -> list[str]:
    """A line on every change, for the log. ``recipe`` is that of the checkpoint to go on from."""
    word = {OnResume.EFFECT: "takes effect from here on", OnResume.NONE: "changes nothing that is learned"}
    lines = [f"{change}: {word[change.rule.kind]}" for change in changes if change.refusal is None]
    said = {"data": recipe.terms.data, "weights": recipe.weights}
    for part, (sections, what) in _COMPARED.items():
        keys = [change.key for change in changes if change.refusal is None and change.key.startswith(sections)]
        if keys and said[part] is None:
            lines.append(
                f"An earlier version wrote this checkpoint, which does not say {what}: whether they are the same is "
                f"not compared, it is for you to know ({', '.join(keys)})"
            )
    return lines


_COMPARED = {  # parts of a recipe that one of an earlier version lacks, and the keys whose meaning they hold
    "data": (
        ("data.root", "data.images", "data.panoptic_maps", "data.prompts", "data.instance_prompts"),
        "what its training pictures, maps and prompts were",
    ),
    "weights": (
        ("model.path", "model.init_from", "model.revision", "model.variant"),
        "what its base model's weights were",
    ),
}


def choose_run(config: Train, plain: Mapping[str, Any], steps: int) -> Choice:
    """The run folder ("run"), and the checkpoint to continue from ("from": a path, or None for a fresh start).

    ``resume=auto`` goes on with the newest run of the same configuration if that is not done (at its last step, or
    stopped because nothing became better), in the same folder even if it ended before its first checkpoint; otherwise
    it starts a new one.

    Raises:
        MamoeError: ``resume`` names no run, or one without a sound checkpoint.
    """
    if config.resume is None:
        return _fresh(new_run_dir(config.runs, config.name))
    if config.resume == AUTO:
        found = newest_like(config.runs, config.name, plain)
        saved = [] if found is None else checkpoints_of(found)
        if found is None or (saved and (step_of(saved[-1]) >= steps or _no_better(config, found, step_of(saved[-1])))):
            return _fresh(new_run_dir(config.runs, config.name))
        return {"run": str(found), "from": str(sound_checkpoint(found))} if saved else _fresh(found)
    folder = run_of(config.resume)
    if config.resume.endswith(REPLAY):
        return {"run": str(folder), "from": config.resume}
    return {"run": str(folder), "from": str(sound_checkpoint(Path(config.resume)))}


def _check(run: Path, plain: Mapping[str, Any], terms: Terms, saved: Sequence[Path]) -> None:
    problems = {c.key: f"{c} ({c.refusal})" for c in told_anew(run, plain) if c.refusal is not None}
    if (recipe := _newest_recipe(saved)) is not None:
        for key, line in terms_changes(recipe.terms, terms).refused:
            problems.setdefault(f"{key} {line}" if key in ("data", "taxonomy") else key, line)
    if problems:
        raise CheckpointError(refusal(run, list(problems.values())))


def _newest_recipe(saved: Sequence[Path]) -> Recipe | None:
    """That of the newest checkpoint whose recipe can be read: damaged ones are passed over, here as later."""
    written = [checkpoint for checkpoint in saved if (checkpoint / RECIPE).is_file()]
    for checkpoint in reversed(written):
        try:
            return read_recipe(checkpoint)
        except ConfigError:
            if checkpoint is written[0]:
                raise
    return None


def _length(config: Train, steps: int) -> str:
    trainer = config.trainer
    return f"trainer.max_steps={steps}" if trainer.max_steps is not None else f"trainer.max_epochs={trainer.max_epochs}"


def _no_better(config: Train, run: Path, saved: int) -> bool:
    limit = patience(config)
    return limit is not None and limit.spent(run / METRICS, until=saved) is not None


def _fresh(folder: Path) -> Choice:
    return {"run": str(folder), "from": None}
