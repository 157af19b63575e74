import numpy as np
import pytest
import torch

from mamoe.conditioning.collate import collate_layouts
from mamoe.conditioning.masks import area_shares, attend_masks, region_coverage, region_masks
from mamoe.conditioning.regions import build_layout
from mamoe.vocabulary.conditioning import level_grids
from mamoe.vocabulary.layout import RegionResize
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts

LEVELS = 4
SIZES = [(32, 64), (40, 72), (8, 24), (56, 88)]  # latent sizes 4x8, 5x9, 1x3, 7x11


def make_batch(settings, *panoptics: PanopticMap):
    layouts = [build_layout(panoptic, RegionPrompts(), settings) for panoptic in panoptics]
    return collate_layouts(layouts, settings.num_experts)


def pixels_of_cell(level: int, y: int, x: int) -> tuple[slice, slice]:
    side = 8 * 2**level  # slices stop at the picture's edge by themselves
    return slice(y * side, (y + 1) * side), slice(x * side, (x + 1) * side)


def prompt_map(panoptic: PanopticMap, layout_prompts, taxonomy) -> np.ndarray:
    """Region of every pixel when every segment bears its class's prompt."""
    region = {prompt: r for r, prompt in enumerate(layout_prompts)}
    of_class = np.array([region.get(taxonomy.prompt_of(c), 0) for c in range(20)])
    return np.where(panoptic.segment_id == 0, 0, of_class[panoptic.class_id])


@pytest.mark.parametrize("size", [(64, 64), (5, 9), (1, 3), (63, 127)])
def test_level_grids_follow_strided_convolutions(size):
    convolved = [size]
    for _ in range(3):
        convolved.append(tuple((n + 2 * 1 - 3) // 2 + 1 for n in convolved[-1]))  # kernel 3, stride 2, padding 1
    assert level_grids(size, 4) == tuple(convolved)


@pytest.mark.parametrize("size", SIZES)
def test_shares_equal_counting_pixels_at_every_level(make_settings, make_map, taxonomy, size):
    panoptic = make_map(1, *size)
    batch = make_batch(make_settings(), make_map(2, *size), panoptic)
    regions = prompt_map(panoptic, batch.prompts[1], taxonomy)
    shares = area_shares(region_coverage(batch), LEVELS)
    assert tuple(share.shape[2:] for share in shares) == level_grids(batch.grid, LEVELS)
    for level, share in enumerate(shares):
        assert (share[:, 0] == 1).all()
        for r in range(1, len(batch.prompts[1])):
            for y, x in np.ndindex(*share.shape[2:]):
                expected = (regions[pixels_of_cell(level, y, x)] == r).mean()
                assert share[1, r, y, x].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", list(RegionResize))
def test_region_masks_equal_their_definition(make_settings, make_map, taxonomy, mode, size):
    panoptic = make_map(4, *size)
    batch = make_batch(make_settings(region_resize=mode), panoptic)
    regions = prompt_map(panoptic, batch.prompts[0], taxonomy)
    masks = region_masks(region_coverage(batch), mode, 0.4, LEVELS)
    for level, mask in enumerate(masks):
        grid = tuple(mask.shape[2:])
        share = np.zeros(mask.shape[1:])
        for r in range(mask.shape[1]):
            for y, x in np.ndindex(*grid):
                if mode is RegionResize.NEAREST:
                    cell_y = int((y + 0.5) * batch.grid[0] / grid[0])
                    cell_x = int((x + 0.5) * batch.grid[1] / grid[1])
                    share[r, y, x] = regions[cell_y * 8 + 4, cell_x * 8 + 4] == r
                else:
                    share[r, y, x] = (regions[pixels_of_cell(level, y, x)] == r).mean()
        expected = share > 0.4
        if mode is RegionResize.AREA:
            for r in range(len(expected)):
                expected[r] = expected[r] if expected[r].any() else share[r] > 0
        expected[0] = True
        assert np.array_equal(mask[0].numpy(), expected), level


def test_area_never_loses_a_region_that_avg_pool_and_nearest_lose(make_settings, make_map):
    lost = {}
    for mode in RegionResize:
        batch = make_batch(make_settings(region_resize=mode), *(make_map(seed, 64, 128, 30) for seed in range(4)))
        masks = region_masks(region_coverage(batch), mode, 0.5, LEVELS)
        lost[mode] = sum(
            int((~mask[b, : len(prompts)].any(dim=(1, 2))).sum())
            for mask in masks
            for b, prompts in enumerate(batch.prompts)
        )
    assert lost[RegionResize.AREA] == 0
    assert lost[RegionResize.AVG_POOL] > 0 and lost[RegionResize.NEAREST] > 0


def test_a_region_of_one_pixel_survives_in_the_cells_it_touches(make_settings):
    segment, klass = np.ones((64, 64), dtype=np.int32), np.zeros((64, 64), dtype=np.uint8)
    segment[37, 21], klass[37, 21] = 2, 13
    batch = make_batch(make_settings(), PanopticMap(segment_id=segment, class_id=klass))
    for level, mask in enumerate(region_masks(region_coverage(batch), RegionResize.AREA, 0.5, LEVELS)):
        assert mask[0, 2].nonzero().tolist() == [[37 // (8 << level), 21 // (8 << level)]]


def test_attend_is_the_tokens_region_at_the_cell(make_settings, make_map):
    batch = make_batch(make_settings(), make_map(5, 40, 72), make_map(6, 40, 72))
    mask = region_masks(region_coverage(batch), RegionResize.AREA, 0.5, 1)[0]
    region = torch.tensor([[0, 0, 1, 2, 2, 3, 0], [0, 0, 4, 4, 0, 0, 0]])
    valid = torch.tensor([[1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    (attend,) = attend_masks([mask], region, valid)
    assert attend.shape == (2, 45, 7) and attend.is_contiguous()
    for b, n, s in np.ndindex(*attend.shape):
        assert attend[b, n, s] == (mask[b, region[b, s], n // 9, n % 9] & valid[b, s])


def test_the_example_of_the_documentation(make_settings):
    drawing = ["....|...", "...c|...", "..cc|...", "...c|..."]
    klass = np.array([[{".": 0, "c": 13, "|": 5}[mark] for mark in row] for row in drawing], dtype=np.uint8)
    klass = klass.repeat(4, axis=0).repeat(4, axis=1)
    panoptic = PanopticMap(segment_id=klass.astype(np.int32) + 1, class_id=klass)
    kept = {}
    for mode in RegionResize:
        batch = make_batch(make_settings(region_resize=mode), panoptic)
        assert batch.prompts[0] == ("", "road", "pole", "car")
        mask = region_masks(region_coverage(batch), mode, 0.5, 1)[0][0].flatten(1)
        kept[mode.value] = [mask[region].nonzero().flatten().tolist() for region in (3, 2)]
    assert kept == {"nearest": [[1, 5], []], "avg_pool": [[5], []], "area": [[5], [2, 6]]}
