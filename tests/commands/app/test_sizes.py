"""Which segments are left at latent size, by the model's own rule."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mamoe.commands.app.sizes import sizes_of
from mamoe.conditioning.collate import collate_layouts
from mamoe.conditioning.masks import region_coverage, region_masks
from mamoe.conditioning.regions import build_layout
from mamoe.vocabulary.layout import LayoutSettings, RegionPolicy, RegionResize
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.taxonomy import Taxonomy

SETTINGS = LayoutSettings(taxonomy=Taxonomy.load("scenes"))
CAR, ROAD, VOID = 13, 0, 19


def a_map(*boxes: tuple[int, int, int, int, int, int], size=(32, 64)) -> PanopticMap:
    """Boxes of (segment, class, top, left, height, width) on void."""
    segment, klass = np.zeros(size, dtype=np.int32), np.full(size, VOID, dtype=np.uint8)
    for number, class_id, top, left, height, width in boxes:
        segment[top : top + height, left : left + width] = number
        klass[top : top + height, left : left + width] = class_id
    return PanopticMap(segment_id=segment, class_id=klass)


def test_area_in_cells_and_cells_held():
    found = sizes_of(
        a_map((3, CAR, 0, 0, 16, 16), (9, CAR, 16, 20, 8, 8), (11, ROAD, 31, 0, 1, 64), (12, CAR, 0, 60, 4, 4)),
        SETTINGS,
        8,
    )
    assert [(one.segment, one.class_id, one.pixels, one.cells, one.held) for one in found] == [
        (3, CAR, 256, 4.0, 4),
        (9, CAR, 64, 1.0, 0),  # half of one cell, half of the next: a share of exactly one half is no more than a half
        (11, ROAD, 64, 1.0, 0),  # a line through eight cells
        (12, CAR, 16, 0.25, 0),
    ]


def test_what_vanishes_depends_on_the_rule():
    thin = a_map((1, ROAD, 31, 0, 1, 64), (2, CAR, 1, 60, 4, 4), (3, CAR, 8, 8, 8, 8))
    vanishing = {
        rule: [one.vanishes for one in sizes_of(thin, replace(SETTINGS, region_resize=rule), 8)]
        for rule in RegionResize
    }
    assert vanishing == {
        RegionResize.AREA: [False, True, False],  # the line keeps every cell it touches, as the model is told
        RegionResize.AVG_POOL: [True, True, False],
        RegionResize.NEAREST: [True, False, False],  # (4, 60) decides for its cell, and is the car's
    }


def test_equal_prompts_are_told_apart_and_the_empty_map_has_none():
    assert [one.held for one in sizes_of(a_map((1, CAR, 0, 0, 8, 8), (2, CAR, 8, 8, 8, 8)), SETTINGS, 8)] == [1, 1]
    assert sizes_of(a_map(), SETTINGS, 8) == []


def test_what_has_no_prompt_of_its_own_cannot_lose_it():
    small = a_map((1, CAR, 0, 0, 2, 2), (2, ROAD, 8, 0, 2, 2))
    things = sizes_of(small, replace(SETTINGS, policy=RegionPolicy.THINGS), 8)
    assert [(one.own_prompt, one.vanishes) for one in things] == [(True, True), (False, False)]
    blind = sizes_of(small, replace(SETTINGS, region_attention=False), 8)
    assert not any(one.vanishes for one in blind)


def test_a_size_that_is_no_multiple_is_measured_too():
    (one,) = sizes_of(a_map((5, CAR, 0, 0, 30, 61), size=(30, 61)), SETTINGS, 8)
    assert (
        one.pixels == 30 * 61 and one.held == 4 * 8 - 1
    )  # 6 of 8 rows and 5 of 8 columns of the last cell are no half


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 31), st.integers(0, 63), st.integers(1, 20), st.integers(1, 20)),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([RegionResize.NEAREST, RegionResize.AVG_POOL]),
    st.sampled_from([0.0, 0.25, 0.5]),
)
def test_held_cells_are_those_of_the_mask_the_model_gets(boxes, rule, threshold):
    """Against the masks of the conditioning: under the rules that keep nothing for those that vanish they are equal."""
    panoptic = a_map(*((i, CAR, *box) for i, box in enumerate(boxes, start=1)))
    model = replace(SETTINGS, region_resize=rule, pool_threshold=threshold)
    prompts = RegionPrompts(by_segment={segment: f"car {segment}" for segment in panoptic.classes})
    layout = build_layout(panoptic, prompts, model, 8)
    batch = collate_layouts([layout], model.num_experts)
    (mask,) = region_masks(region_coverage(batch), rule, threshold, 1)
    wanted = {name: int(torch.count_nonzero(mask[0, i])) for i, name in enumerate(layout.prompts)}
    for one in sizes_of(panoptic, model, 8):
        assert one.held == wanted[f"car {one.segment}"]


@pytest.mark.parametrize("factor", [4, 8])
def test_cells_are_those_of_the_autoencoder(factor):
    (one,) = sizes_of(a_map((1, CAR, 0, 0, 16, 16)), SETTINGS, factor)
    assert one.cells == one.held == (16 // factor) ** 2
