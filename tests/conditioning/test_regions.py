from collections import Counter

import numpy as np
import pytest

from mamoe.conditioning.regions import build_layout
from mamoe.errors import ConfigError
from mamoe.vocabulary.layout import RegionResize
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts

ROAD, CAR, PERSON, VOID = 0, 13, 11, 19


def halves(*classes: int, ids=None) -> PanopticMap:
    """Vertical stripes of 8 pixels, one per class, segment ids 1, 2, ... unless given."""
    ids = ids or range(1, len(classes) + 1)
    segment = np.repeat(np.array(list(ids), dtype=np.int32), 8)[None].repeat(8, axis=0)
    klass = np.repeat(np.array(classes, dtype=np.uint8), 8)[None].repeat(8, axis=0)
    return PanopticMap(segment_id=segment, class_id=klass)


def region_of_stripe(layout) -> list[int]:
    assert layout.cell.tolist() == list(range(layout.grid[1]))
    return layout.region.tolist()


def table(layout) -> Counter:
    rows = zip(layout.cell, layout.region, layout.expert, layout.count, strict=True)
    return Counter({(int(c), layout.prompts[int(r)], int(e)): int(n) for c, r, e, n in rows})


@pytest.mark.parametrize("resize", list(RegionResize))
@pytest.mark.parametrize("policy", ["all", "things", "background"])
def test_table_equals_counting_pixel_by_pixel(make_settings, make_map, taxonomy, policy, resize):
    settings = make_settings(policy=policy, region_resize=resize)
    panoptic = make_map(3, 40, 56)
    prompts = RegionPrompts(global_prompt="a street", by_segment={14: "a red car", 21: "a blue car", 70: "a sign"})

    def prompt_at(y: int, x: int) -> str:
        segment, klass = int(panoptic.segment_id[y, x]), int(panoptic.class_id[y, x])
        thing, void = taxonomy.is_thing(klass), klass == VOID
        chosen = {"all": True, "things": thing, "background": not thing and not void}[policy]
        if segment == 0 or not chosen:
            return "a street"
        return prompts.by_segment.get(segment) or taxonomy.prompt_of(klass) or "a street"

    expected = Counter()
    for y in range(40):
        for x in range(56):
            seen = (y // 8 * 8 + 4, x // 8 * 8 + 4) if resize is RegionResize.NEAREST else (y, x)
            expert = int(settings.experts.expert_of_class[panoptic.class_id[y, x]])
            expected[y // 8 * 7 + x // 8, prompt_at(*seen), expert] += 1
    layout = build_layout(panoptic, prompts, settings)
    assert table(layout) == expected
    assert layout.grid == (5, 7) and layout.everywhere == 1


def test_equal_prompts_share_a_region(make_settings):
    panoptic = halves(CAR, CAR, CAR, PERSON)
    prompts = RegionPrompts(by_segment={2: "a red car", 4: " a red car "})
    layout = build_layout(panoptic, prompts, make_settings())
    assert layout.prompts == ("", "car", "a red car")
    assert region_of_stripe(layout) == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("policy", "regions"), [("all", [1, 2, 3, 0]), ("things", [0, 1, 2, 0]), ("background", [1, 0, 0, 0])]
)
def test_policies_choose_segments(make_settings, policy, regions):
    layout = build_layout(halves(ROAD, CAR, PERSON, VOID), RegionPrompts(), make_settings(policy=policy))
    assert region_of_stripe(layout) == regions


def test_void_and_segment_zero_have_no_prompt_unless_written(make_settings):
    panoptic = halves(VOID, VOID, CAR, ids=[1, 2, 0])
    prompts = RegionPrompts(by_segment={2: "a heap of sand", 0: "nothing"})
    layout = build_layout(panoptic, prompts, make_settings())
    assert layout.prompts == ("", "a heap of sand")
    assert region_of_stripe(layout) == [0, 1, 0]
    assert layout.expert.tolist() == [0, 0, 1]  # experts follow the class, with or without a segment


def test_blank_instance_prompt_falls_back_to_the_class(make_settings):
    layout = build_layout(halves(CAR), RegionPrompts(by_segment={1: "  "}), make_settings())
    assert layout.prompts == ("", "car")


def test_dataset_prompt_is_region_one_and_shared_by_segments_of_that_prompt(make_settings):
    settings = make_settings(dataset_prompt="car")
    layout = build_layout(halves(CAR, PERSON), RegionPrompts(global_prompt="a street"), settings)
    assert layout.prompts == ("a street", "car", "person") and layout.everywhere == 2
    assert region_of_stripe(layout) == [1, 2]


def test_a_segment_may_bear_the_global_prompt_unpadded(make_settings):
    layout = build_layout(halves(CAR), RegionPrompts(global_prompt="car"), make_settings())
    assert layout.prompts == ("car", "car")


def test_switched_off_parts_leave_nothing_behind(make_settings):
    panoptic, prompts = halves(CAR, PERSON), RegionPrompts(global_prompt="a street")
    layout = build_layout(panoptic, prompts, make_settings(region_attention=False, dataset_prompt="streets"))
    assert layout.prompts == ("a street",) and layout.everywhere == 1 and region_of_stripe(layout) == [0, 0]
    assert layout.expert.tolist() == [1, 2]
    layout = build_layout(panoptic, prompts, make_settings(global_prompt=False, moe=False))
    assert layout.prompts == ("", "car", "person")
    assert layout.expert.tolist() == [0, 0]


def test_nearest_keeps_true_expert_counts(make_settings):
    panoptic = halves(CAR, PERSON)
    shifted = PanopticMap(segment_id=np.roll(panoptic.segment_id, 3, 1), class_id=np.roll(panoptic.class_id, 3, 1))
    layout = build_layout(shifted, RegionPrompts(), make_settings(region_resize="nearest"))
    assert table(layout) == {(0, "car", 1): 40, (0, "car", 2): 24, (1, "person", 1): 24, (1, "person", 2): 40}


def test_sizes_must_fit(make_settings):
    panoptic = PanopticMap(segment_id=np.ones((8, 12), dtype=np.int32), class_id=np.zeros((8, 12), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"divisible by 8, got \(8, 12\)"):
        build_layout(panoptic, RegionPrompts(), make_settings())
    assert build_layout(panoptic, RegionPrompts(), make_settings(), factor=4).grid == (2, 3)
    with pytest.raises(ValueError, match="1 to 15 pixels"):
        build_layout(panoptic, RegionPrompts(), make_settings(), factor=16)


def test_unknown_class_is_named(make_settings):
    with pytest.raises(ConfigError, match="77"):
        build_layout(halves(77), RegionPrompts(), make_settings())
