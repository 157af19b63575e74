"""Processors of attention layers as diffusers meets them."""

import inspect

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from mamoe.models.blocks.attention import RegionAttnProcessor
from mamoe.models.flux.attention2 import PlacedAttnProcessor, PlacedParallelProcessor
from mamoe.models.qwen.attention import PlacedDoubleStreamProcessor
from mamoe.models.sd3.attention import MaskedJointAttnProcessor


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
