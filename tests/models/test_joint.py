"""Transformers in which text attends too, each family: the stock one at first, and trained as any other network."""

import dataclasses
import re

import pytest
import torch

from joint_calls import TOKENS, difference, layout, noisy, run, said
from mamoe.methods.registry import METHODS
from mamoe.models.backbones import backbone_of
from mamoe.models.control.call import predict, with_layout
from mamoe.models.joint.attention import within_half

FAMILIES = {
    "flux": ("flux", {}),
    "flux2": ("flux2", {}),
    "qwen": ("qwen", {}),
    "sd3.5": ("sd3", {}),
    "sd3": ("sd3", {"qk_norm": None, "dual_attention_layers": ()}),
    "z_image": ("z_image", {}),
}


def on_meta(value):
    """The same without its numbers."""
    return {key: on_meta(one) for key, one in value.items()} if isinstance(value, dict) else value.to("meta")


@pytest.fixture(params=FAMILIES)
def stock(models, request):
    family, changes = FAMILIES[request.param]
    return models.trained(getattr(models, family)(**changes))  # of some the last layers are zeros at first


@torch.no_grad()
def test_at_initialisation_it_is_the_stock_transformer(stock):
    wanted, model = run(stock), with_layout(stock, num_experts=3)
    assert difference(run(model), wanted) < 1e-5
    assert difference(run(model, layout(one_prompt=True)), wanted) < 1e-5  # of any experts
    assert difference(run(model, layout()), wanted) > 1e-3
    model.add_experts(rank=4, alpha=4.0, generator=torch.Generator())
    assert difference(run(model, layout(one_prompt=True)), wanted) < 1e-5
    assert difference(run(model.to_dense()), wanted) == 0


def test_what_goes_beyond_half_precision_is_cut():
    beyond = torch.tensor([torch.inf, -torch.inf, 1.0])
    assert within_half(beyond.half()).tolist() == [65504, -65504, 1]
    assert torch.equal(within_half(beyond), beyond)  # other formats reach further


@pytest.mark.parametrize("told", ["layout", "padding"])
@torch.no_grad()
def test_a_call_asks_the_device_for_no_number(stock, told):
    """The host would wait for it, in every step; where there are no numbers, it could not be asked."""
    (level,), model = layout(), with_layout(stock).to("meta")
    inputs = {key: on_meta(value) for key, value in said(stock).items()}
    if told == "layout":
        level = dataclasses.replace(level, routing=None, attend=on_meta(level.attend), region=on_meta(level.region))
        inputs["cross_attention_kwargs"] = {"regions": (level,)}
    else:
        inputs["encoder_attention_mask"] = torch.ones((2, TOKENS), dtype=torch.bool, device="meta")
    found = predict(model, on_meta(noisy()), torch.tensor([300.0, 700.0], device="meta"), inputs)
    assert found.shape == noisy().shape and found.device.type == "meta"


def test_checkpointing_gives_the_same_gradients(models, stock):
    model, levels = with_layout(stock, num_experts=3), layout()
    model.add_experts(rank=4, alpha=4.0, generator=torch.Generator().manual_seed(4))
    weights = dict(models.trained(model).train().named_parameters())

    def gradients():
        return torch.autograd.grad(run(model, levels).square().sum(), list(weights.values()), allow_unused=True)

    kept = gradients()
    unheard = backbone_of(model).unheard(model.config) or "nothing"
    for name, one in zip(weights, kept, strict=True):
        learns = not re.fullmatch(rf"(?:{unheard})\.(?:weight|bias)", name)
        assert (one is not None) if learns else (one is None or not one.any()), name
    model.enable_gradient_checkpointing()
    begun = []
    blocks = [one for one in model.modules() if type(one).__name__ in model._repeated_blocks]
    for block in blocks:
        block.register_forward_pre_hook(lambda block, given: begun.append(block))
    for one, other in zip(kept, gradients(), strict=True):
        assert other is None if one is None else torch.equal(one, other)
    assert [begun.count(block) for block in blocks] == [2] * len(blocks)  # nothing of them was kept


@pytest.mark.parametrize(("name", "experts"), [("lora", 1), ("lora", 3), ("lora_experts", 3)])
@torch.no_grad()
def test_methods_begin_as_the_model_and_merge_to_what_they_computed(stock, name, experts):
    method = METHODS[name](rank=4, alpha=8, **({"conv": False} if name == "lora" else {}))
    (level,) = layout(one_prompt=True)
    levels = (level if experts > 1 else dataclasses.replace(level, routing=None),)
    network = method.prepare(with_layout(stock, num_experts=experts), seed=1)
    assert difference(run(network, levels), run(stock)) < 1e-5
    for weight in [weight for weight in network.parameters() if weight.requires_grad]:
        weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    after = run(network, levels)
    assert difference(after, run(stock)) > 1e-3
    merged = method.merged(network)
    assert difference(run(merged, levels), after) < 1e-4
    assert not any("lora_" in key for key in merged.state_dict())
    assert any(".experts." in key for key in merged.state_dict()) == (experts > 1)
