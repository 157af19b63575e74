"""Going on from a model of one's own, and runs, bases and data sets that moved."""

import json
import logging
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from factories import mamoe, short_run
from mamoe.assemble.base import base_of, started_from, steered_unet
from mamoe.assemble.data import layout_settings
from mamoe.assemble.loss import loss_of
from mamoe.assemble.model import objective_scheduler, training_module
from mamoe.assemble.recipe import recipe_of
from mamoe.bases.pretrained import load_base
from mamoe.bases.sources import parts_of
from mamoe.config.compose import compose, pinned
from mamoe.config.train import validated
from mamoe.errors import ConfigError
from mamoe.methods.registry import method_of
from mamoe.models.control.call import Control, control_of, with_layout
from mamoe.models.control.controlnet_xs import BRANCH
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.runs.adapter import save_adapter
from mamoe.runs.home import Home, place_now, relocated
from mamoe.runs.lookup import find_checkpoint
from mamoe.runs.manifest import MANIFEST, manifest_of
from mamoe.runs.recipe import Recipe, Terms, write_recipe
from mamoe.runs.source import Source
from mamoe.sampling.pipeline import LayoutPipeline

WORDS = ["experiment=demo", "trainer.accelerator=cpu", "model.train_text_encoder=false"]
LORA = {"name": "lora", "rank": 4, "alpha": 4.0, "attention": True, "conv": False, "projection": False}
LORA |= {"feed_forward": True, "decoder_only": False}
LORA_WORDS = ["method=lora", *(f"method.{key}={value}" for key, value in LORA.items() if key != "name")]


@cache
def config_of(*words: str):
    return validated(compose([*WORDS, *words]))


@cache
def base_at(path: str):
    """The base model that ``model.path=…`` or its like names, loaded once: a conversion leaves it as it is."""
    return base_of(config_of(path))


def steered(path: str, *words: str):
    config = config_of(path, *words)
    return steered_unet(config, base_at(path), layout_settings(config))


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        steered(*words)
    return str(caught.value)


def marked(network: torch.nn.Module) -> torch.nn.Module:
    """Every weight that trains another one, so that none can be mistaken for a fresh one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in (weight for weight in network.parameters() if weight.requires_grad):
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.01)
    return network


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def settings():
    return layout_settings(config_of())


@pytest.fixture(scope="module")
def exported(base_model, settings, tmp_path_factory) -> Path:
    """What `mamoe export` writes: five experts that differ, with a learned strength."""
    base = load_base(str(base_model))
    unet = with_layout(base.unet, num_experts=settings.num_experts, learned_strength=True)
    layout = {**settings.to_dict(), "strength": "learned"}
    folder = tmp_path_factory.mktemp("exported") / "exported"
    parts = {"vae": base.vae, "text_encoder": base.text_encoder, "tokenizer": base.tokenizer}
    LayoutPipeline(**parts, unet=marked(unet), scheduler=base.scheduler, layout=layout).save_pretrained(folder)
    return folder


def write_run(folder: Path, base: Path | str, settings, method: dict, unet, *, text=None) -> Path:
    """A run of one checkpoint, as training leaves it; the average differs from the weights."""
    checkpoint = folder / "checkpoints" / "step-00000004"
    for name in ("unet", "unet_ema"):
        marked(unet)
        if method["name"] in ("lora", "controlnet_xs"):
            save_adapter(unet, unet.state_dict(), checkpoint / name)
        else:
            unet.save_pretrained(checkpoint / name)
    if text is not None:
        text.save_pretrained(checkpoint / "text_encoder")
    scheduler = dict(load_base(str(base)).scheduler.config)
    condition = "classes" if method["name"] in ("controlnet_xs", "concat") else None
    terms = Terms(layout=settings, method=method, condition=condition)
    write_recipe(Recipe(base=Source(path=str(base)), scheduler=scheduler, terms=terms), checkpoint)
    (checkpoint / MANIFEST).write_text(manifest_of(checkpoint, 4))
    (checkpoint.parent / "latest").symlink_to(checkpoint.name)
    return folder


@pytest.fixture(scope="module")
def mamoe_run(base_model, settings, tmp_path_factory) -> Path:
    unet = with_layout(load_base(str(base_model)).unet, num_experts=settings.num_experts)
    return write_run(tmp_path_factory.mktemp("full") / "run", base_model, settings, {"name": "full"}, unet)


@pytest.fixture(scope="module")
def lora_run(base_model, settings, tmp_path_factory) -> Path:
    unet = with_layout(load_base(str(base_model)).unet, num_experts=settings.num_experts)
    unet = method_of(LORA).prepare(unet, seed=3)
    folder = tmp_path_factory.mktemp("lora") / "run"
    return write_run(folder, base_model, settings, LORA, unet)


def test_a_mamoe_pipeline_goes_on_with_all_it_learned(exported):
    saved = MaMoEUNet2DConditionModel.from_pretrained(exported / "unet")
    for words in ([], ["method=decoder"]):
        unet = steered(f"model.path={exported}", "regions.strength=learned", *words)
        assert same(unet, saved)
    assert "was trained before" in (started_from(config_of(), base_at(f"model.path={exported}")) or "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["layout.grouping=things"], ["5 experts of the grouping streets (rest,", "2 experts of the grouping things"]),
        (["layout.moe=false"], ["5 experts of the grouping streets", "none (layout.moe=false)", "layout.moe=true"]),
        (["layout.grouping=per_class"], ["20 experts of the grouping per_class"]),
        (["layout.blocks=[0]"], ["layout.blocks=null (all)", "configuration has [0]"]),
        (["layout.moe_levels=[0]"], ["levels [0, 1]", "layout.moe_levels=[0]"]),
        (["regions.strength=hard"], ["regions.strength=learned", "has hard"]),
        (["layout.region_attention=false", "regions.strength=hard"], ["layout.region_attention=true"]),
    ],
)
def test_what_does_not_fit_a_mamoe_pipeline_is_refused_with_both_named(words, says, exported):
    said = refusal(f"model.path={exported}", "regions.strength=learned", *words)
    assert str(exported) in said and all(text in said for text in says), said


def test_groups_of_one_name_with_other_classes_in_them_are_others(exported, settings):
    groups = {name: list(members) for name, members in settings.taxonomy.groupings["streets"].items()}
    (first, second, *_), moved = groups, []
    moved.append(groups[first].pop())
    groups[second] += moved
    grouping = "{" + ", ".join(f"{name}: [{', '.join(map(repr, members))}]" for name, members in groups.items()) + "}"
    said = refusal(f"model.path={exported}", "regions.strength=learned", f"layout.grouping={grouping}")
    assert f"{moved[0]} ({first}, now {second})" in said


def test_a_stock_or_dense_base_still_takes_any_settings(base_model, mamoe_run, settings):
    assert steered(f"model.path={base_model}", "layout.grouping=per_class").config["num_experts"] == 20
    unet = MaMoEUNet2DConditionModel.from_unet(load_base(str(base_model)).unet, num_experts=1)
    grown = with_layout(unet, num_experts=3, learned_strength=True)
    assert grown.config["num_experts"] == 3


def test_nothing_a_unet_learned_is_dropped_by_converting_it_again(exported):
    unet = MaMoEUNet2DConditionModel.from_pretrained(exported / "unet")
    again = MaMoEUNet2DConditionModel.from_unet(unet, num_experts=5, learned_strength=True)
    assert same(again, unet)
    for less in ({"num_experts": 2, "learned_strength": True}, {"num_experts": 5}, {"num_experts": 1}):
        with pytest.raises(ConfigError, match="may be dropped"):
            MaMoEUNet2DConditionModel.from_unet(unet, **less)
    with pytest.raises(ConfigError, match="may be dropped"):
        MaMoEUNet2DConditionModel.from_unet(unet, num_experts=5, learned_strength=True, shared_expert=True)


def test_weights_a_stock_unet_has_no_place_for_are_not_left_out_silently(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "renamed")
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps({**config, "_class_name": "UNet2DConditionModel"}))
    with pytest.raises(ConfigError, match="have no place in it, first"):
        load_base(str(folder))


@pytest.mark.parametrize("key", ["model.path", "model.init_from"])
def test_a_run_is_a_base_with_its_averaged_weights(key, mamoe_run, base_model):
    config = config_of(f"{key}={mamoe_run}")
    base = base_of(config)
    averaged = MaMoEUNet2DConditionModel.from_pretrained(mamoe_run / "checkpoints/latest/unet_ema")
    assert same(steered_unet(config, base, layout_settings(config)), averaged)
    assert "averaged weights of" in (started_from(config, base) or "")
    # All else is the base model's: the new run does not need the old one any more.
    recipe = recipe_of(config, base, base.scheduler, Terms(layout=layout_settings(config)))
    assert recipe.base.path == str(base_model) and "step-00000004" in (recipe.started_from or "")
    assert refusal(f"{key}={mamoe_run}", "layout.grouping=things")


def test_an_adapter_goes_on_or_becomes_part_of_the_weights(lora_run, base_model):
    same_words = [f"model.init_from={lora_run}", *LORA_WORDS]
    config = config_of(*same_words)
    base = base_of(config)
    assert base.adapter == (lora_run / "checkpoints/latest/unet_ema").resolve()
    module = training_module_of(config, base)
    state = load_file(base.adapter / "adapter.safetensors")
    own = dict(module.unet.named_parameters())
    assert state and all(torch.equal(own[name], value) for name, value in state.items())
    terms = Terms(layout=layout_settings(config))
    assert recipe_of(config, base, base.scheduler, terms).base.path == str(base_model)
    assert "lora is trained on" in (started_from(config, base) or "")

    config = config_of(f"model.init_from={lora_run}", *LORA_WORDS, "method.rank=2")
    base = base_of(config)
    assert base.adapter is None and "becomes part of the weights" in (started_from(config, base) or "")
    merged = LayoutPipeline.from_pretrained(lora_run).unet
    assert same(steered_unet(config, base, layout_settings(config)), merged)
    # An adapter beside merged weights needs them where they are.
    recipe = recipe_of(config, base, base.scheduler, terms)
    assert recipe.base.path == str((lora_run / "checkpoints/latest").resolve())
    assert same(parts_of(recipe.base).unet(torch.float32), merged)


def training_module_of(config, base):
    scheduler = objective_scheduler(config, base.scheduler)
    settings = layout_settings(config)
    return training_module(config, base, scheduler, settings, loss_of(config, base), 4, prompts=None)


def test_a_trained_text_encoder_goes_along(base_model, settings, tmp_path):
    base = load_base(str(base_model))
    text = marked(base.text_encoder)
    run = write_run(tmp_path / "run", base_model, settings, {"name": "full"}, base.unet, text=text)
    config = config_of(f"model.init_from={run}", "layout.moe=false")
    found = base_of(config)
    assert same(found.text_encoder, text)
    recipe = recipe_of(config, found, found.scheduler, Terms(layout=settings))
    assert recipe.base.path == str((run / "checkpoints/latest").resolve())  # which holds the encoder


@pytest.mark.parametrize(("name", "control"), [("controlnet_xs", Control.PICTURE), ("concat", Control.LATENT)])
def test_models_of_condition_pictures_go_on_or_are_refused(name, control, base_model, settings, tmp_path):
    base = load_base(str(base_model))
    method = method_of({"name": name, "widths": None, "train_base": False})
    unet = marked(method.prepare(with_layout(base.unet, num_experts=settings.num_experts), seed=0))
    layout, parts = (
        settings.to_dict(),
        {"vae": base.vae, "text_encoder": base.text_encoder, "tokenizer": base.tokenizer},
    )
    pipe = LayoutPipeline(**parts, unet=unet, scheduler=base.scheduler, layout=layout, condition="classes")
    pipe.save_pretrained(tmp_path / "out")
    words = [f"model.path={tmp_path / 'out'}", f"method={name}", "data.condition=classes"]
    config = config_of(*words)
    again = training_module_of(config, base_of(config)).unet
    assert control_of(again) is control and same(again, unet)
    assert "condition picture" in refusal(words[0])
    assert "data.condition=edges" in refusal(*words[:2], "data.condition=edges")
    if control is Control.LATENT:
        with pytest.raises(ConfigError, match="condition picture"):
            loss_of(config_of(*words, "loss=perceptual"), base_of(config))
    else:
        shutil.rmtree(tmp_path / "out" / BRANCH)
        with pytest.raises(ConfigError, match="saved with a ControlNet-XS branch"):
            base_of(config)


def test_the_base_of_a_run_to_start_from_is_its_own_unless_one_is_given(mamoe_run, base_model, tmp_path):
    assert config_of(f"model.init_from={mamoe_run}").model.path is None
    assert config_of(f"model.init_from={mamoe_run}", f"model.path={base_model}").model.path == str(base_model)
    assert config_of(f"model.init_from={mamoe_run}", "model=tiny").model.path == "package:tiny"
    assert pinned([f"model.init_from={mamoe_run}", "seed=1"]) == [
        f"model.init_from='{find_checkpoint(mamoe_run)}'",
        "seed=1",
    ]
    said = refusal(f"model.init_from={tmp_path}")
    assert "there is no run there" in said
    with pytest.raises(ConfigError, match=r"path must name a base model"):
        config_of("model.path=null")


# What moved.


def test_a_base_that_moved_is_given_or_found_beside_the_run(base_model, settings, tmp_path, caplog):
    then = tmp_path / "then"
    shutil.copytree(base_model, then / "base")
    unet = with_layout(load_base(str(base_model)).unet, num_experts=settings.num_experts)
    run = write_run(then / "runs/a/b", then / "base", settings, {"name": "full"}, unet)
    (run / "dataset.json").write_text(json.dumps(place_now(run)))
    shutil.copytree(base_model, tmp_path / "elsewhere")
    now = then.rename(tmp_path / "now")
    with caplog.at_level(logging.WARNING):
        LayoutPipeline.from_pretrained(now / "runs/a/b")
    assert str(now / "base") in caplog.text and str(then / "base") in caplog.text
    shutil.rmtree(now / "base")
    outcome = mamoe("export", now / "runs/a/b", tmp_path / "out")
    assert outcome.code == 2 and "--base" in outcome.err and str(then / "base") in outcome.err
    outcome = mamoe("export", now / "runs/a/b", tmp_path / "out", "--base", tmp_path / "elsewhere")
    assert outcome.code == 0, outcome.err
    assert base_of(config_of(f"model.init_from={now / 'runs/a/b'}", f"model.path={tmp_path / 'elsewhere'}")).unet
    for command in ("sample", "evaluate"):
        words = ["--panoptic", tmp_path, "--out", tmp_path / "p"] if command == "sample" else []
        outcome = mamoe(command, tmp_path / "elsewhere", *words, "--base", base_model)
        assert outcome.code == 2 and "no run" in outcome.err


def test_data_that_moved_with_the_run_is_found_from_it(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    run = Path("demo/runs/one")
    run.mkdir(parents=True)
    Path("demo/data/images").mkdir(parents=True)
    Path("demo/data/prompts_train.csv").write_text("")
    (run / "dataset.json").write_text(json.dumps(place_now(run)))
    plain = {"data": {"images": "demo/data/images", "prompts": "demo/data/prompts_{split}.csv", "condition": "edges"}}
    plain |= {"model": {"path": "package:tiny"}, "seed": 0}
    assert relocated(plain, Home.of(run)) == plain
    monkeypatch.chdir("/")
    there = relocated(plain, Home.of(tmp_path / run))
    assert there["data"]["images"] == str(tmp_path / "demo/data/images")
    (tmp_path / "demo").rename(tmp_path / "moved")
    with caplog.at_level(logging.WARNING):
        there = relocated(plain, Home.of(tmp_path / "moved/runs/one"))
    assert there["data"] == {
        "images": str(tmp_path / "moved/data/images"),
        "prompts": str(tmp_path / "moved/data/prompts_{split}.csv"),
        "condition": "edges",
    }
    assert there["model"] == plain["model"] and "data.images" in caplog.text
    assert relocated(plain, Home(now=tmp_path)) == plain  # a run of an earlier version


def test_a_run_is_evaluated_on_data_that_moved(finished_run, scenes, base_model, tmp_path):
    run, data = tmp_path / "moved" / "run", tmp_path / "elsewhere"
    shutil.copytree(finished_run, run, symlinks=True)
    shutil.copytree(scenes, data)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(scenes), str(tmp_path / "gone")))
    words = ["--extractor", "pixels", "--scores", "kid", "--modes", "cond", "--steps", "1", "--images", "2"]
    outcome = mamoe("evaluate", run, *words)
    assert outcome.code == 3 and "--data" in outcome.err and str(tmp_path / "gone") in outcome.err
    outcome = mamoe("evaluate", run, *words, "--data", data, "--base", base_model)
    assert outcome.code == 0, outcome.err
    assert (run / "eval/test/step-00000004/table.md").exists()


def test_a_run_starts_from_another_and_outlives_it(mamoe_run, base_model, scenes, tmp_path):
    mamoe_run = shutil.copytree(mamoe_run, tmp_path / "first", symlinks=True)
    words = [word for word in short_run(base_model, scenes, tmp_path) if not word.startswith("model.path=")]
    words += ["callbacks.samples=null", "callbacks.validation=null", "trainer.max_steps=1"]
    outcome = mamoe("train", *words, f"model.init_from={mamoe_run}", "layout.grouping=streets")
    assert outcome.code == 0 and "Starting from the averaged weights of" in outcome.out, outcome
    (run,) = (path for path in (tmp_path / "demo").iterdir() if not path.is_symlink())
    assert str(find_checkpoint(mamoe_run)) in (run / "overrides.txt").read_text()
    assert json.loads((run / "dataset.json").read_text())["run"] == str(run.resolve())
    shutil.rmtree(mamoe_run)
    LayoutPipeline.from_pretrained(run)
    outcome = mamoe("train", f"resume={run}", "trainer.max_steps=2")
    assert outcome.code == 0, outcome
