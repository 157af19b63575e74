"""A user's own YAML, without a line of code, and what a `_target_` in it may name."""

import re
from pathlib import Path

import pytest
from composing import composed, refusal, write
from composing import elsewhere as elsewhere

from mamoe.commands.train import launch_sweep
from mamoe.config.compose import compose
from mamoe.config.targets import ALLOWED, instantiate
from mamoe.errors import ConfigError

# A user's own YAML, without a line of code.

TAXONOMY = """
name: yard
void_id: 2
classes:
  - {id: 0, name: ground, thing: false, prompt: bare ground, colour: [10, 20, 30]}
  - {id: 1, name: hen, thing: true, prompt: a hen, colour: [200, 20, 30]}
groupings:
  birds: {hens: [hen]}
"""
DATA = """
defaults:
  - folder
  - override /taxonomy@_global_.taxonomy: yard
  - _self_
root: yard
size: [64, 64]
"""
EXPERIMENT = """
# @package _global_
defaults:
  - override /data: yard
name: hens
layout:
  grouping: birds
"""


def own_yaml(folder: Path) -> Path:
    write(folder / "taxonomy/yard.yaml", TAXONOMY)
    write(folder / "data/yard.yaml", DATA)
    write(folder / "experiment/hens.yaml", EXPERIMENT.lstrip())
    return folder


@pytest.mark.parametrize("named", [False, True])
def test_own_folder_adds_data_taxonomy_and_experiment(tmp_path, named):
    from mamoe.assemble.data import layout_settings  # imports torch

    folder = own_yaml(tmp_path / ("anderswo (für Hühner)" if named else "configs"))
    config = composed("experiment=hens", config_dirs=[folder] if named else [])
    assert config.name == "hens" and config.data.images == "yard/images"
    assert layout_settings(config).experts.names == ("rest", "hens")


def test_own_options_are_among_the_known_ones(tmp_path):
    own_yaml(tmp_path / "configs")
    assert "did you mean data=yard?" in refusal("data=yrad")


def test_options_of_a_named_folder_are_among_the_known_ones(tmp_path):
    folder = own_yaml(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="did you mean data=yard"):
        compose(["data=yrad"], [folder])


def test_an_own_file_does_not_replace_a_shipped_one(tmp_path):
    write(tmp_path / "configs/optimizer/sgd.yaml", "_target_: torch.optim.SGD\nlr: 0.1\n")
    assert composed("optimizer=sgd").optimizer == {"_target_": "torch.optim.SGD", "lr": 0.1}
    write(tmp_path / "configs/optimizer/adam.yaml", "_target_: torch.optim.SGD\nlr: 0.1\n")
    assert composed("optimizer=adam").optimizer["_target_"].endswith("make_adam")


# What `_target_` may name.


@pytest.mark.parametrize("where", sorted(ALLOWED))
@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "eval",
        "subprocess.run",
        "torch.hub.load",
        "torch.load",
        "torch.optim.os.system",
        "torch.optim.lr_scheduler.types.FunctionType",
        "torch.optim.lr_scheduler.warnings.warn",
        "torch.optim.lr_scheduler.Counter",
        "torch.optim._functional.adam",
        "torch.optim.Adam.__init__",
        "lightning.pytorch.loggers.os.system",
        "lightning.pytorch.callbacks.subprocess.run",
        "lightning.pytorch.trainer.Trainer",
        "torchvision.transforms.v2.functional.os.system",
        "mamoe.training.optim.math.cos",
        "mamoe.cli.main",
        "",
        None,
        ["torch.optim.Adam"],
    ],
)
def test_targets_elsewhere_are_refused_by_name(where, target, monkeypatch):
    called = []
    monkeypatch.setattr("os.system", called.append)
    with pytest.raises(ConfigError, match=re.escape(f"{where}: ")) as caught:
        instantiate({"_target_": target, "command": "true"}, where)
    assert str(target) in str(caught.value)
    assert not called


def test_targets_that_are_allowed():
    import torch

    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = instantiate({"_target_": "torch.optim.SGD", "lr": 0.5}, "optimizer", [weight])
    assert type(optimizer) is torch.optim.SGD and optimizer.defaults["lr"] == 0.5
    schedule = instantiate({"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 2}, "lr_scheduler", optimizer)
    assert type(schedule) is torch.optim.lr_scheduler.StepLR
    blur = instantiate({"_target_": "torchvision.transforms.v2.GaussianBlur", "kernel_size": 3}, "data.transforms")
    assert type(blur).__name__ == "GaussianBlur"


def test_arguments_that_do_not_fit_are_explained():
    with pytest.raises(ConfigError, match=r"optimizer: torch.optim.SGD does not take these arguments: .*speed"):
        instantiate({"_target_": "torch.optim.SGD", "speed": 1}, "optimizer", [])
    with pytest.raises(ConfigError, match=r"there is no torch.optim.Adamm"):
        instantiate({"_target_": "torch.optim.Adamm"}, "optimizer", [])


def test_a_launcher_that_is_not_installed_is_refused_with_its_extra(monkeypatch):
    monkeypatch.setattr("mamoe.commands.train.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"hydra/launcher=submitit_slurm .*pip install 'mamoe\[submitit\]'"):
        launch_sweep(["hydra/launcher=submitit_slurm", "seed=1,2"])
