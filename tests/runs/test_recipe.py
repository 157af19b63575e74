"""What a checkpoint says besides weights: it comes back, old ones keep their meaning, newer ones are refused."""

import json
from dataclasses import replace

import pytest

from mamoe.errors import ConfigError
from mamoe.runs.recipe import FORMAT, RECIPE, Recipe, Terms, read_recipe, write_recipe
from mamoe.runs.source import Source
from mamoe.training.loop.continuing import RecipeChanges, recipe_changes
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.taxonomy import Taxonomy

LAYOUT = LayoutSettings(taxonomy=Taxonomy.load("scenes"))
OLD = Recipe(base=Source(path="a/base"), scheduler={}, terms=Terms(layout=LAYOUT))


def test_a_recipe_of_a_newer_version_is_refused_by_name(tmp_path):
    (tmp_path / RECIPE).write_text(json.dumps({"format": FORMAT + 1, "mamoe": "9.1"}))
    with pytest.raises(ConfigError, match=rf"{tmp_path} was written by mamoe 9\.1.*update this one"):
        read_recipe(tmp_path)


def test_a_recipe_comes_back_as_it_was_written(tmp_path):
    whole = Recipe(
        base=Source(path="a/base", variant="fp16"),
        scheduler={"beta_schedule": "scaled_linear"},
        terms=Terms(
            layout=LAYOUT,
            condition="edges",
            data={"train": {}},
            loss={"name": "mse"},
            objective={},
            optimizer={"lr": 1e-3},
        ),
        weights={"vae": "a"},
        started_from="runs/other",
    )
    write_recipe(whole, tmp_path)
    assert read_recipe(tmp_path) == whole


def test_what_a_recipe_of_an_earlier_version_lacks_has_its_old_meaning(tmp_path):
    """The first version knew one method, no condition pictures, hard regions, and noted nothing to compare."""
    write_recipe(OLD, tmp_path)
    plain = json.loads((tmp_path / RECIPE).read_text())
    for key in ("format", "mamoe", "method", "condition", "started_from"):
        del plain[key]
    for key in ("strength", "encoder_padding"):
        del plain["layout"][key]
    for key in ("config", "tokenizer", "base"):
        del plain["base"][key]
    (tmp_path / RECIPE).write_text(json.dumps(plain))
    old = read_recipe(tmp_path)
    assert old == OLD
    assert (old.terms.method, old.terms.condition, old.terms.layout.strength) == ({"name": "full"}, None, "hard")
    now = replace(old, terms=replace(old.terms, loss={"name": "lpips"}, data={"train": {}}), weights={"vae": "x"})
    assert recipe_changes(old, now) == RecipeChanges(refused=(), notes=())
    shown = replace(old, terms=replace(old.terms, condition="classes", method={"name": "concat"}))
    assert [key for key, _ in recipe_changes(old, shown).refused] == ["data.condition", "method.name"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1]", "is no recipe: wanted a JSON object"),
        ("{", "Cannot read"),
        ('{"base": {"path": "x"}}', "lacks scheduler, layout"),
        ('{"base": {"paht": "x"}, "scheduler": {}, "layout": {}}', "unknown keys paht; known are path, revision"),
    ],
)
def test_a_recipe_that_is_none_is_refused(content, says, tmp_path):
    (tmp_path / RECIPE).write_text(content)
    with pytest.raises(ConfigError, match=says):
        read_recipe(tmp_path)
