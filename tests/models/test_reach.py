"""How far text reaches in a network, measured: what holds passes, and whatever does not is named."""

import pytest
import torch

from mamoe.models.blocks.attention import RegionAttnProcessor
from mamoe.models.control.call import with_layout
from mamoe.models.reach import measured

CELLS = (16, 16)


@pytest.mark.parametrize("backbone", ["unet", "pixart", "flux", "flux2", "sd3", "qwen", "z_image"])
def test_every_family_holds(models, backbone):
    reach = measured(getattr(models, backbone)().requires_grad_(False), CELLS)
    assert not reach.problems and reach.allowed is None and reach.identity < 1e-5
    for layer in reach.layers:
        assert layer.left == layer.gradient == 0.0 < min(layer.right, layer.open_left)


@pytest.mark.parametrize("backbone", ["unet", "pixart"])
def test_a_processor_that_forgets_the_mask_is_found(models, monkeypatch, backbone):
    computes = RegionAttnProcessor.__call__
    monkeypatch.setattr(
        RegionAttnProcessor,
        "__call__",
        lambda self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None: computes(
            self, attn, hidden_states, encoder_hidden_states
        ),
    )
    reach = measured(getattr(models, backbone)().requires_grad_(False), CELLS)
    assert all(layer.left > 1e-3 and layer.gradient > 0 for layer in reach.layers)
    (problem,) = reach.problems
    assert f"{len(reach.layers)} of {len(reach.layers)} layers let" in problem and reach.layers[0].name in problem


def test_what_a_policy_allows_is_no_leak(models):
    learned = models.trained(with_layout(models.pixart(), num_experts=2, learned_strength=True))
    reach = measured(learned.requires_grad_(False), CELLS)
    assert "strength" in reach.allowed and any(layer.left for layer in reach.layers) and not reach.problems
    free = with_layout(models.unet(), num_experts=2, region_attention=False).requires_grad_(False)
    reach = measured(free, CELLS)
    assert "region_attention" in reach.allowed and not reach.problems


def test_numbers_that_are_none_are_no_pass(models):
    broken = models.pixart().requires_grad_(False)
    broken.transformer_blocks[0].attn2.to_v.weight.fill_(torch.inf)
    (problem,) = measured(broken, CELLS).problems
    assert "not finite" in problem
    deaf = models.pixart().requires_grad_(False)
    for block in deaf.transformer_blocks:
        block.attn2.to_v.weight.zero_()
    (problem,) = measured(deaf, CELLS).problems
    assert "nothing was tested" in problem
