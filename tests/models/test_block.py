"""One transformer block: the mask reaches the cross-attention, the routing the feed-forward, nothing else sees them."""

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from mamoe.errors import ConfigError
from mamoe.models.blocks.attention import RegionAttnProcessor
from mamoe.models.unet.block import MaMoETransformerBlock
from mamoe.vocabulary.conditioning import LevelConditioning

B, N, S, C, D = 2, 12, 9, 16, 24


@pytest.fixture
def cells():
    return torch.randn((B, N, C), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def text():
    return torch.randn((B, S, D), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def attend():
    attend = torch.rand((B, N, S), generator=torch.Generator().manual_seed(2)) < 0.4
    attend[:, :, 0] = True
    return attend


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return Attention(query_dim=C, cross_attention_dim=D, heads=4, dim_head=4, processor=RegionAttnProcessor())


def stock_block(**changes):
    torch.manual_seed(0)
    return BasicTransformerBlock(C, 4, 4, **{"cross_attention_dim": D, **changes}).eval()


def softmax_over_visible_tokens(layer, cells, text, attend):
    """Cell by cell and head by head, in float64, over the tokens the cell may attend only."""
    layer = layer.double()
    query, key, value = layer.to_q(cells.double()), layer.to_k(text.double()), layer.to_v(text.double())
    mixed = torch.zeros_like(query)
    for b in range(B):
        for n in range(N):
            visible = attend[b, n].nonzero().flatten()
            for head in range(layer.heads):
                part = slice(4 * head, 4 * head + 4)
                score = key[b, visible, part] @ query[b, n, part] / 2.0
                mixed[b, n, part] = score.softmax(0) @ value[b, visible, part]
    return layer.to_out[0](mixed)


def test_masked_attention_is_a_softmax_over_the_visible_tokens(layer, cells, text, attend):
    got = layer(cells, encoder_hidden_states=text, attention_mask=attend)
    wanted = softmax_over_visible_tokens(layer, cells, text, attend)
    torch.testing.assert_close(got.double(), wanted, atol=1e-6, rtol=1e-5)


def test_a_token_reaches_exactly_the_cells_that_may_attend_it(layer, cells, text, attend):
    changed = text.clone()
    changed[:, 5] += 3.0
    before = layer(cells, encoder_hidden_states=text, attention_mask=attend)
    after = layer(cells, encoder_hidden_states=changed, attention_mask=attend)
    assert torch.equal((before != after).any(2), attend[:, :, 5])


def test_without_a_mask_it_is_the_stock_processor(layer, cells, text):
    bias = torch.zeros((B, 1, S))
    bias[:, :, 6:] = -10000.0  # what diffusers makes of encoder_attention_mask
    for mask in (None, bias):
        got = layer(cells, encoder_hidden_states=text, attention_mask=mask)
        layer.set_processor(AttnProcessor2_0())
        wanted = layer(cells, encoder_hidden_states=text, attention_mask=mask)
        layer.set_processor(RegionAttnProcessor())
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-6)


def test_a_block_masks_its_cross_attention_only(cells, text, attend):
    stock = stock_block()
    level = LevelConditioning(grid=(3, 4), attend=attend, routing=None)
    block = MaMoETransformerBlock(stock_block(), level=0, num_experts=1, region_attention=True)
    got = block(cells, encoder_hidden_states=text, cross_attention_kwargs={"regions": (level,)})

    hidden = cells + stock.attn1(stock.norm1(cells))
    per_head = attend.repeat_interleave(4, dim=0)
    hidden = hidden + stock.attn2(stock.norm2(hidden), encoder_hidden_states=text, attention_mask=per_head)
    wanted = hidden + stock.ff(stock.norm3(hidden))
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


def test_a_block_reads_its_own_level(cells, text, attend):
    own = LevelConditioning(grid=(3, 4), attend=attend, routing=None)
    other = LevelConditioning(grid=(6, 8), attend=torch.ones((B, 48, S), dtype=torch.bool), routing=None)
    block = MaMoETransformerBlock(stock_block(), level=1, num_experts=1, region_attention=True)
    lone = MaMoETransformerBlock(stock_block(), level=0, num_experts=1, region_attention=True)
    got = block(cells, encoder_hidden_states=text, cross_attention_kwargs={"regions": (other, own)})
    assert torch.equal(got, lone(cells, encoder_hidden_states=text, cross_attention_kwargs={"regions": (own,)}))


def test_without_region_attention_a_mask_only_leaves_padding_out(cells, text, attend):
    attend[0, :, 6:] = False  # image 0 has six tokens, image 1 nine
    level = LevelConditioning(grid=(3, 4), attend=attend, routing=None)
    block = MaMoETransformerBlock(stock_block(), level=0, num_experts=1, region_attention=False)
    got = block(cells, encoder_hidden_states=text, cross_attention_kwargs={"regions": (level,)})
    stock = stock_block()
    assert attend[1].any(0).all()
    torch.testing.assert_close(got[1:], stock(cells[1:], encoder_hidden_states=text[1:]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(got[:1], stock(cells[:1], encoder_hidden_states=text[:1, :6]), atol=1e-6, rtol=1e-5)


def test_names_of_the_stock_block_stay():
    block = MaMoETransformerBlock(stock_block(), level=0, num_experts=1, region_attention=True)
    assert block.state_dict().keys() == stock_block().state_dict().keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm_type": "ada_norm", "num_embeds_ada_norm": 10}, "norm_type must be 'layer_norm', got 'ada_norm'"),
        ({"only_cross_attention": True}, "one self-attention and one cross-attention"),
        ({"attention_type": "gated"}, "gated"),
        ({"positional_embeddings": "sinusoidal", "num_positional_embeddings": 16}, "positional"),
    ],
)
def test_blocks_of_another_kind_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        MaMoETransformerBlock(stock_block(**changes), level=0, num_experts=2, region_attention=True)


def test_of_a_compiled_or_hooked_block_the_layers_are_taken_alone(cells, text):
    def theirs(*_, **__):
        raise AssertionError("the stock block's forward pass, which knows no regions")

    stock, plain = stock_block(), stock_block()
    stock.forward, stock._compiled_call_impl, stock._hf_hook = theirs, theirs, object()
    made, expected = (
        MaMoETransformerBlock(one, level=0, num_experts=1, region_attention=True) for one in (stock, plain)
    )
    assert torch.equal(made(cells, encoder_hidden_states=text), expected(cells, encoder_hidden_states=text))
    assert not hasattr(made, "_hf_hook") and not made.training and made.norm_type == "layer_norm"
