import pickle

import numpy as np
import pytest
import torch

from mamoe.conditioning.collate import Collator, collate_layouts
from mamoe.conditioning.regions import build_layout
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.sample import Sample


def make_sample(panoptic: PanopticMap, number: int = 0) -> Sample:
    image = torch.full((3, *panoptic.size), number, dtype=torch.uint8)
    prompts = RegionPrompts(global_prompt=f"street {number}")
    return Sample(key=f"{number}.png", index=number, epoch=2, image=image, panoptic=panoptic, prompts=prompts)


def test_a_batch_is_its_layouts_one_after_another(make_settings, make_map):
    settings = make_settings()
    samples = [make_sample(make_map(seed, 32, 48), seed) for seed in range(3)]
    collator = pickle.loads(pickle.dumps(Collator(settings)))
    batch = collator(samples)
    assert batch.keys == ("0.png", "1.png", "2.png")
    assert batch.index.tolist() == [0, 1, 2] and batch.epoch.tolist() == [2, 2, 2]
    assert batch.image[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert batch.regions.num_experts == settings.num_experts
    for i, sample in enumerate(samples):
        layout, rows = build_layout(sample.panoptic, sample.prompts, settings), batch.regions.image == i
        assert batch.regions.prompts[i] == layout.prompts
        for column in ("cell", "region", "expert", "count"):
            assert torch.equal(getattr(batch.regions, column)[rows], getattr(layout, column))


def test_drop_leaves_the_other_pictures_alone(make_settings, make_map):
    settings = make_settings(dataset_prompt="a town")
    layouts = [build_layout(make_map(seed, 32, 48), RegionPrompts(), settings) for seed in range(3)]
    batch = collate_layouts(layouts, settings.num_experts)
    dropped = batch.drop(torch.tensor([False, True, False]))
    assert dropped.prompts == (batch.prompts[0], ("",), batch.prompts[2])
    gone = batch.image == 1
    for column in ("region", "expert"):
        assert getattr(batch, column)[gone].any() and not getattr(dropped, column)[gone].any()
        assert torch.equal(getattr(dropped, column)[~gone], getattr(batch, column)[~gone])


def test_layouts_of_two_sizes_do_not_mix(make_settings, make_map):
    settings = make_settings()
    layouts = [build_layout(make_map(0, *size), RegionPrompts(), settings) for size in ((32, 48), (48, 32))]
    with pytest.raises(ValueError, match=r"\(4, 6\)"):
        collate_layouts(layouts, settings.num_experts)
    with pytest.raises(ValueError, match="at least one"):
        collate_layouts([], settings.num_experts)


def test_a_worker_sends_little(make_settings):
    """A 512x512 picture with 20 instances before four stuff segments: at most 0.1 MiB apart from picture and text."""
    rng = np.random.default_rng(0)
    segment = np.repeat(np.arange(1, 5, dtype=np.int32), 128)[:, None].repeat(512, axis=1)
    for instance in range(20):
        y, x, size = *rng.integers(0, 380, 2), rng.integers(30, 130)
        segment[y : y + size, x : x + size] = 5 + instance
    klass = np.where(segment < 5, segment, 13).astype(np.uint8)
    batch = Collator(make_settings())([make_sample(PanopticMap(segment_id=segment, class_id=klass))])
    columns = [
        value for name in batch.regions.__slots__ if isinstance(value := getattr(batch.regions, name), torch.Tensor)
    ]
    assert len(columns) == 6
    assert sum(c.nbytes for c in columns) + batch.index.nbytes + batch.epoch.nbytes <= 0.1 * 2**20


def test_cells_weigh_what_their_pixels_weigh(make_settings):
    klass = np.zeros((16, 16), dtype=np.uint8)
    klass[:, 12:] = 13  # half of the right cells
    panoptic = PanopticMap(segment_id=klass.astype(np.int32) + 1, class_id=klass)
    weights = [1.0] * 256
    weights[13] = 5.0
    batch = Collator(make_settings(), class_weights=tuple(weights))([make_sample(panoptic)])
    assert batch.cell_weight is not None
    assert batch.cell_weight.tolist() == [[[1.0, 3.0]] * 2]
    assert Collator(make_settings())([make_sample(panoptic)]).cell_weight is None
