"""Going on, bases and commands as an impatient user tries them."""

import shutil
from dataclasses import replace

import pytest

from factories import mamoe
from mamoe.assemble.base import steered_unet
from mamoe.assemble.data import layout_settings
from mamoe.assemble.origin import notes_on
from mamoe.assemble.unused import settings_without_effect
from mamoe.bases.parts import Trained
from mamoe.bases.pretrained import load_base
from mamoe.config.compose import compose
from mamoe.config.resuming import changed_on_resume
from mamoe.config.train import validated
from mamoe.errors import ConfigError
from mamoe.runs.recipe import Recipe, Terms
from mamoe.runs.source import Source
from mamoe.sampling.pipeline import LayoutPipeline


def test_what_only_a_run_has_is_refused_elsewhere(base_model, scenes, tmp_path):
    """It was dropped: by diffusers with a line in the log, by the commands without one."""
    for option in ({"checkpoint": "best"}, {"base": "x"}, {"ema": False}):
        with pytest.raises(ConfigError, match=f"is no run.* Leave out {next(iter(option))}"):
            LayoutPipeline.from_pretrained(base_model, **option)
    assert LayoutPipeline.from_pretrained(base_model, checkpoint="latest", ema=True, base=None).settings is None
    maps = ("--panoptic", scenes / "panoptic/test", "--out", tmp_path / "out")
    for words in (
        ["sample", base_model, *maps, "--checkpoint", "best"],
        ["export", base_model, tmp_path / "e", "--base", "x"],
    ):
        outcome = mamoe(*words)
        assert outcome.code == 2 and "is no run" in outcome.err, outcome.err
    assert not (tmp_path / "e").exists()


def test_pictures_that_are_there_have_no_checkpoint(scenes):
    words = ["evaluate", scenes / "images/test", "--against", scenes / "images/val", "--device", "cpu"]
    for option in ("--checkpoint", "--base"):
        outcome = mamoe(*words, option, "best")
        assert outcome.code == 2 and f"leave {option} out" in outcome.err


def test_a_base_that_is_nowhere_is_not_looked_for_on_the_hub(finished_run, tmp_path):
    for path in (tmp_path / "gone", "./gone", "runs/demo/gone"):
        with pytest.raises(ConfigError, match=r"There is no folder or file .*gone; wanted a base model"):
            load_base(str(path))
    outcome = mamoe("export", finished_run, tmp_path / "out", "--base", tmp_path / "gone")
    assert outcome.code == 2 and "There is no folder or file" in outcome.err and "http" not in outcome.err


def test_data_that_moved_away_from_a_run(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run", symlinks=True)
    outcome = mamoe("train", f"resume={run}", f"data.root={tmp_path / 'gone'}", "trainer.max_steps=5")
    assert outcome.code == 3 and "if the data set has moved: data.root=FOLDER" in outcome.err


@pytest.fixture
def plain(scenes) -> dict:
    return compose(["data=scenes", f"data.root={scenes}", "model=tiny", "layout.global_prompt=true"])


@pytest.mark.parametrize(("section", "key", "what"), [("data", "root", "pictures"), ("model", "path", "base model")])
def test_what_an_old_checkpoint_cannot_tell_is_said(plain, section, key, what):
    changes = changed_on_resume(plain, {**plain, section: {**plain[section], key: "elsewhere"}})
    old = Recipe(base=Source(path="a/base"), scheduler={}, terms=Terms(layout=layout_settings(validated(plain))))
    (said,) = [line for line in notes_on(changes, old) if "not compared" in line]
    assert what in said and f"({section}.{key})" in said
    whole = replace(old, terms=replace(old.terms, data={}), weights={})
    assert [line for line in notes_on(changes, whole) if "not compared" in line] == []
    assert len(notes_on(changed_on_resume(plain, {**plain, "ema_decay": 0.5}), old)) == 1


def test_an_adapter_and_other_experts_are_both_named(base_model, plain):
    """The message was about shapes of weights."""
    was = validated({**plain, "layout": {**plain["layout"], "moe": False}})
    trained = Trained(layout=layout_settings(was).to_dict(), method=was.method.model_dump())
    base = replace(load_base(str(base_model)), trained=trained)
    now = validated(plain)
    steered_unet(now, base, layout_settings(now))  # no adapter: experts start from these weights
    with pytest.raises(ConfigError, match=r"none \(layout.moe=false\).*asks for 2 experts.*mamoe export"):
        steered_unet(now, replace(base, adapter=base_model), layout_settings(now))


def test_more_that_has_no_effect_is_said(plain, base_model):
    unread = {**plain, "layout": {**plain["layout"], "region_attention": False}}
    assert settings_without_effect(validated(unread), unread)[-1].startswith("The instance prompts are not trained on")
    here = {**plain, "model": {**plain["model"], "path": str(base_model), "revision": "abc"}}
    assert settings_without_effect(validated(here), here)[0].startswith("model.revision=abc has no effect")
    hub = {**here, "model": {**here["model"], "path": "owner/name"}}
    assert settings_without_effect(validated(hub), hub) == []
