"""How pictures are drawn: what is refused, and that nobody states the defaults in numbers of his own."""

import inspect
import math
from pathlib import Path

import pytest
import yaml

import mamoe.config
from mamoe.config.benchmark import Pictures
from mamoe.config.train import EvaluateAfter, Samples, Scores
from mamoe.errors import ConfigError
from mamoe.sampling.folders import sample_folder
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.vocabulary.drawing import DRAWING, SAID, Drawing, Mode, mode_of, modes_of

GROUPS = Path(mamoe.config.__path__[0]) / "groups"


def test_a_mode_stands_for_a_guidance_scale_and_back():
    drawings = [Drawing(mode=mode, guidance_scale=3.0) for mode in Mode]
    assert [drawing.scale for drawing in drawings] == [1.0, 0.0, 3.0]
    assert [mode_of(drawing.scale) for drawing in drawings] == list(Mode)


def test_everything_wrong_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        Drawing(mode="fast", steps=0, guidance_scale=math.inf, batch_size=0)  # type: ignore[arg-type]
    for said in ("no mode fast; there are cond, uncond, cfg", "steps", "guidance_scale", "batch_size"):
        assert said in str(caught.value)
    with pytest.raises(ConfigError, match="guidance_scale"):
        Drawing(guidance_scale=math.nan)


def test_regions_bind_in_order_and_guidance_on_the_layout_is_guidance():
    said = Drawing(guidance_layout=2.0, regions_from=0.2, regions_until=0.2, rescale=0.5).said
    assert tuple(said) == SAID and said["regions_until"] == 0.2
    assert DRAWING.said == {} and mode_of(1.0, 2.0) is Mode.CFG
    for wrong in ({"regions_from": 0.6, "regions_until": 0.5}, {"regions_from": -0.1}, {"regions_until": math.nan}):
        with pytest.raises(ConfigError, match="regions_from and regions_until"):
            Drawing(**wrong)
    with pytest.raises(ConfigError, match="guidance_layout is for mode cfg, got cond"):
        Drawing(guidance_layout=2.0, mode=Mode.COND)


def test_names_become_modes_or_are_refused():
    assert modes_of(["cfg", "cond"]) == (Mode.CFG, Mode.COND)
    with pytest.raises(ConfigError, match="no mode fast, quick; there are cond, uncond, cfg"):
        modes_of(["fast", "cond", "quick"])
    with pytest.raises(ConfigError, match="none given"):
        modes_of([])


def test_functions_take_the_defaults_from_here():
    given = inspect.signature(LayoutPipeline.__call__).parameters
    assert given["num_inference_steps"].default == DRAWING.steps
    assert given["guidance_scale"].default == DRAWING.guidance_scale
    assert inspect.signature(sample_folder).parameters["drawing"].default == DRAWING


@pytest.mark.parametrize("section", [Samples, Scores, EvaluateAfter, Pictures])
def test_sections_take_the_defaults_from_here(section):
    fields = section.model_fields
    assert (fields["steps"].default, fields["guidance_scale"].default) == (DRAWING.steps, DRAWING.guidance_scale)


def test_the_groups_show_the_same_defaults():
    """They stand in YAML too, so that they can be set without a plus and seen in the file."""
    callbacks = yaml.safe_load((GROUPS / "callbacks/default.yaml").read_text(encoding="utf-8"))["samples"]
    pictures = yaml.safe_load((GROUPS / "benchmark.yaml").read_text(encoding="utf-8"))["pictures"]
    for shown in (callbacks, pictures):
        assert (shown["steps"], shown["guidance_scale"]) == (DRAWING.steps, DRAWING.guidance_scale)
    assert callbacks["modes"] == list(Mode) and pictures["mode"] == DRAWING.mode
