"""What may change when a run goes on: one rule for every key of the configuration.

docs/training.md shows :func:`table`; a test holds both against the schema. Keys without a rule are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

OURS = "mamoe.training.optim."  # schedules that are computed anew from the step alone


class OnResume(StrEnum):
    """What becomes of another value than the run was trained with."""

    EFFECT = "takes effect"
    REFUSED = "refused"
    NONE = "cannot matter"  # for what is learned, but for rounding; the setting itself is taken


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A row of the table."""

    keys: tuple[str, ...]  # ``section.*`` stands for all keys of a section that have no row of their own
    kind: OnResume
    why: str
    by_meaning: bool = False  # compared by what the recipe of a checkpoint says, not by how it is spelled


def _rule(kind: OnResume, why: str, *keys: str, by_meaning: bool = False) -> Rule:
    return Rule(keys=keys, kind=kind, why=why, by_meaning=by_meaning)


RULES = (
    _rule(
        OnResume.EFFECT,
        "the rest of the schedule is that of the new length; fewer steps than are done are refused, and so is "
        "max_epochs where max_steps is set, which decides",
        "trainer.max_steps",
        "trainer.max_epochs",
    ),
    _rule(
        OnResume.EFFECT,
        "from the resumed step on, also in the schedule; lr and betas are refused with a schedule of torch's own",
        "optimizer.lr",
        "optimizer.weight_decay",
        "optimizer.betas",
    ),
    _rule(
        OnResume.EFFECT,
        "the rest follows the new curve; refused to and from schedules of torch's own, which have a state",
        "lr_scheduler.*",
    ),
    _rule(OnResume.EFFECT, "refused to and from null: there is no average to go on with, or none to keep", "ema_decay"),
    _rule(
        OnResume.EFFECT,
        "of the steps to come",
        "objective.prompt_dropout",
        "objective.timesteps",
        "objective.logit_mean",
        "objective.logit_std",
        "data.flip",
        "data.transforms",
        "trainer.gradient_clip_val",
        "trainer.precision",
    ),
    _rule(
        OnResume.EFFECT,
        "the order of the pictures goes on; refused where the run's length is max_epochs (give max_steps), and the "
        "batch size with data.buckets=true",
        "data.batch_size",
        "trainer.accumulate_grad_batches",
    ),
    _rule(
        OnResume.EFFECT,
        "the files may have moved: names, sizes and prompts of the training pictures are compared",
        "data.root",
        "data.images",
        "data.panoptic_maps",
        "data.prompts",
        "data.instance_prompts",
    ),
    _rule(
        OnResume.EFFECT,
        "what a run starts from may have moved: its weights are compared",
        "model.path",
        "model.init_from",
        "model.revision",
        "model.variant",
        "model.config",
        "model.tokenizer",
        "model.vae",
    ),
    _rule(OnResume.EFFECT, "the file may have moved; what is in it is not compared", "loss.weights"),
    _rule(
        OnResume.EFFECT,
        "what is measured, drawn, kept and logged from here on, and when a session ends",
        "callbacks.*",
        "evaluate_after.*",
        "logger.*",
        "trainer.limit_val_images",
        "trainer.max_time",
        "trainer.preemption_signal",
    ),
    _rule(OnResume.REFUSED, "order, noise and augmentation derive from it", "seed"),
    _rule(
        OnResume.REFUSED,
        "the loss would be that of other pictures",
        "data.size",
        "data.crop",
        "data.buckets",
        "data.multiple",
    ),
    _rule(OnResume.REFUSED, "a folder may move", "data.condition", by_meaning=True),
    _rule(
        OnResume.REFUSED,
        "the training pictures are compared",
        "data.recursive",
        "data.val_share",
        "trainer.limit_train_images",
        "trainer.overfit_images",
        by_meaning=True,
    ),
    _rule(
        OnResume.REFUSED,
        "compared by what they mean: classes, prompts and experts; colours may change unless they are the condition",
        "taxonomy.*",
        "data.taxonomy",
        "layout.region_attention",
        "layout.moe",
        "layout.grouping",
        "layout.policy",
        "layout.global_prompt",
        "layout.dataset_prompt",
        "layout.global_padding",
        "layout.encoder_padding",
        "layout.region_resize",
        "layout.pool_threshold",
        "layout.expert_resize",
        "regions.strength",
        by_meaning=True,
    ),
    _rule(
        OnResume.REFUSED,
        "it is another model that learns",
        "layout.moe_levels",
        "layout.blocks",
        "method.*",
        "model.frozen_precision",
        "model.train_text_encoder",
    ),
    _rule(OnResume.REFUSED, "the prompts would have other embeddings", "model.text_precision"),
    _rule(
        OnResume.REFUSED,
        "compared by what it means: null is what the base model says",
        "objective.prediction",
        "objective.zero_snr",
        "objective.shift",
        by_meaning=True,
    ),
    _rule(OnResume.REFUSED, "losses before and after could not be compared", "loss.*", "objective.snr_gamma"),
    _rule(OnResume.REFUSED, "the optimizer's state would not fit", "optimizer.*", "lr_factors.*"),
    _rule(OnResume.NONE, "a run stays in its folder", "name", "runs", "resume"),
    _rule(
        OnResume.NONE,
        "time and memory",
        "cache.folder",
        "cache.latents",
        "data.num_workers",
        "model.gradient_checkpointing",
        "model.channels_last",
        "trainer.accelerator",
        "trainer.devices",
        "trainer.num_nodes",
        "trainer.strategy",
        "trainer.threads",
        "trainer.profiler",
        "trainer.detect_anomaly",
        "trainer.auto_microbatch",
        "trainer.compile",
        "trainer.deterministic",
        "trainer.gpu_gib",
    ),
)

_BY_KEY = {key: rule for rule in RULES for key in rule.keys}
_UNKNOWN = Rule(keys=(), kind=OnResume.REFUSED, why="nobody has said yet what becomes of it")
_OPEN = ("optimizer", "lr_scheduler")  # sections whose keys are arguments: one that is not there means something


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A key that has another value than the run was last told."""

    key: str
    was: Any
    now: Any
    rule: Rule
    refusal: str | None  # why it cannot be; None: it can

    def __str__(self) -> str:
        return f"{self.key} was {_shown(self.was)} and is {_shown(self.now)}"


def rule_of(key: str) -> Rule | None:
    """The rule of a dotted key; None where there is none."""
    parts = key.split(".")
    sections = [".".join([*parts[:n], "*"]) for n in range(len(parts), 0, -1)]
    return next((_BY_KEY[name] for name in (key, *sections) if name in _BY_KEY), None)


def changed_on_resume(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What differs between a run's configuration and the one it is to go on with, each with its rule.

    Keys that the run's configuration does not have were unknown when it was written, and are left out. What is
    compared by its meaning is left out too, see :mod:`mamoe.training.loop.continuing`.
    """
    changes = []
    for key, before, after in _differences(was, now):
        rule = rule_of(key) or _UNKNOWN
        if not rule.by_meaning and key != "resume":
            refusal = rule.why if rule.kind is OnResume.REFUSED else _exception(key, before, after, was, now)
            changes.append(Change(key=key, was=before, now=after, rule=rule, refusal=refusal))
    return changes


def table() -> str:
    """The rules as a table in Markdown."""
    rows = ["| keys | another value on resume | |", "|---|---|---|"]
    rows += [f"| {', '.join(f'`{key}`' for key in rule.keys)} | {rule.kind} | {rule.why} |" for rule in RULES]
    return "\n".join(rows)


def _exception(key: str, was: Any, now: Any, old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Why a change that mostly takes effect cannot do so here."""
    schedules = [str(plain["lr_scheduler"].get("_target_")) for plain in (old, new)]
    own = all(name.startswith(OURS) for name in schedules)
    steps = new["trainer"]["max_steps"]
    if key in ("optimizer.lr", "optimizer.betas") and not own:
        return f"{schedules[1]} has a state that moves them; start a new run"
    if key.startswith("lr_scheduler") and not own:
        return "a schedule of torch's own has a state that fits itself alone"
    if key == "ema_decay" and None in (was, now):
        return "there is no average to go on with" if was is None else "the average would be lost"
    if key == "trainer.max_epochs" and steps is not None:
        return f"trainer.max_steps={steps} decides: change that, or give trainer.max_steps=null too"
    if key in ("data.batch_size", "trainer.accumulate_grad_batches") and steps is None:
        return "the steps of trainer.max_epochs are counted with it; give trainer.max_steps=… too"
    if key == "data.batch_size" and new["data"]["buckets"]:
        return "buckets are cut into batches"
    return None


def _differences(was: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys([*was, *now]):
        key, before, after = f"{prefix}{name}", was.get(name), now.get(name)
        if not (name in was and name in now) and prefix.partition(".")[0] not in _OPEN:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(before, after, f"{key}.")
        elif _plain(before) != _plain(after):
            yield key, before, after


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
