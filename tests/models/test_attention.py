"""Processors of attention layers as diffusers meets them."""

import inspect

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from mamoe.models.blocks.attention import RegionAttnProcessor, compute_by_region
from mamoe.models.flux.attention2 import PlacedAttnProcessor, PlacedParallelProcessor
from mamoe.models.qwen.attention import PlacedDoubleStreamProcessor
from mamoe.models.sd3.attention import MaskedJointAttnProcessor
from mamoe.vocabulary.conditioning import ExpertRouting, LevelConditioning


@pytest.mark.parametrize(
    "processor",
    [
        RegionAttnProcessor,
        MaskedJointAttnProcessor,
        PlacedAttnProcessor,
        PlacedParallelProcessor,
        PlacedDoubleStreamProcessor,
    ],
)
def test_the_signature_that_diffusers_asks_for_is_kept(processor):
    kept = processor.__call__.__signature__
    assert list(kept.parameters)[:3] == ["self", "attn", "hidden_states"]
    assert list(inspect.signature(processor.__call__).parameters) == list(kept.parameters)


@pytest.mark.parametrize("masked", [False, True])
def test_self_attention_is_the_stock_ones_to_the_bit(masked):
    torch.manual_seed(0)
    layer, cells = Attention(32, heads=4, dim_head=8), torch.randn(2, 6, 32)
    mask = torch.randn(2, 1, 6) if masked else None
    layer.set_processor(AttnProcessor2_0())
    expected = layer(cells, attention_mask=mask)
    layer.set_processor(RegionAttnProcessor())
    assert torch.equal(layer(cells, attention_mask=mask), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_made_into_numbers_once_gives_the_same_bits(dtype):
    torch.manual_seed(0)
    layer, cells = Attention(32, cross_attention_dim=24, heads=4, dim_head=8).to(dtype), torch.randn(2, 6, 32).to(dtype)
    text, attend = torch.randn(2, 9, 24).to(dtype), torch.rand(2, 6, 9) < 0.5
    attend[:, :, 0] = True
    compute_by_region(layer)
    routing = ExpertRouting(token=torch.arange(12), offsets=torch.tensor([5, 5, 12]).int(), weight=None)
    level = LevelConditioning(grid=(2, 3), attend=attend, routing=routing)
    told = level.computed_in(dtype, weighs=True)
    assert told.attend.dtype == dtype and told.computed_in(dtype, weighs=True) is told
    assert torch.equal(told.attend, torch.zeros(2, 6, 9, dtype=dtype).masked_fill(~attend, -torch.inf))
    expected = layer(cells, encoder_hidden_states=text, attention_mask=attend)
    assert torch.equal(layer(cells, encoder_hidden_states=text, attention_mask=told.attend), expected)
    assert torch.equal(told.routing.member, routing.member.to(dtype)) and routing.member.dtype == torch.bool
    assert told.routing.token is routing.token and told.routing.back is routing.back
    assert level.computed_in(dtype, weighs=False).attend is attend


def test_what_is_kept_of_a_text_serves_that_text_alone(monkeypatch):
    torch.manual_seed(0)
    layer, cells = Attention(32, cross_attention_dim=24, heads=4, dim_head=8), torch.randn(2, 6, 32)
    compute_by_region(layer)
    asked, kept = [], {}
    compute = layer.to_k.forward
    monkeypatch.setattr(layer.to_k, "forward", lambda text: asked.append(1) or compute(text))
    for text, times in ((torch.randn(2, 9, 24), 1), (torch.randn(2, 9, 24), 2)):
        for _ in range(3):
            got = layer(cells, encoder_hidden_states=text, kept=kept)
            assert len(asked) == times
        asked_before = list(asked)
        assert torch.equal(got, layer(cells, encoder_hidden_states=text))
        asked[:] = asked_before


@pytest.mark.parametrize("name", ["to_k", "to_v"])
def test_a_hook_hears_of_every_call(name):
    layer, cells, text = (
        Attention(32, cross_attention_dim=24, heads=4, dim_head=8),
        torch.randn(2, 6, 32),
        torch.ones(2, 9, 24),
    )
    compute_by_region(layer)
    asked, kept = [], {}
    hook = getattr(layer, name).register_forward_hook(lambda *_: asked.append(1))
    for _ in range(3):
        layer(cells, encoder_hidden_states=text, kept=kept)
    hook.remove()
    assert len(asked) == 3 and not kept
    layer(cells, encoder_hidden_states=text, kept=kept)
    assert list(kept) == [layer]


def test_other_processors_and_arguments_go_diffusers_way():
    layer, cells = Attention(32, heads=4, dim_head=8), torch.randn(2, 6, 32)
    compute_by_region(layer)
    expected = layer(cells)
    assert torch.equal(layer(cells, unheard=1), expected)  # with a word in the log
    layer.set_processor(AttnProcessor2_0())
    assert torch.equal(layer(cells), expected)
