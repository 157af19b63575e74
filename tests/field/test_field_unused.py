"""Settings that change nothing beside others, and those that leave nothing to learn from."""

import copy

import pytest

from factories import mamoe, only_run, short_run
from mamoe.assemble.unused import settings_without_effect
from mamoe.config.compose import compose
from mamoe.config.train import recorded, validated
from mamoe.errors import ConfigError


@pytest.fixture(scope="module")
def composed():
    default = compose([])

    def build(**changes):
        """The default configuration with some keys changed: ``layout__moe=False``."""
        plain = copy.deepcopy(default)
        for key, value in changes.items():
            section, name = key.split("__")
            plain[section][name] = value
        return plain

    return build


def test_a_training_on_no_text_at_all_is_refused(composed):
    keys = ("layout__global_prompt", "layout__region_attention", "layout__moe")
    nothing = dict.fromkeys(keys, False)
    with pytest.raises(ConfigError, match=r"layout\.global_prompt=true.*layout\.region_attention=true"):
        validated(composed(**nothing))
    for key in keys:
        validated(composed(**nothing | {key: True}))
    shown = composed(**nothing, data__condition="classes")
    validated({**shown, "method": {"name": "controlnet_xs", "widths": None, "train_base": False}})
    recorded(composed(**nothing))  # such a run may be there, and is evaluated


UNREAD = "The instance prompts are not trained on: layout.region_attention=false"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, []),
        ({"layout__pool_threshold": 0.2}, ["layout.pool_threshold=0.2 has no effect: layout.region_resize=area"]),
        ({"layout__pool_threshold": 0.2, "layout__region_resize": "avg_pool"}, []),
        ({"layout__moe": False, "layout__grouping": "per_class"}, ["layout.grouping=per_class has no effect"]),
        (
            {"layout__region_attention": False, "layout__policy": "things"},
            ["layout.policy=things has no effect", UNREAD],
        ),
        (
            {"layout__region_attention": False, "layout__dataset_prompt": "rain"},
            ["layout.dataset_prompt=rain has no", UNREAD],
        ),
        ({"objective__logit_mean": 1}, ["objective.logit_mean=1 has no effect: objective.timesteps=uniform"]),
        ({"trainer__max_steps": 3, "trainer__max_epochs": 7}, ["trainer.max_epochs=7 has no effect"]),
        ({"trainer__overfit_images": 3, "trainer__limit_val_images": 7}, ["trainer.limit_val_images=7 has no effect"]),
        (
            {"layout__region_attention": False, "layout__blocks": [0]},
            ["layout.blocks=[0] has no effect: layout.region_attention=false", UNREAD],
        ),
        ({"layout__blocks": [0]}, []),
        ({"layout__global_prompt": False}, ["The captions are not trained on"]),
    ],
    ids=str,
)
def test_settings_without_effect_are_said(composed, monkeypatch, changes, says):
    monkeypatch.setattr("mamoe.assemble.unused.compose", lambda overrides: composed())
    plain = composed(**changes)
    got = settings_without_effect(validated(plain), plain)
    assert len(got) == len(says) and all(line.startswith(start) for line, start in zip(got, says, strict=True))


def test_a_training_says_them_and_what_the_machine_lacks(base_model, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("mamoe.prepare.doctor.needs._most_open_files", lambda: 64)
    words = short_run(base_model, scenes, tmp_path / "runs")
    outcome = mamoe("train", *words, "trainer.max_steps=1", "layout.pool_threshold=0.2", "callbacks=none")
    assert outcome.code == 0, outcome.err
    log = (only_run(tmp_path / "runs") / "log.txt").read_text()
    for said in (outcome.out, log):
        assert "Note: The captions are not trained on: layout.global_prompt=false." in said
        assert "Note: layout.pool_threshold=0.2 has no effect" in said
        assert "Note: Only 64 files may be open at once" in said and "ulimit -n 4096`." in said


def test_a_branch_over_a_stock_unet_sees_padding(composed):
    """It took no mask, and the first step ended in a TypeError."""
    stock = composed(layout__region_attention=False, layout__moe=False, data__condition="classes")
    method = {"name": "controlnet_xs", "widths": None, "train_base": False}
    validated({**stock, "method": method})
    stock["layout"]["global_padding"] = False
    with pytest.raises(ConfigError, match=r"set layout\.global_padding=true"):
        validated({**stock, "method": method})


@pytest.mark.parametrize("option", ["--base=x", "--checkpoint=latest", "--modes=cfg", "--steps=9", "--batch-size=1"])
def test_what_only_a_run_can_be_told_is_refused_for_pictures(tmp_path, option):
    outcome = mamoe("evaluate", str(tmp_path), option, f"--against={tmp_path}")
    assert outcome.code == 2
    assert f"leave {option.partition('=')[0]} out" in outcome.err.replace("\n", " ")
