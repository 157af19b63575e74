"""Going on with runs: what is remembered, what may change, and what is said about it."""

import copy
import functools
import json
import re
import shutil
import typing
from pathlib import Path

import pytest
import torch
import yaml

import mamoe as mamoe_package
from mamoe.assemble.callbacks import training_loggers
from mamoe.assemble.origin import choose_run
from mamoe.assemble.record import newest_like, write_start, write_told
from mamoe.commands.train import launch_sweep, told
from mamoe.config.compose import compose
from mamoe.config.resuming import changed_on_resume, rule_of, table
from mamoe.config.schema import Section
from mamoe.config.train import Train, validated
from mamoe.data.dataset import LayoutDataset
from mamoe.data.folder.fingerprint import fingerprint_of_samples
from mamoe.data.geometry.joint import Geometry
from mamoe.errors import ConfigError
from mamoe.runs.folder import environment, merged, read_config, read_overrides
from mamoe.runs.recipe import Recipe, Terms
from mamoe.runs.source import Source
from mamoe.runs.weights import load_trainer, save_trainer, trainer_state
from mamoe.scenes import Domain, write_scenes
from mamoe.training.loop.continuing import recipe_changes, terms_changes
from mamoe.training.optim import cosine_with_warmup, linear_with_warmup, make_adam
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.taxonomy import Taxonomy
from wholeruns import SMALL, cut_back, trained

ROOT = Path(__file__).parents[2]


# One rule for every key.


def leaves(section: type[Section], prefix: str = "") -> set[str]:
    """Every key of the schema; of alternatives those of all."""
    found = set()
    for name, field in section.model_fields.items():
        sections = [s for s in parts_of(field.annotation) if isinstance(s, type) and issubclass(s, Section)]
        found |= {key for s in sections for key in leaves(s, f"{prefix}{name}.")} or {prefix + name}
    return found


def parts_of(annotation):
    inner = typing.get_args(annotation)
    return [annotation] if not inner else [part for one in inner for part in parts_of(one)]


def test_every_key_of_the_schema_has_a_rule():
    keys = leaves(Train)
    assert len(keys) > 100 and "method.rank" in keys and "callbacks.samples.steps" in keys
    assert sorted(key for key in keys if rule_of(key) is None) == []


def test_every_composed_key_has_a_rule(composed):
    wide = ["method=controlnet_xs", "data.condition=edges", "loss=lpips", "optimizer=muon", "logger=wandb"]
    for config in (composed, compose([*wide, "evaluate_after=true", "experiment=demo"])):
        assert sorted(key for key in flat(config) if rule_of(key) is None) == []


@pytest.fixture(scope="module")
def composed():
    return compose(["method=lora"])


def flat(section: dict, prefix: str = "") -> dict:
    found = {}
    for name, value in section.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return found


def test_the_documentation_shows_the_rules():
    assert table() in (ROOT / "docs/training.md").read_text(encoding="utf-8")


def test_a_key_nobody_thought_of_is_refused(composed):
    (change,) = changed_on_resume({**composed, "new": 1}, {**composed, "new": 2})
    assert change.refusal is not None and rule_of("new") is None


STEPS = {"trainer.max_steps": 9}
STEP_LR = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1}


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        ({}, {"optimizer.weight_decay": 0.5}, None),
        ({}, {"optimizer.lr": 1e-3}, None),
        ({}, {"optimizer": {"_target_": "torch.optim.SGD", "lr": 1e-3}}, "optimizer._target_"),
        ({}, {"method.alpha": 200}, "method.alpha was 128.0 and is 200"),
        ({}, {"loss": {"name": "perceptual"}}, "loss.name was mse and is perceptual"),
        ({}, {"objective.snr_gamma": 5}, "objective.snr_gamma"),
        ({}, {"objective.timesteps": "stratified"}, None),
        ({}, {"ema_decay": 0.99}, None),
        ({}, {"ema_decay": None}, "the average would be lost"),
        ({"ema_decay": None}, {"ema_decay": 0.9}, "no average to go on with"),
        ({}, {"lr_scheduler.warmup_steps": 5}, None),
        ({}, {"lr_scheduler": STEP_LR}, "lr_scheduler._target_"),
        ({"lr_scheduler": STEP_LR}, {"lr_scheduler": STEP_LR, "optimizer.lr": 1e-3}, "has a state that moves them"),
        ({}, {"data.size": [64, 64]}, "data.size"),
        ({}, {"layout.blocks": [0]}, "layout.blocks was not set and is [0]"),
        ({"layout.blocks": [0]}, {"layout.blocks": [0, 1]}, "layout.blocks was [0] and is [0, 1]"),
        ({}, {"data.flip": 0}, None),
        ({}, {"lr_factors.experts": 3}, "lr_factors.experts"),
        ({}, {"seed": 1}, "seed was 0 and is 1"),
        ({}, {"data.batch_size": 2}, "give trainer.max_steps"),
        (STEPS, {**STEPS, "data.batch_size": 2}, None),
        (STEPS, {**STEPS, "data.batch_size": 2, "data.buckets": True}, "buckets are cut into batches"),
        (STEPS, {**STEPS, "trainer.max_epochs": 3}, "trainer.max_steps=9 decides"),
        ({}, {"callbacks.samples": None, "trainer.devices": 2, "runs": "elsewhere"}, None),
    ],
)
def test_what_may_change(composed, before, after, refused):
    configs = [validated(with_values(composed, values)).model_dump() for values in (before, after)]
    changes = changed_on_resume(*configs)
    assert changes
    said = [f"{change} ({change.refusal})" for change in changes if change.refusal is not None]
    assert (said == []) if refused is None else any(refused in line for line in said), said


def with_values(config: dict, values: dict) -> dict:
    changed = copy.deepcopy(config)
    for key, value in values.items():
        *sections, name = key.split(".")
        functools.reduce(dict.__getitem__, sections, changed)[name] = value
    return changed


# The same by what a checkpoint says: spelled otherwise is not otherwise.


def terms(condition=None, data=None, **layout) -> Terms:
    settings = {"taxonomy": Taxonomy.load("cityscapes"), **layout}
    plain = {"layout": LayoutSettings(**settings).to_dict(), "condition": condition, "data": data}
    return Terms.from_dict(json.loads(json.dumps(plain)))


def test_another_grouping_with_as_many_experts_is_refused():
    two = {"a": ["car"], "b": ["person"]}
    changes = terms_changes(terms(grouping=two), terms(grouping={"a": ["bus"], "b": ["person"]}))
    assert [key for key, _ in changes.refused] == ["layout.grouping"]
    spelled = {name: list(members) for name, members in Taxonomy.load("cityscapes").groupings["things"].items()}
    assert terms_changes(terms(grouping="things"), terms(grouping=spelled)).refused == ()


def test_a_prompt_of_a_class_is_compared_and_its_colour_where_it_is_shown():
    plain = Taxonomy.load("cityscapes").to_dict()
    plain["classes"][0]["colour"] = [1, 2, 3]
    other = Taxonomy.from_dict(plain)
    assert terms_changes(terms(), terms(taxonomy=other)).refused == ()
    shown = terms_changes(terms("classes"), terms("classes", taxonomy=other))
    assert "colour of class 0" in shown.refused[0][1]
    plain["classes"][0]["prompt"] = "a street"
    (line,) = terms_changes(terms(), terms(taxonomy=Taxonomy.from_dict(plain))).refused
    assert "prompt of class 0 was road and is a street" in line[1]


def samples_of(folder: Path):
    source = LayoutDataset(
        images=folder / "images",
        panoptic_maps=folder / "panoptic",
        split="train",
        prompts=folder / "prompts_{split}.csv",
        instance_prompts=folder / "instance_prompts_{split}.json",
        taxonomy=Taxonomy.load("scenes"),
        geometry=Geometry(size=64),
        seed=0,
    )
    return source.files.samples


def test_data_are_known_by_names_sizes_and_prompts(scenes, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(scenes, moved)
    known = terms(data={"train": fingerprint_of_samples(samples_of(scenes))})

    def now():
        return terms_changes(known, terms(data={"train": fingerprint_of_samples(samples_of(moved))}))

    assert (now().refused, now().notes) == ((), ())
    name = moved / "images/train/scene_000001.png"
    name.write_bytes(name.read_bytes() + b"mended")
    assert now().refused == () and now().notes == ("1 of 6 train pictures, maps or prompts are others than before",)
    text = (moved / "prompts_train.csv").read_text()
    (moved / "prompts_train.csv").write_text(re.sub(r"^(.*png,)", r"\1other ", text, flags=re.MULTILINE))
    assert "6 of 6 train pictures" in now().refused[0][1]


def test_a_base_model_is_known_by_its_weights():
    def recipe(**weights: str) -> Recipe:
        return Recipe(base=Source(path="a/base"), scheduler={}, terms=terms(), weights=weights)

    was = recipe(vae="a", text_encoder="b")
    assert recipe_changes(was, recipe(vae="a", unet="c")).refused == ()
    ((key, line),) = recipe_changes(was, recipe(vae="x", text_encoder="b")).refused
    assert key == "model.path" and "other weights (vae)" in line


# Rates and decay take effect really.


def parts(lr: float, decay: float, total: int = 10, curve=cosine_with_warmup):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = make_adam([{"params": [weight], "lr_factor": 1.0}], lr=lr, weight_decay=decay)
    return weight, optimizer, curve(optimizer, total_steps=total)


def test_rate_and_decay_are_those_of_now_and_the_rest_goes_on(tmp_path):
    weight, optimizer, schedule = parts(1e-3, 0.01)
    for _ in range(4):
        weight.grad = torch.ones(4)
        optimizer.step()
        schedule.step()
    save_trainer(tmp_path, trainer_state(optimizer, schedule, {}))
    _, same, unchanged = parts(1e-3, 0.01)
    load_trainer(tmp_path, same, unchanged)
    assert same.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert same.param_groups[0]["betas"] == (0.9, 0.999)
    _, other, longer = parts(1e-5, 0.5, total=40, curve=linear_with_warmup)
    load_trainer(tmp_path, other, longer)
    group = other.param_groups[0]
    assert group["weight_decay"] == 0.5 and group["lr"] == pytest.approx(1e-5 * (1 - 4 / 40))
    assert longer.get_last_lr() == [group["lr"]]
    longer.step()
    assert group["lr"] == pytest.approx(1e-5 * (1 - 5 / 40))
    assert next(iter(other.state.values()))["step"] == 4  # the moments are those of the run


# What a run was told.


def test_given_again_replaces_and_stays_an_addition():
    before = ["experiment=demo", "+optimizer.eps=1e-6", "data.size=[64,64]"]
    assert merged(before, ["data.size=[32,32]", "optimizer.eps=1e-4", "~callbacks.samples"]) == [
        "experiment=demo",
        "data.size=[32,32]",
        "+optimizer.eps=1e-4",
        "~callbacks.samples",
    ]


def test_a_run_remembers_and_auto_finds_it_by_what_it_began_with(tmp_path):
    run = tmp_path / "runs" / "train" / "2024-01-01_00-00-00-aaaa"
    run.mkdir(parents=True)
    began, later = ({"seed": 0, "resume": None, "steps": n} for n in (4, 4000))
    write_start(run, config=began, overrides=["steps=4"], dataset={})
    (run / "sessions.jsonl").unlink()  # a run of an older version has none
    write_told(run, step=3, config={**later, "resume": "here"}, overrides=["steps=4000"])
    assert read_overrides(run) == ["steps=4000"] and read_config(run)["steps"] == 4000
    assert [newest_like(tmp_path / "runs", "train", config) for config in (began, later)] == [run, run]
    assert newest_like(tmp_path / "runs", "train", {**began, "seed": 1}) is None
    lines = [json.loads(line) for line in (run / "sessions.jsonl").read_text().splitlines()]
    assert [(line["from_step"], line["told"]) for line in lines] == [(0, ["steps=4"]), (3, ["steps=4000"])]


def test_every_command_that_takes_resume_starts_from_what_the_run_was_told(finished_run):
    words, run = told(["data.num_workers=1", f"resume={finished_run}"])
    assert (
        run == finished_run.resolve()
        and "trainer.max_steps=4" in words
        and words[-2:] == ["data.num_workers=1", f"resume='{finished_run}'"]
    )
    with pytest.raises(ConfigError, match="one run: leave out -m"):
        launch_sweep(["optimizer.lr=1e-4,1e-5", f"resume={finished_run}"])


def test_a_run_goes_on_as_it_was_last_told(finished_run, tmp_path):
    run = cut_back(finished_run, tmp_path / "copy", 2)
    few = ["optimizer.weight_decay=0.5", "trainer.max_steps=3", "callbacks.best=null"]
    refused = trained(f"resume={run}", *few, *SMALL, code=2)
    assert "callbacks.best" in refused.err and "max_steps=3" not in (run / "overrides.txt").read_text()
    said = trained(f"resume={run}", *few[:2], *SMALL, "logger.tensorboard=true")
    assert "optimizer.weight_decay was 0.01 and is 0.5: takes effect" in said.out
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 3
    state = json.loads((run / "checkpoints/latest/trainer/state.json").read_text())
    assert {group["weight_decay"] for group in state["optimizer"]["groups"]} == {0.5}
    assert "max_steps: 3" in (run / "tensorboard/hparams.yaml").read_text()

    before = sorted(path.stat().st_mtime_ns for path in run.rglob("*"))
    said = trained(f"resume={run}")
    assert "is done: step 3 of 3 (trainer.max_steps=3)" in said.out and "Step" not in said.out
    said = trained(f"resume={run}", "trainer.max_steps=1", code=2)
    assert "already at step 3 of 1" in said.err and "give trainer.max_steps=… above 3" in said.err
    said = trained(f"resume={run}", "layout.grouping=per_class", "seed=3", "data.flip=0", code=2)
    assert "layout.grouping was streets" in said.err and "seed was 0 and is 3" in said.err
    assert "data.flip" not in said.err
    assert sorted(path.stat().st_mtime_ns for path in run.rglob("*")) == before


def test_other_data_of_equal_length_are_refused(finished_run, tmp_path):
    other = tmp_path / "again"
    write_scenes(other, domain=Domain.DUSK_TOWN, counts={"train": 6, "val": 3}, height=64, width=64, seed=9)
    said = trained(f"resume={finished_run}", f"data.root={other}", code=2)
    assert "6 of 6 train pictures, maps or prompts are others" in said.err


def test_auto_goes_on_by_its_own_words(finished_run, tmp_path):
    runs = tmp_path / "runs"
    run = cut_back(finished_run, runs / "demo" / finished_run.name, 2)
    plain = {**read_config(run), "runs": str(runs), "resume": "auto"}
    (run / "config.yaml").write_text(yaml.safe_dump(plain))
    longer = json.loads(json.dumps(plain))
    longer["trainer"]["max_steps"] = 4000
    write_told(run, step=2, config=longer, overrides=[])
    chosen = choose_run(validated(plain), plain, 4)
    assert chosen["run"] == str(run) and chosen["from"].endswith("step-00000002")


# Loggers, and the record of the machine.


def test_a_resumed_run_keeps_its_wandb_id(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", lambda **options: made.append(options))
    config = validated(compose(["logger=wandb"]))
    run = tmp_path / "run"
    run.mkdir()
    for _ in range(2):
        training_loggers(config, run)
    assert made[0]["id"] == made[1]["id"] != "" and made[0]["resume"] == "allow"
    older = tmp_path / "older"  # of a version that did not keep it
    (older / "wandb/offline-run-20240101_101010-ab12cd34").mkdir(parents=True)
    training_loggers(config, older)
    assert made[2]["id"] == "ab12cd34" != made[0]["id"]


def test_the_environment_is_told_from_a_source_folder_too(monkeypatch):
    from importlib import metadata

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    packages = environment()["packages"]
    assert packages["mamoe"] == f"{mamoe_package.__version__} (source folder)"
    assert all(isinstance(version, str) and version for version in packages.values())
