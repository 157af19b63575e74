"""Whether a run can go on from a checkpoint: what its recipe says against what is configured now."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mamoe.data.condition import Drawn, drawn_kind
from mamoe.data.folder.fingerprint import changed_samples
from mamoe.errors import CheckpointError
from mamoe.runs.recipe import Recipe, Terms, read_recipe
from mamoe.runs.weights import read_counters
from mamoe.training.order.loaders import LayoutDataModule
from mamoe.training.step.module import DiffusionModule
from mamoe.vocabulary.layout import LayoutSettings

log = logging.getLogger(__name__)

_NOISE = {  # of the scheduler, by the keys that decide them
    "prediction_type": "objective.prediction",
    "rescale_betas_zero_snr": "objective.zero_snr",
    "shift": "objective.shift",
    "use_dynamic_shifting": "objective.shift",
    "base_shift": "model.path",
    "max_shift": "model.path",
    "num_train_timesteps": "model.path",
    "beta_start": "model.path",
    "beta_end": "model.path",
    "beta_schedule": "model.path",
}
_OF_LAYOUT = {"strength": "regions.strength"}  # the others are keys of `layout`


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeChanges:
    """What a recipe says otherwise than a checkpoint's."""

    refused: tuple[tuple[str, str], ...]  # key of the configuration, and what it was and is
    notes: tuple[str, ...]  # what may change and should be known


def continued(checkpoint: Path, module: DiffusionModule, data: LayoutDataModule, recipe: Recipe) -> dict[str, Any]:
    """The counters to go on with. What older checkpoints do not say is not compared.

    Raises:
        CheckpointError: the data, the seed or the model changed, so that it would be another training.
    """
    counters = read_counters(checkpoint)
    now = {
        "seed": module.seed,
        "order_seed": data.seed,
        "data_size": len(data.train),
        "buckets": data.buckets is not None,
    }
    if data.buckets is not None:
        now["batch_size"] = data.batch_size  # buckets are cut into batches, a plain stream of pictures is not
    was = {name: counters.get(name, value) for name, value in now.items()}
    odd = [f"{name} was {was[name]} and is {value}" for name, value in now.items() if was[name] != value]
    changes = recipe_changes(read_recipe(checkpoint), recipe)
    odd += [line for _, line in changes.refused]
    if odd:
        raise CheckpointError(refusal(checkpoint, odd))
    for note in changes.notes:
        log.warning("Since %s: %s.", checkpoint.name, note)
    return counters


def refusal(of: Path, lines: Sequence[str]) -> str:
    """What to say where a run cannot go on."""
    return (
        f"{of} cannot be continued as the same training: {'; '.join(lines)}. Restore that, or start a new run from "
        f"its weights: model.init_from={of}"
    )


def recipe_changes(was: Recipe, now: Recipe) -> RecipeChanges:
    """Compare two recipes in what both of them say."""
    of_terms = terms_changes(was.terms, now.terms)
    of_base = [*_of_noise(was.scheduler, now.scheduler), *_of_weights(was.weights or {}, now.weights or {})]
    return RecipeChanges(refused=(*of_terms.refused, *of_base), notes=of_terms.notes)


def terms_changes(was: Terms, now: Terms) -> RecipeChanges:
    """Compare what is known before the base model is loaded. What older checkpoints do not say is not compared."""
    now = Terms.from_dict(json.loads(json.dumps(now.to_dict())))  # as it will be read
    coloured = drawn_kind(now.condition) is Drawn.CLASSES
    of_data, notes = _of_data(was.data, now.data)
    refused = [*_of_options(was, now), *_of_layout(was.layout, now.layout, coloured), *of_data]
    return RecipeChanges(refused=tuple(refused), notes=tuple(notes))


def _of_options(was: Terms, now: Terms) -> Iterator[tuple[str, str]]:
    if _kind(was.condition) != _kind(now.condition):
        yield _line("data.condition", _kind(was.condition), _kind(now.condition), "condition")
    sections = {"method": (was.method, now.method), "loss": (was.loss or {}, now.loss or {})}
    for name, (old, new) in sections.items():
        for key in (key for key in old if key in new):
            if old[key] != new[key] and (name, key) != ("loss", "weights"):  # a path
                yield _line(f"{name}.{key}", old[key], new[key])


def _of_noise(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, key in _NOISE.items():
        if was.get(name) != now.get(name):
            yield _line(key, was.get(name), now.get(name), f"{key} ({name})")


def _of_weights(was: Mapping[str, str], now: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    odd = [name for name in was if name in now and was[name] != now[name]]
    if odd:
        yield "model.path", f"model.path names a base model with other weights ({', '.join(odd)})"


def _of_layout(was: LayoutSettings, now: LayoutSettings, coloured: bool) -> Iterator[tuple[str, str]]:
    for name in LayoutSettings.__dataclass_fields__:
        before, after = getattr(was, name), getattr(now, name)
        if name not in ("taxonomy", "grouping") and before != after:
            yield _line(_OF_LAYOUT.get(name, f"layout.{name}"), before, after)
    void = was.taxonomy.void_id, now.taxonomy.void_id
    if void[0] != void[1]:
        yield _line("taxonomy", *void, "taxonomy.void_id")
    old, new = ({row.id: row for row in settings.taxonomy.classes} for settings in (was, now))
    for number in sorted(old.keys() | new.keys()):
        a, b = old.get(number), new.get(number)
        if a is None or b is None:
            yield _line("taxonomy", a and a.name, b and b.name, f"taxonomy: class {number}")
            continue
        what = ("name", "is_thing", "prompt", *(("colour",) if coloured else ()))
        for part in (part for part in what if getattr(a, part) != getattr(b, part)):
            yield _line("taxonomy", getattr(a, part), getattr(b, part), f"taxonomy: {part} of class {number}")
    if was.moe and now.moe and _experts(was) != _experts(now):
        yield _line("layout.grouping", was.grouping, now.grouping)


def _experts(settings: LayoutSettings) -> list[str]:
    """The expert of every class, by name."""
    experts = settings.experts
    return [experts.names[experts.expert_of_class[row.id]] for row in settings.taxonomy.classes] + list(experts.names)


def _of_data(was: Any, now: Any) -> tuple[list[tuple[str, str]], list[str]]:
    refused, notes = [], []
    for split in (split for split in (was or {}) if split in (now or {})):
        before, after = was[split], now[split]
        if before["keys"] != after["keys"]:
            line = f"the {split} pictures are others, by name or order"
            refused.append(("data", line)) if split == "train" else notes.append(line)
            continue
        odd, count = changed_samples(before["samples"], after["samples"]), len(after["samples"]) // 8
        line = f"{len(odd)} of {count} {split} pictures, maps or prompts are others than before"
        # A broken file that was mended is no other data set.
        if split == "train" and 2 * len(odd) > count:
            refused.append(("data", line))
        elif odd:
            notes.append(line)
    return refused, notes


def _kind(condition: str | None) -> str | None:
    # A folder of pictures may have moved with the data set.
    return condition if condition is None or drawn_kind(condition) else "a folder of pictures"


def _line(key: str, was: Any, now: Any, what: str | None = None) -> tuple[str, str]:
    return key, f"{what or key} was {was} and is {now}"
