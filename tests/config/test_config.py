"""Composition and validation of the configuration, and what a user's own YAML may do. Nothing here loads a model."""

from dataclasses import fields

import pytest
import yaml
from composing import BESIDES, CHOICES, GROUPS, ROOTED, composed, options, refusal, write
from composing import elsewhere as elsewhere

from mamoe.config.compose import SHIPPED, compose, setting
from mamoe.config.train import seconds_of, validated
from mamoe.errors import ConfigError
from mamoe.vocabulary.layout import LayoutSettings

# What ships.


@pytest.mark.parametrize("choice", CHOICES)
def test_every_shipped_option_is_valid_and_takes_effect(choice):
    config = composed(choice, *ROOTED, *BESIDES.get(choice, []))
    group, _, option = choice.partition("=")
    chosen = yaml.safe_load((SHIPPED / group / f"{option}.yaml").read_text())
    everywhere = "_global_" in (SHIPPED / group / f"{option}.yaml").read_text()[:30]
    section = config.model_dump() if everywhere else config.model_dump()[group]
    for key, value in chosen.items():
        if isinstance(value, str | int | float) and "${" not in str(value) and value != "auto" and key != "root":
            assert section[key] == value, key


@pytest.mark.parametrize("experiment", options("experiment"))
@pytest.mark.parametrize("debug", options("debug"))
def test_every_experiment_can_be_debugged(experiment, debug):
    config = composed(f"experiment={experiment}", f"debug={debug}")
    assert config.name == "debug"
    assert (config.trainer.max_steps or 0) <= 200


def test_every_group_of_the_command_line_has_options():
    folders = {path.name for path in SHIPPED.iterdir() if path.is_dir()}
    assert folders == {*GROUPS, "taxonomy", "hydra", "benchmark"}
    assert all(options(group) for group in folders)


@pytest.mark.parametrize(("data", "classes"), [("scenes", 19), ("cityscapes", 19), ("camvid", 11)])
def test_data_brings_its_taxonomy(data, classes):
    assert len(composed(f"data={data}", *ROOTED).taxonomy["classes"]) == classes


def test_defaults_stand_in_yaml_and_overrides_win():
    plain = compose([])
    assert yaml.safe_load((SHIPPED / "train.yaml").read_text())["ema_decay"] == plain["ema_decay"] == 0.999
    config = composed("ema_decay=null", "optimizer.lr=3e-4", "data.size=64", "layout.grouping={fast: [car, bus]}")
    assert config.ema_decay is None and config.data.size == 64
    assert config.optimizer["lr"] == 3e-4
    assert config.layout.grouping == {"fast": ["car", "bus"]}


def test_a_named_option_stands_above_the_experiment():
    config = composed(
        "experiment=demo", "callbacks=none", "trainer=gpu", "optimizer=adam", "optimizer.weight_decay=0.5"
    )
    callbacks = config.callbacks
    assert (callbacks.validation, callbacks.samples, callbacks.checkpoints.every) == (None, None, None)
    assert (config.trainer.accelerator, config.trainer.precision) == ("gpu", "bf16-mixed")
    # What the option does not speak of is still the experiment's, and a single key stands above both.
    assert (config.trainer.max_steps, config.optimizer["lr"]) == (600, 8e-4)
    assert config.optimizer["name"] == "adam" and config.optimizer["weight_decay"] == 0.5
    partly = composed("callbacks=none", "callbacks.checkpoints.every=7", "experiment=demo").callbacks
    assert (partly.samples, partly.checkpoints.every) == (None, 7)
    assert composed("experiment=demo", "trainer=gpu", "trainer.precision=32-true").trainer.precision == "32-true"


@pytest.mark.parametrize("value", ["a b", "it's", "x,y=[1]", "back\\slash\\", "ü{}", "$home"])
def test_any_path_can_be_a_setting(value):
    assert composed(setting("runs", value)).runs == value


@pytest.mark.parametrize("value", ["données/straße", "pictures (1)", "it's", "a#b", "x=y", "#1, #2"])
def test_a_path_may_be_typed_as_it_is(value):
    assert composed(f"data.root={value}").data.images == f"{value}/images"


def test_the_home_folder_may_be_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ü")
    assert composed("data.root=~/streets").data.images == "/home/ü/streets/images"


def test_settings_that_cannot_be_read_are_all_named():
    message = refusal("speed", "data.size=[1,2", "layout.grouping={a: [car}", "data.root='é")
    for word in ("'speed': settings are written key=value", "data.size=[1,2", "{a: [car}", "close what is opened"):
        assert word in message


@pytest.mark.parametrize(
    ("words", "seconds"),
    [("11:45:00", 42300), ("1-00:00:05", 86405), ("90", 90), ("00:30", None), ("soon", None), ("0", None)],
)
def test_time_limits(words, seconds):
    if seconds is None:
        assert "max_time must be [days-]hours:minutes:seconds" in refusal(f"trainer.max_time={words}")
    else:
        assert seconds_of(composed(f"trainer.max_time={words}").trainer.max_time) == seconds


def test_paths_follow_the_root():
    data = composed("data.root=/there").data
    assert (data.images, data.prompts) == ("/there/images", "/there/prompts_{split}.csv")


def test_the_layout_of_the_configuration_is_that_of_the_code():
    plain = compose([])
    stated = plain["layout"] | plain["regions"]
    known = {f.name: f.default for f in fields(LayoutSettings) if f.name != "taxonomy"}
    assert known == {key: value for key, value in stated.items() if key not in ("moe_levels", "blocks")}


# What a user gets wrong.


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("trainer.max_step=3", "trainer.max_steps"),
        ("optimzer.lr=1", "optimizer.lr"),
        ("data.bach_size=3", "data.batch_size"),
        ("emadecay=0.5", "ema_decay"),
        ("layout.moe_level=[0]", "layout.moe_levels"),
        ("experiment=dmeo", "experiment=demo"),
        ("data=scene", "data=scenes"),
        ("model=sd2.1", "model=sd21"),
        ("debug=overfti", "debug=overfit"),
        ("exprience=demo", "experiment"),
    ],
)
def test_misspelt_words_are_answered_with_the_nearest_one(wrong, meant):
    assert f"did you mean {meant}?" in refusal(wrong)


@pytest.mark.parametrize("override", ["+trainer.max_step=3", "+callbacks.samples.evry=3", "+model.pth=a"])
def test_added_keys_are_checked_too(override):
    section, _, key = override.lstrip("+").partition("=")[0].rpartition(".")
    message = refusal(override)
    assert f"{section}.{key}: no such key; did you mean" in message


def test_unknown_option_lists_those_there_are():
    assert refusal("data=photographs").endswith("There are: " + ", ".join(options("data")) + ".")


def test_all_problems_come_at_once():
    message = refusal(
        "data.batch_size=0", "trainer.precision=16", "ema_decay=2", "layout.moe=perhaps", "+trainer.max_stepz=1"
    )
    wanted = ("data.batch_size", "trainer.precision", "ema_decay", "layout.moe", "trainer.max_stepz")
    assert all(f"  {key}: " in message for key in wanted), message
    assert len(message.splitlines()) == 1 + len(wanted)
    assert "got 0" in message and "got 'perhaps'" in message


def test_a_cache_of_pictures_that_change_is_refused_with_every_reason():
    transform = "data.transforms=[{_target_: torchvision.transforms.v2.A}]"
    message = refusal("cache.latents=true", "data.crop=random", transform)
    assert "data.crop=random shows another part" in message and "data.transforms change a picture" in message
    assert composed("cache.latents=true", "data.crop=center").cache.folder == "runs/cache"
    assert composed("runs=there").cache.folder == "there/cache"


def test_sharding_is_for_what_can_be_dealt_out():
    fitting = ["trainer.strategy=fsdp", "model.channels_last=false"]
    assert composed(*fitting, "trainer.precision=bf16-mixed").trainer.strategy == "fsdp"
    named = ["model.train_text_encoder=true", "trainer.precision=16-mixed"]
    message = refusal(*fitting, *named, "method=lora", "optimizer=muon")
    assert all(word in message for word in [*named, "method=lora", "optimizer._target_=mamoe.training.optim.make_muon"])
    assert "model.channels_last=true" in refusal("trainer.strategy=fsdp", "model.channels_last=true")


def test_buckets_and_crops_exclude_each_other():
    assert "data: buckets=true squeezes" in refusal("data.buckets=true", "data.crop=center")
    assert composed("data.buckets=true", "data.size=512").data.buckets


@pytest.mark.parametrize(
    "override",
    [
        "callbacks.checkpoints.keep_last=1",
        "data.flip=1.5",
        "data.crop=left",
        "seed=-1",
        "name=a/b",
        "objective.prediction=noise",
        "trainer.max_epochs=null",
        "trainer.gradient_clip_val=0",
        "callbacks.samples.modes=[cold]",
        "objective.timesteps=often",
        "objective.logit_std=0",
        "lr_factors.experts=0",
        "trainer.profiler=fancy",
        "trainer.preemption_signal=SIGKILL",
        "callbacks.checkpoints.best={metric: val/loss, mode: most}",
    ],
)
def test_values_out_of_range(override):
    assert f"  {override.partition('=')[0].removesuffix('.max_epochs')}" in refusal(override)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["callbacks.early_stopping={metric: val/loss, mode: min, patience: 0}"], "callbacks.early_stopping.patience"),
        (["callbacks.early_stopping={metric: val/loss, patience: 2}"], "callbacks.early_stopping.mode: is missing"),
        (
            ["callbacks.early_stopping={metric: val/loss, mode: min, patience: 2}", "callbacks.validation=null"],
            "which callbacks.validation measures: it is null",
        ),
        (
            ["callbacks.early_stopping={metric: val/KD-pixels, mode: min, patience: 2}"],
            "which callbacks.scores would measure: it is null",
        ),
        (["evaluate_after={mode: [cfg]}"], "evaluate_after.mode: no such key; did you mean modes?"),
        (["evaluate_after={checkpoint: best}", "callbacks.checkpoints.best=null"], "there will be none"),
    ],
)
def test_endings_that_cannot_be(words, why):
    with pytest.raises(ConfigError) as caught:
        composed(*words)
    assert why in str(caught.value)


@pytest.mark.parametrize(("word", "modes"), [("true", 3), ("{}", 3), ("{modes: [cfg]}", 1), ("false", 0), ("null", 0)])
def test_evaluation_afterwards_can_be_switched_on(word, modes):
    after = composed(f"evaluate_after={word}").evaluate_after
    assert (0 if after is None else len(after.modes)) == modes


@pytest.mark.parametrize("method", ["lora_experts", "shared_expert"])
def test_a_method_of_having_experts_needs_experts(method):
    said = refusal(f"method={method}", "layout.moe=false", *ROOTED)
    assert f"method={method} needs layout.moe=true: it is a way of having experts" in said


@pytest.mark.parametrize(
    "override", ["trainer.max_steps=", "data.size=[1", "=3", "{", "a b=c", "~", "~data", "data", "--help-me"]
)
def test_nonsense_is_a_clear_error(override):
    message = refusal(override)
    assert message and "Traceback" not in message
    if override == "trainer.max_steps=":
        assert "trainer.max_steps" in message


def test_keys_of_a_kind_of_loss_are_checked_by_their_own_names():
    assert "loss.powr: no such key; did you mean power?" in refusal("loss=masked_mse", "+loss.powr=1")
    assert "loss.power: " in refusal("loss=masked_mse", "loss.power=2")
    assert "masked_mse" in refusal("loss.name=masked")  # lists the kinds there are


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.lr=0", "optimizer.lr: Input should be greater than 0; got 0"),
        ("optimizer.betas=[0.9,1]", "optimizer.betas: Input should be less than 1"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay: "),
        ("optimizer.name=sgd", "optimizer.name: Input should be 'adam' or 'adamw'"),
        ("+optimizer.wieght_decay=1", "takes no wieght_decay; did you mean weight_decay"),
        ("optimizer._target_=mamoe.training.optim.make_adm", "optimizer._target_: names no optimizer; did you mean"),
        ("optimizer._target_=torch.optim.SGD", "optimizer.betas: torch.optim.SGD takes no betas; there are lr,"),
        ("lr_scheduler.warmup_steps=-1", "lr_scheduler.warmup_steps: "),
        ("lr_scheduler.warmup_steps=0.5", "lr_scheduler.warmup_steps: "),
        ("lr_scheduler._target_=torch.optim.lr_scheduler.StepLR", "lr_scheduler.step_size: torch.optim.lr_schedul"),
        ("lr_scheduler._target_=mamoe.training.optim.make_adam", "lr_scheduler._target_: names no lr_scheduler; "),
        ("data.transforms=[{_target_: os.system}]", "data.transforms.0._target_: must name something below"),
    ],
)
def test_arguments_are_checked_against_the_signature_of_their_target(override, said):
    assert said in refusal(override)


def test_arguments_that_fit_are_taken_as_they_are():
    plain = compose([])
    adafactor = {"_target_": "torch.optim.Adafactor", "lr": 1, "eps": [None, 0.1]}
    cycle = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": [0.1], "total_steps": 5}
    config = validated({**plain, "optimizer": adafactor, "lr_scheduler": cycle})
    assert (config.optimizer, config.lr_scheduler) == (adafactor, cycle)


def test_schedule_free_stands_alone():
    message = refusal("optimizer=schedule_free")
    assert "lr_scheduler=constant" in message and "ema_decay=null" in message and len(message.splitlines()) == 2
    assert "set ema_decay=null" in refusal("optimizer=schedule_free", "lr_scheduler=constant")


def test_condition_pictures_are_shown_to_the_methods_that_look_at_them():
    assert composed("method=concat", "data.condition=edges").data.condition == "edges"
    assert composed("method=controlnet_xs", "data.condition=some/folder").method.widths is None
    for method in ("concat", "controlnet_xs"):
        assert f"method={method} is shown a condition picture: set data.condition=" in refusal(f"method={method}")
    assert "method=full would not look at it" in refusal("data.condition=classes")
    assert "method.widths.1: " in refusal("method=controlnet_xs", "data.condition=edges", "method.widths=[4,0]")


def test_strength_asks_for_regions():
    assert composed("regions.strength=soft").regions.strength == "soft"
    message = refusal("regions.strength=soft", "layout.region_resize=nearest")
    assert "regions.strength=soft weighs regions by area share" in message and "image" not in message
    assert "needs layout.region_attention=true" in refusal("regions.strength=learned", "layout.region_attention=false")
    assert "regions.strength: " in refusal("regions.strength=firm") and "'hard'" in refusal("regions.strength=firm")


def test_a_root_that_must_be_given():
    assert refusal("data=folder") == "data.root must be given: data.root=…"


def test_missing_config_dir(tmp_path):
    with pytest.raises(ConfigError, match=r"--config-dir: there is no folder .*nowhere"):
        compose([], [tmp_path / "nowhere"])


def test_broken_yaml_is_named(tmp_path):
    write(tmp_path / "configs/data/mine.yaml", "root: [1,\n")
    message = refusal("data=mine")
    assert "configs/data/mine.yaml" in message and "line 2" in message and "\n" not in message
