from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from mamoe.conditioning.collate import collate_layouts
from mamoe.conditioning.conditioner import Conditioner, concatenate_conditionings
from mamoe.conditioning.masks import area_shares, region_coverage
from mamoe.conditioning.regions import build_layout
from mamoe.conditioning.text import PromptEncoder
from mamoe.errors import ConfigError
from mamoe.vocabulary.conditioning import Conditioning, LevelConditioning
from mamoe.vocabulary.layout import RegionResize
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts

LEVELS = 4
STREET = RegionPrompts(global_prompt="a street")


@pytest.fixture
def condition(tokenizer, text_encoder):
    """Layouts of maps under settings -> (Conditioning, the conditioner, the batch)."""

    def run(settings, *maps: PanopticMap, prompts=STREET):
        batch = collate_layouts([build_layout(m, prompts, settings) for m in maps], settings.num_experts)
        conditioner = Conditioner(PromptEncoder(tokenizer, text_encoder), settings, LEVELS)
        with torch.no_grad():
            return conditioner(batch, device="cpu"), conditioner, batch

    return run


def picture(level: LevelConditioning, b: int) -> tuple[list, list]:
    """The routing's rows of one picture: [(expert, cell)] and their weights."""
    cells = level.grid[0] * level.grid[1]
    experts = torch.searchsorted(level.routing.offsets, torch.arange(len(level.routing.token)), right=True)
    mine = level.routing.token // cells == b
    rows = list(zip(experts[mine].tolist(), (level.routing.token[mine] % cells).tolist(), strict=True))
    return rows, [] if level.routing.weight is None else level.routing.weight[mine].tolist()


def nothing_of(attend: torch.Tensor) -> float:
    """What a mask holds where a token may not be attended."""
    return 0 if attend.dtype == torch.bool else -torch.inf


def assert_same(one: Conditioning, other: Conditioning) -> None:
    torch.testing.assert_close(one.text.embeds, other.text.embeds, atol=1e-6, rtol=1e-5)
    assert torch.equal(one.text.valid, other.text.valid) and torch.equal(one.text.region, other.text.region)
    for a, b in zip(one.levels, other.levels, strict=True):
        assert a.grid == b.grid and (a.attend is None) == (b.attend is None)
        assert a.attend is None or torch.equal(a.attend, b.attend)
        assert (a.routing is None) == (b.routing is None)
        if a.routing is not None:
            assert torch.equal(a.routing.token, b.routing.token) and torch.equal(a.routing.offsets, b.routing.offsets)
            assert a.routing.token.dtype == b.routing.token.dtype
            assert a.routing.offsets.dtype == b.routing.offsets.dtype
            assert a.routing.weight is None or torch.equal(a.routing.weight, b.routing.weight)


@pytest.mark.parametrize("mode", list(RegionResize))
@pytest.mark.parametrize("size", [(64, 128), (40, 72), (8, 24)])
def test_every_row_attends_its_global_prompt(make_settings, make_map, condition, size, mode):
    settings = make_settings(region_resize=mode, dataset_prompt="a town")
    result, _, batch = condition(settings, *(make_map(seed, *size, 20) for seed in range(3)))
    everywhere = result.text.valid & (result.text.region < 2)
    assert everywhere.sum(dim=1).tolist() == [24 + 5] * 3
    for level in result.levels:
        assert level.attend.any(dim=2).all()
        assert (level.attend | ~everywhere.unsqueeze(1)).all()  # the everywhere-regions in full
        assert not (level.attend & ~result.text.valid.unsqueeze(1)).any()  # no padding
    assert not (result.levels[0].attend | ~result.text.valid.unsqueeze(1)).all()  # and the mask does restrict
    for b, prompts in enumerate(batch.prompts):
        lengths = [24, *(len(p.replace(" ", "")) for p in prompts[1:])]
        expected = np.repeat(np.arange(len(prompts)), lengths).tolist()
        assert result.text.region[b][result.text.valid[b]].tolist() == expected


@pytest.mark.parametrize("size", [(64, 128), (40, 72), (8, 24)])
def test_soft_weights_are_logarithms_of_area_shares(make_settings, make_map, condition, size):
    settings = make_settings(strength="soft", dataset_prompt="a town")
    result, _, batch = condition(settings, *(make_map(seed, *size, 20) for seed in range(3)))
    shares = area_shares(region_coverage(batch), LEVELS)
    for level, share in zip(result.levels, shares, strict=True):
        weight = level.attend.exp()
        assert level.attend.dtype == torch.float32 and (weight[..., 0] == 1).all()  # rows are never empty
        assert not weight[~result.text.valid.unsqueeze(1).expand_as(weight)].any()
        for b, regions in enumerate(result.text.region):
            seen = result.text.valid[b]
            expected = share[b].flatten(1).T[:, regions[seen]]
            torch.testing.assert_close(weight[b][:, seen], expected, atol=1e-6, rtol=1e-5)
    assert ((weight > 0) & (weight < 1)).any()


def test_learned_strength_gets_the_mask_of_hard(make_settings, make_map, condition):
    hard, learned = (condition(make_settings(strength=s), make_map(0, 40, 72))[0] for s in ("hard", "learned"))
    assert_same(hard, learned)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"strength": "soft", "region_attention": False}, "strength=soft needs layout.region_attention=true"),
        ({"strength": "learned", "region_attention": False}, "strength=learned needs layout.region_attention=true"),
        ({"strength": "soft", "region_resize": "nearest"}, "needs layout.region_resize=area, not nearest"),
        ({"strength": "medium"}, "strength must be one of hard, soft, learned; got 'medium'"),
    ],
)
def test_strengths_that_cannot_be_are_refused(make_settings, choices, said):
    with pytest.raises(ConfigError, match=said):
        make_settings(**choices)


def test_an_instance_prompt_is_seen_by_its_cells_alone(make_settings, condition):
    segment, klass = np.ones((32, 32), dtype=np.int32), np.zeros((32, 32), dtype=np.uint8)
    segment[8:16, 8:24], klass[8:16, 8:24] = 2, 13
    panoptic = PanopticMap(segment_id=segment, class_id=klass)
    result, conditioner, _ = condition(make_settings(), panoptic, prompts=RegionPrompts(by_segment={2: "a red car"}))
    tokens = result.text.region[0] == 2
    seen = result.levels[0].attend[0][:, tokens]
    assert seen.all(dim=1).nonzero().flatten().tolist() == seen.any(dim=1).nonzero().flatten().tolist() == [5, 6]
    expected = conditioner.encoder.encode(["a red car"], padded=False)[0]
    torch.testing.assert_close(result.text.embeds[0, tokens], expected, atol=1e-6, rtol=1e-5)


SOFT = {"strength": "soft"}


@pytest.mark.parametrize("choices", [{}, {"expert_resize": "avg_pool", "region_resize": "avg_pool"}, SOFT])
def test_a_picture_does_not_depend_on_its_batch_mates(make_settings, make_map, condition, choices):
    settings = make_settings(**choices)
    maps = [make_map(seed, 40, 72, n) for seed, n in ((0, 4), (1, 40), (2, 9))]
    together = condition(settings, *maps)[0]
    for b, panoptic in enumerate(maps):
        alone = condition(settings, panoptic)[0]
        size = int(alone.text.valid.sum())
        assert int(together.text.valid[b].sum()) == size
        torch.testing.assert_close(together.text.embeds[b, :size], alone.text.embeds[0, :size], atol=1e-6, rtol=1e-5)
        assert torch.equal(together.text.region[b, :size], alone.text.region[0, :size])
        for level, single in zip(together.levels, alone.levels, strict=True):
            assert torch.equal(level.attend[b, :, :size], single.attend[0, :, :size])
            assert (level.attend[b, :, size:] == nothing_of(level.attend)).all()
            assert picture(level, b) == picture(single, 0)


@pytest.mark.parametrize("choices", [{}, {"region_resize": "avg_pool", "expert_resize": "avg_pool"}, SOFT])
def test_a_flipped_map_gives_flipped_masks_and_routing(make_settings, make_map, condition, choices):
    settings = make_settings(**choices)
    panoptic = make_map(3, 64, 128, 12)
    flipped = PanopticMap(segment_id=panoptic.segment_id[:, ::-1].copy(), class_id=panoptic.class_id[:, ::-1].copy())
    one, other = condition(settings, panoptic)[0], condition(settings, flipped)[0]
    assert not torch.equal(one.levels[0].attend, other.levels[0].attend)
    for a, b in zip(one.levels, other.levels, strict=True):
        height, width = a.grid
        turned = a.attend.view(1, height, width, -1).flip(2).flatten(1, 2)
        assert torch.equal(turned, b.attend)
        (rows, weights), (rows_b, weights_b) = picture(a, 0), picture(b, 0)
        mirrored = [(e, n // width * width + width - 1 - n % width) for e, n in rows]
        assert sorted(mirrored) == sorted(rows_b)
        assert dict(zip(mirrored, weights, strict=False)) == dict(zip(rows_b, weights_b, strict=False))


def test_the_null_conditioning_has_no_layout(make_settings, make_map, condition):
    settings = make_settings(dataset_prompt="a town")
    _, conditioner, batch = condition(settings, make_map(0, 40, 72), make_map(1, 40, 72))
    with torch.no_grad():
        null = conditioner(batch.null_like(), device="cpu")
        empty = conditioner.encoder.encode([""], padded=True)[0]
    torch.testing.assert_close(null.text.embeds, empty.expand(2, -1, -1))
    assert null.text.valid.all() and not null.text.region.any()
    for level in null.levels:
        cells = 2 * level.grid[0] * level.grid[1]
        assert level.attend is None
        assert level.routing.token.tolist() == list(range(cells))
        assert level.routing.offsets.tolist() == [cells] * settings.num_experts


def test_the_null_conditioning_is_the_same_for_every_layout(make_settings, make_map, condition):
    nulls = []
    for seed in (0, 1):
        _, conditioner, batch = condition(make_settings(expert_resize="avg_pool"), make_map(seed, 40, 72))
        nulls.append(conditioner(batch.null_like(), device="cpu"))
    assert_same(*nulls)


def test_dropping_one_picture_makes_it_null_and_keeps_the_other(make_settings, make_map, condition):
    full, conditioner, batch = condition(make_settings(), make_map(0, 40, 72), make_map(1, 40, 72))
    with torch.no_grad():
        dropped = conditioner(batch.drop(torch.tensor([True, False])), device="cpu")
    kept = int(full.text.valid[1].sum())
    assert dropped.text.valid.sum(dim=1).tolist() == [24, kept]
    for level, before in zip(dropped.levels, full.levels, strict=True):
        assert level.attend[0, :, :24].all() and not level.attend[0, :, 24:].any()
        assert torch.equal(level.attend[1, :, :kept], before.attend[1, :, :kept])
        assert {expert for expert, _ in picture(level, 0)[0]} == {0}
        assert picture(level, 1) == picture(before, 1)


@pytest.mark.parametrize("drop_first", [True, False])
@pytest.mark.parametrize(
    "choices", [{}, {"expert_resize": "avg_pool"}, {"moe": False}, {"region_attention": False}, SOFT]
)
def test_concatenating_equals_conditioning_the_concatenated_batch(
    make_settings, make_map, condition, choices, drop_first
):
    settings = make_settings(**choices)
    maps = [make_map(0, 40, 72, 4), make_map(1, 40, 72, 30), make_map(2, 40, 72)]
    _, conditioner, whole = condition(settings, *maps)
    _, _, first = condition(settings, maps[0])
    rest, _, _ = condition(settings, *maps[1:])
    if drop_first:
        first, whole = first.null_like(), whole.drop(torch.tensor([True, False, False]))
    with torch.no_grad():
        both = concatenate_conditionings([conditioner(first, device="cpu"), rest])
        assert_same(both, conditioner(whole, device="cpu"))


def test_conditionings_of_two_kinds_do_not_concatenate(make_settings, make_map, condition):
    one = condition(make_settings(), make_map(0, 40, 72))[0]
    for other in (
        condition(make_settings(moe=False), make_map(0, 40, 72))[0],
        condition(make_settings(), make_map(0, 32, 72))[0],
    ):
        with pytest.raises(ValueError, match="must agree"):
            concatenate_conditionings([one, other])


def test_without_layout_a_stock_unet_takes_it(make_settings, make_map, condition):
    settings = make_settings(region_attention=False, moe=False)
    result = condition(settings, make_map(0, 40, 72), make_map(1, 40, 72))[0]
    assert set(result.unet_inputs()) == {"encoder_hidden_states"}
    assert result.text.embeds.shape == (2, 24, 16)
    assert "cross_attention_kwargs" in condition(make_settings(), make_map(0, 40, 72))[0].unet_inputs()


def test_padding_and_a_second_prompt_alone_are_masked_too(make_settings, condition):
    void = PanopticMap(segment_id=np.ones((16, 16), dtype=np.int32), class_id=np.full((16, 16), 19, dtype=np.uint8))
    plain = condition(make_settings(), void, void)[0]
    assert all(level.attend is None for level in plain.levels) and plain.text.valid.all()
    full, conditioner, batch = condition(make_settings(dataset_prompt="a town"), void, void)
    for level in full.levels:  # two prompts, which do not see each other where text attends too
        assert level.attend.any(dim=1).equal(full.text.valid) and level.attend[:, 0].sum(dim=1).tolist() == [29, 29]
    dropped = conditioner(batch.drop(torch.tensor([True, False])), device="cpu")
    for level in dropped.levels:
        assert torch.equal(level.attend, dropped.text.valid.unsqueeze(1).expand_as(level.attend))
        assert level.attend[:, 0].sum(dim=1).tolist() == [24, 29]
    null = conditioner(batch.null_like(), device="cpu")
    for level in concatenate_conditionings([null, full]).levels:
        assert level.attend[:, 0].sum(dim=1).tolist() == [24, 24, 29, 29]


def test_encoder_padding_gives_every_prompt_its_full_length(make_settings, make_map, condition):
    result, _, batch = condition(make_settings(encoder_padding=True), make_map(0, 40, 72))
    assert result.text.valid.sum().item() == 24 * len(batch.prompts[0])


def test_embeddings_come_in_the_type_asked_for(make_settings, make_map, condition):
    _, conditioner, batch = condition(make_settings(), make_map(0, 40, 72))
    assert conditioner(batch, device="cpu", dtype=torch.bfloat16).text.embeds.dtype == torch.bfloat16


def test_gradients_flow_through_the_conditioning(make_settings, make_map, condition, tokenizer, encoder_factory):
    settings, trained = make_settings(), encoder_factory(2)
    _, _, batch = condition(settings, make_map(0, 40, 72))
    Conditioner(PromptEncoder(tokenizer, trained), settings, 2)(batch, device="cpu").text.embeds.sum().backward()
    assert trained.get_input_embeddings().weight.grad.abs().sum() > 0


def test_tables_of_other_settings_are_refused(make_settings, make_map, condition):
    _, conditioner, batch = condition(make_settings(), make_map(0, 40, 72))
    with pytest.raises(ValueError, match="made for 2 experts, the settings have 5"):
        conditioner(replace(batch, num_experts=2), device="cpu")


def test_without_global_padding_the_same_words_remain(make_settings, make_map, condition):
    padded, _, _ = condition(make_settings(), make_map(0, 64, 64, 5))
    bare, conditioner, _ = condition(make_settings(global_padding=False), make_map(0, 64, 64, 5))
    words = conditioner.encoder.num_tokens(STREET.global_prompt)
    limit = conditioner.encoder.limit
    assert words < limit
    own = int(padded.text.valid.sum()) - limit
    assert int(bare.text.valid.sum()) == words + own
    torch.testing.assert_close(bare.text.embeds[0, :words], padded.text.embeds[0, :words])
    torch.testing.assert_close(bare.text.embeds[0, words : words + own], padded.text.embeds[0, limit : limit + own])
    for few, many in zip(bare.levels, padded.levels, strict=True):
        assert torch.equal(few.attend[..., words : words + own], many.attend[..., limit : limit + own])


@torch.no_grad()
def test_a_stock_unet_leaves_padding_out_and_hears_of_no_regions(make_settings, condition, caplog):
    void = PanopticMap(segment_id=np.ones((16, 16), dtype=np.int32), class_id=np.full((16, 16), 19, dtype=np.uint8))
    settings = make_settings(region_attention=False, moe=False, global_padding=False)
    full, conditioner, batch = condition(settings, void, void)
    mixed = conditioner(batch.drop(torch.tensor([True, False])), device="cpu")
    assert set(mixed.unet_inputs()) == {"encoder_hidden_states", "encoder_attention_mask"}
    both = concatenate_conditionings([conditioner(batch.null_like(), device="cpu"), full])
    null, whole = (int(mixed.text.valid[i].sum()) for i in (0, 1))
    assert null < whole
    assert both.unet_inputs()["encoder_attention_mask"].sum(dim=1).tolist() == [null, null, whole, whole]

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=full.text.embeds.shape[2],
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()
    latents, timesteps = torch.randn(2, 4, 2, 2), torch.tensor([3, 5])
    together = unet(latents, timesteps, **mixed.unet_inputs()).sample
    for i, length in enumerate(mixed.text.valid.sum(dim=1).tolist()):
        alone = unet(latents[i : i + 1], timesteps[i], mixed.text.embeds[i : i + 1, :length]).sample
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    assert "not expected" not in caplog.text
