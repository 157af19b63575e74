from itertools import pairwise

import numpy as np
import pytest
import torch

from mamoe.conditioning.collate import collate_layouts
from mamoe.conditioning.experts import expert_coverage, expert_routings, route_by_share, route_hard
from mamoe.conditioning.regions import build_layout
from mamoe.vocabulary.layout import ExpertResize, RegionResize
from mamoe.vocabulary.prompts import RegionPrompts


def rows_by_expert(routing) -> list[list[int]]:
    ends = [0, *routing.offsets.tolist()]
    return [routing.token[a:b].tolist() for a, b in pairwise(ends)]


def expert_pixels(panoptic, settings) -> np.ndarray:
    return settings.experts.expert_of_class[panoptic.class_id]


@pytest.mark.parametrize("resize", list(RegionResize))
@pytest.mark.parametrize("size", [(64, 96), (40, 72), (8, 24)])
def test_hard_routing_goes_to_the_largest_share(make_settings, make_map, size, resize):
    settings = make_settings(region_resize=resize)
    maps = [make_map(seed, *size) for seed in (7, 8)]
    batch = collate_layouts([build_layout(m, RegionPrompts(), settings) for m in maps], settings.num_experts)
    for level, routing in enumerate(expert_routings(batch, ExpertResize.NEAREST, 3)):
        side = 8 * 2**level
        expected: list[list[int]] = [[] for _ in range(settings.num_experts)]
        cells = 0
        for panoptic in maps:
            experts = expert_pixels(panoptic, settings)
            for y in range(0, size[0], side):
                for x in range(0, size[1], side):
                    cell = experts[y : y + side, x : x + side].ravel()
                    counts = np.bincount(cell, minlength=settings.num_experts)
                    best = max(range(len(counts)), key=lambda e: (counts[e], e > 0, -e))
                    expected[best].append(cells)
                    cells += 1
        assert rows_by_expert(routing) == expected
        assert routing.weight is None and sorted(routing.token.tolist()) == list(range(cells))
        assert routing.token.dtype == torch.int64 and routing.offsets.dtype == torch.int32


def test_of_equal_shares_the_lowest_named_expert_wins_and_the_rest_group_never():
    share = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.0, 0.5], [0.25, 0.375, 0.375], [0.6, 0.4, 0.0], [0, 0.5, 0.5]])
    (routing,) = route_hard([share.T.reshape(1, 3, 1, 5)])
    assert rows_by_expert(routing) == [[0, 3], [2, 4], [1]]


@pytest.mark.parametrize("size", [(64, 96), (40, 72)])
def test_routing_by_share_blends_by_exact_pixel_shares(make_settings, make_map, size):
    settings = make_settings(expert_resize="avg_pool")
    panoptic = make_map(9, *size)
    batch = collate_layouts([build_layout(panoptic, RegionPrompts(), settings)], settings.num_experts)
    experts = expert_pixels(panoptic, settings)
    for level, routing in enumerate(expert_routings(batch, ExpertResize.AVG_POOL, 3)):
        side = 8 * 2**level
        width = -(-size[1] // side)
        ends = [0, *routing.offsets.tolist()]
        for e in range(settings.num_experts):
            rows = slice(ends[e], ends[e + 1])
            weights = dict(zip(routing.token[rows].tolist(), routing.weight[rows].tolist(), strict=True))
            for y in range(0, size[0], side):
                for x in range(0, size[1], side):
                    expected = (experts[y : y + side, x : x + side] == e).mean()
                    assert weights.get(y // side * width + x // side, 0.0) == pytest.approx(expected, abs=1e-6)
        sums = torch.zeros(int(routing.token.max()) + 1).index_add_(0, routing.token, routing.weight)
        torch.testing.assert_close(sums, torch.ones_like(sums))


def test_both_routings_agree_where_every_cell_has_one_expert():
    one_hot = torch.nn.functional.one_hot(torch.tensor([[2, 0, 1], [1, 1, 2]]), 4).permute(2, 0, 1)[None].float()
    (hard,), soft = route_hard([one_hot]), route_by_share(one_hot)
    assert torch.equal(hard.token, soft.token) and torch.equal(hard.offsets, soft.offsets)
    assert (soft.weight == 1).all()


def test_expert_coverage_sums_to_one(make_settings, make_map):
    settings = make_settings(grouping="per_class")
    batch = collate_layouts([build_layout(make_map(1, 40, 72), RegionPrompts(), settings)], settings.num_experts)
    coverage = expert_coverage(batch)
    assert coverage.shape[1] == 20
    assert (coverage.sum(dim=1) == 1).all()
