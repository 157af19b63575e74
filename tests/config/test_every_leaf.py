"""No leaf of a composed configuration takes a value of another type, or one that is out of range."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mamoe.config.compose import compose
from mamoe.config.train import validated
from mamoe.errors import ConfigError

SCORES = "callbacks.scores={every: 5, images: 4, mode: cfg, steps: 2, guidance_scale: 1.0, extractor: pixels}"
STOPPING = "callbacks.early_stopping={metric: val/loss, mode: min, patience: 3, min_delta: 0.1}"
SGD = "torch.optim.SGD"
CHOICES = {
    "defaults": [],
    "lora": [
        "method=lora",
        "loss=masked_mse",
        "loss.class_weights={car: 2.0}",
        "optimizer=muon",
        "lr_scheduler=linear",
    ],
    "shown": ["method=controlnet_xs", "data.condition=edges", "method.widths=[4,8]", "loss=lpips", "optimizer=adam"],
    "free": ["method=lora_experts", "optimizer=schedule_free", "lr_scheduler=constant", "ema_decay=null"],
    "watched": ["evaluate_after=true", SCORES, STOPPING, "logger=wandb", "optimizer=adamw_8bit", "trainer=ddp"],
    "thesis": ["experiment=mamoe", "data.root=d", "loss=latent_lpips", "layout.grouping={g: [car]}", "data.size=64"],
    "null": ["callbacks=none", "trainer.threads=2", "trainer.max_time=1:00:00", "objective.snr_gamma=5.0"],
}
# Free text, or what only the machine and the disk can say: here another type is refused, but nothing is out of range.
FREE = {
    "runs",
    "resume",
    "cache.folder",
    *(f"data.{key}" for key in ("root", "images", "panoptic_maps", "prompts", "instance_prompts", "condition")),
    *(f"model.{key}" for key in ("path", "init_from", "revision", "variant", "config", "tokenizer")),
    "layout.dataset_prompt",
    "loss.weights",
    "callbacks.checkpoints.best.metric",
    "callbacks.early_stopping.metric",
    "callbacks.scores.extractor",
    "logger.wandb.project",
    "logger.wandb.entity",
    "evaluate_after.clip",
    "objective.logit_mean",
}
OPEN = ("evaluate_after.extractors", "evaluate_after.segmenters", "evaluate_after.scores")  # lists of free text


def composed(name: str) -> dict[str, Any]:
    plain = compose(CHOICES[name], say=lambda text: None)
    plain.pop("hydra", None)
    if plain["evaluate_after"] is True:
        plain["evaluate_after"] = validated(plain).model_dump()["evaluate_after"]
    return plain


def leaves(plain: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every key that holds no further keys; the taxonomy and a grouping are a leaf each."""
    for key, value in plain.items():
        here = (*path, key)
        if isinstance(value, dict) and here not in (("taxonomy",), ("layout", "grouping")):
            yield from leaves(value, here)
        else:
            yield here, value


def with_value(plain: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    key, *rest = path
    return {**plain, key: with_value(plain[key], tuple(rest), value) if rest else value}


def of_another_type(value: Any) -> list[Any]:
    """A mapping stands for nothing; a number is no text and no text a number; true is no number."""
    wrong: list[Any] = [{"nobody": "knows"}]
    if isinstance(value, bool):
        return [*wrong, "perhaps", 7, [True]]
    if isinstance(value, int | float):
        return [*wrong, "many", True, [[value]]]
    if isinstance(value, str):
        return [*wrong, 2.5, [[value]]]
    if isinstance(value, list):
        return [*wrong, [[["deep"]]], 2.5]
    return [*wrong, [[["deep"]]]] if value is None else [*wrong, 2.5]


def out_of_range(value: Any) -> list[Any]:
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, int | float):
        return [-7.5, float("nan"), float("inf")]
    if isinstance(value, str):
        return ["no such / thing"]
    return [[out_of_range(one)[0] for one in value]] if isinstance(value, list) and value else []


def refusal_of(plain: dict[str, Any]) -> str:
    try:
        validated(plain)
    except ConfigError as error:
        return str(error)
    return "accepted"


def missed(name: str) -> list[str]:
    """The wrong values that were taken, or refused without the name of their key."""
    plain, found = composed(name), []
    validated(plain)
    for path, value in leaves(plain):
        dotted = ".".join(path)
        free = dotted in FREE or dotted in OPEN
        for wrong in [*of_another_type(value), *([] if free else out_of_range(value))]:
            said = refusal_of(with_value(plain, path, wrong))
            if dotted not in said:
                found.append(f"{dotted}={wrong!r}: {said}")
    return found


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", CHOICES)
def test_every_leaf_refuses_what_it_cannot_mean(name):
    assert missed(name) == []


NONSENSE = {
    "layout.policy": ("nonsense", "'things'"),
    "layout.grouping": ("nothing", "extreme_things"),
    "layout.expert_resize": ("cubic", "'avg_pool'"),
    "layout.pool_threshold": (7, "less than 1"),
    "optimizer.lr": ("abc", "a valid number"),
}


def test_nonsense_is_refused_in_one_message_before_torch_is_imported():
    script = (
        "import sys, json\nfrom mamoe.config.compose import compose\nfrom mamoe.config.train import validated\n"
        "from mamoe.errors import ConfigError\n"
        "try:\n    validated(compose(json.loads(sys.argv[1])))\nexcept ConfigError as error:\n    print(error)\n"
        "assert not {'torch', 'diffusers', 'transformers', 'lightning'} & set(sys.modules)\n"
    )
    words = json.dumps([f"{key}={value}" for key, (value, _) in NONSENSE.items()])
    done = subprocess.run([sys.executable, "-c", script, words], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    for key, (value, known) in NONSENSE.items():
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"  {key}: "))
        assert known in line and repr(value) in line
