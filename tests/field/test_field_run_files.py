"""Files of a run that somebody edited, or that a disk damaged."""

import json

import pytest

from mamoe.errors import ConfigError
from mamoe.runs.folder import OVERRIDES, read_overrides
from mamoe.runs.home import Home, relocated
from mamoe.runs.lookup import find_checkpoint
from mamoe.runs.manifest import MANIFEST, manifest_of, problems_of
from mamoe.runs.recipe import RECIPE, read_recipe


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "weights").write_text("weights")
    (tmp_path / MANIFEST).write_text(manifest_of(tmp_path, 4))
    assert problems_of(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize(
    "change",
    [{"files": None}, {"files": []}, {"files": {"weights": None}}, {"files": {"weights": {"bytes": 7}}}],
)
def test_a_manifest_that_lists_nothing_readable(folder, change):
    plain = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**plain, **change}))
    assert problems_of(folder) == [f"{folder / MANIFEST} cannot be read"]


def test_a_manifest_that_is_a_folder(folder):
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()
    assert problems_of(folder) == [f"{folder / MANIFEST} cannot be read"]


@pytest.mark.parametrize(
    "change",
    [{"format": None}, {"base": None}, {"base": [1]}, {"layout": None}, {"layout": {}}, {"layout": {"policy": 1}}],
)
def test_a_recipe_with_a_value_of_another_type(tmp_path, change):
    plain = {"format": 1, "base": {"path": "base"}, "scheduler": {}, "layout": {}}
    (tmp_path / RECIPE).write_text(json.dumps({**plain, **change}))
    with pytest.raises(ConfigError, match=r"was changed by hand, or is damaged.*Take another checkpoint"):
        read_recipe(tmp_path)


def test_overrides_that_an_editor_saved(tmp_path):
    (tmp_path / OVERRIDES).write_bytes(b"\xef\xbb\xbfdata=scenes\r\nseed=1\r\n")
    assert read_overrides(tmp_path) == ["data=scenes", "seed=1"]


@pytest.mark.parametrize("data", [True, "x", 1, ["a"]])
def test_a_section_that_is_none_is_left_to_the_schema(tmp_path, data):
    assert relocated({"data": data}, Home.of(tmp_path)) == {"data": data}


def test_digits_of_other_scripts_name_no_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="has no checkpoint"):
        find_checkpoint(tmp_path, "\u00b2")


def test_brackets_in_a_name_are_letters(tmp_path):
    run, files = tmp_path / "runs/a", tmp_path / "data"
    run.mkdir(parents=True)
    files.mkdir()
    (files / "prompts [v2]_train.csv").touch()
    home = Home(now=run, run=tmp_path / "elsewhere/runs/a", working_directory=tmp_path / "elsewhere")
    assert home.found("data/prompts [v2]_{split}.csv") == str(files / "prompts [v2]_{split}.csv")
