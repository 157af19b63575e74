"""Names that lead elsewhere or hold what no name should; run folders in which there is nothing to draw with yet."""

import shutil

import pytest
from odd_folders import indexed, make_set

from factories import mamoe
from mamoe.config.compose import compose
from mamoe.config.train import validated
from mamoe.errors import ConfigError
from mamoe.scenes import Domain, write_scenes

# Runs without checkpoints.

COMMANDS = {
    "evaluate": ["evaluate", "RUN"],
    "sample": ["sample", "RUN", "--panoptic", "maps", "--out", "out"],
    "export": ["export", "RUN", "out"],
    "lora": ["export", "RUN", "out", "--format", "kohya"],
    "synthesize": ["synthesize", "RUN", "--data", "data", "--out", "out"],
    "app": ["app", "RUN"],
    "check": ["check", "--model", "RUN"],
    "train": ["train", "experiment=demo", "model.path=RUN"],
    "init_from": ["train", "experiment=demo", "model.init_from=RUN"],
}


@pytest.fixture
def begun(tmp_path):
    """The folder of a run that ended before its first checkpoint."""
    (tmp_path / "begun").mkdir()
    for name in ("config.yaml", "overrides.txt", "log.txt"):
        (tmp_path / "begun" / name).touch()
    return tmp_path / "begun"


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_run_without_checkpoints_is_said_to_have_none(begun, words, monkeypatch):
    monkeypatch.chdir(begun.parent)
    outcome = mamoe(*[word.replace("RUN", str(begun)) for word in words])
    assert outcome.code == 2 and "It has none yet" in outcome.err and str(begun) in outcome.err, outcome.err
    shutil.rmtree(begun)
    assert not list(begun.parent.iterdir())  # nothing was begun


def test_a_run_without_checkpoints_is_not_uploaded(begun):
    outcome = mamoe("push", begun, "me/it", "--dry-run")
    assert outcome.code == 2 and "is a run" in outcome.err


# Names of splits.

PATHS = ["../x", "a/b", "a\\b", "/etc", ".", "..", "", " ", "a\0b"]


@pytest.mark.parametrize("name", PATHS)
def test_a_split_is_a_name_and_no_path(tmp_path, name):
    make_set(tmp_path / "set", ["a.png"])
    with pytest.raises(ConfigError, match="A split is the name of one folder"):
        indexed(tmp_path / "set", split=name)
    with pytest.raises(ConfigError, match="A split is the name of one folder"):
        write_scenes(tmp_path / "new", domain=Domain.BROAD, counts={name: 1}, seed=0, height=8, width=8)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["train", "val_2", "my split", "2024.10", "..a", "Übung"])
def test_other_names_of_splits_are_taken(tmp_path, name):
    assert len(indexed(make_set(tmp_path, ["a.png"], split=name), split=name).samples) == 1


def test_a_split_of_a_command_and_of_the_configuration(tmp_path):
    data = make_set(tmp_path / "set", ["a.png"])
    words = ["--data", data, "--taxonomy", "cityscapes", "--split", "../train", "--size", "16", "32"]
    outcome = mamoe("evaluate", data / "images/train", *words)
    assert outcome.code == 2 and "A split is the name of one folder" in outcome.err, outcome.err
    plain = compose(["evaluate_after={split: '../x'}"], say=lambda text: None)
    with pytest.raises(ConfigError, match=r"evaluate_after\.split.*A split is the name of one folder"):
        validated(plain)
    outcome = mamoe("benchmark", "benchmark=tiny", "pictures.split=../x", "--dry-run")
    assert outcome.code == 2 and "A split is the name of one folder" in outcome.err, outcome.err
