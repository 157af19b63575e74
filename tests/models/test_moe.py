"""The sparse experts against the plain definition: every expert on every cell, then a weighted sum."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from torch import nn

from mamoe.errors import ConfigError
from mamoe.models.experts.moe import MoEFeedForward
from mamoe.vocabulary.conditioning import ExpertRouting

IMAGES, CELLS, CHANNELS, EXPERTS = 2, 30, 16, 4


def every_expert_on_every_cell(moe, x, share):
    outputs = torch.stack([moe(x), *(expert(x) for expert in moe.experts.values())])
    return torch.einsum("ebnc,bne->bnc", outputs, share)


def shares(case):
    """f32[B N E]"""
    generator = torch.Generator().manual_seed(3)
    if case == "hard":
        expert = torch.multinomial(torch.tensor([0.45, 0.3, 0.2, 0.05]), IMAGES * CELLS, True, generator=generator)
    elif case == "empty experts":
        expert = torch.randint(2, (IMAGES * CELLS,), generator=generator) * 2  # 0 and 2
    elif case == "all in one expert":
        expert = torch.full((IMAGES * CELLS,), 3)
    else:  # area: one to E experts per cell
        raw = torch.rand((IMAGES, CELLS, EXPERTS), generator=generator)
        raw = raw * (raw > raw.median())
        raw[..., 1] += 0.1
        return raw / raw.sum(2, keepdim=True)
    return F.one_hot(expert, EXPERTS).float().view(IMAGES, CELLS, EXPERTS)


CASES = ["hard", "empty experts", "all in one expert", "area"]


@pytest.fixture(params=["geglu", "gelu-approximate"])
def moe(models, request) -> MoEFeedForward:
    torch.manual_seed(0)
    return models.trained(MoEFeedForward(FeedForward(CHANNELS, activation_fn=request.param), EXPERTS))


@pytest.fixture
def x():
    return torch.randn((IMAGES, CELLS, CHANNELS), generator=torch.Generator().manual_seed(4))


def routing_of(models, case) -> ExpertRouting:
    share = shares(case)
    return models.area(share) if case == "area" else models.hard(share.argmax(2), EXPERTS)


def gradients(moe, x, out):
    weight = torch.linspace(-1, 1, out.numel()).view_as(out)
    return torch.autograd.grad((out * weight).sum(), [x, *moe.parameters()])


@pytest.mark.usefixtures("compilable")
@pytest.mark.parametrize("way", ["in turn", "grouped", "compiled"])
@pytest.mark.parametrize("case", CASES)
def test_equals_every_expert_on_every_cell(models, moe, x, case, way, monkeypatch):
    x.requires_grad_()
    if way == "grouped":
        monkeypatch.setattr("mamoe.models.experts.grouped.grouped_suits", lambda rows: True)
    run = torch.compile(moe, backend="eager", fullgraph=True) if way == "compiled" else moe
    got = run(x, routing_of(models, case))
    wanted = every_expert_on_every_cell(moe, x, shares(case))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(gradients(moe, x, got), gradients(moe, x, wanted), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.usefixtures("compilable")
def test_compiled_it_takes_the_grouped_way(models, moe, x, monkeypatch):
    calls = []
    original = F.grouped_mm
    monkeypatch.setattr(F, "grouped_mm", lambda *a, **k: calls.append(1) or original(*a, **k))
    torch.compile(moe, backend="eager")(x, routing_of(models, "hard"))
    assert len(calls) == 2


@pytest.mark.usefixtures("compilable")
@pytest.mark.parametrize("compiled", [False, True], ids=["in turn", "grouped"])
def test_an_expert_without_cells_gets_zero_gradients_not_none(models, moe, x, compiled):
    run = torch.compile(moe, backend="eager", fullgraph=True) if compiled else moe
    run(x, routing_of(models, "all in one expert")).sum().backward()
    idle = [p.grad for i in ("1", "2") for p in moe.experts[i].parameters()] + [p.grad for p in moe.net.parameters()]
    assert all(grad is not None and not grad.any() for grad in idle)
    assert all(p.grad.any() for p in moe.experts["3"].parameters())


def test_experts_start_as_copies_that_share_nothing():
    dense = FeedForward(CHANNELS)
    moe = MoEFeedForward(dense, 3)
    state = moe.state_dict()
    for key, value in dense.state_dict().items():
        for twin in (state[f"experts.1.{key}"], state[f"experts.2.{key}"]):
            assert torch.equal(twin, value) and twin.data_ptr() != value.data_ptr()


def test_stock_keys_are_expert_zero_and_serve_without_a_routing(models, moe, x):
    dense = FeedForward(CHANNELS, activation_fn="geglu" if moe.activation.gated else "gelu-approximate")
    dense.load_state_dict({key: value for key, value in moe.state_dict().items() if key.startswith("net.")})
    assert torch.equal(moe(x), dense(x))
    only_zero = models.hard(torch.zeros((IMAGES, CELLS), dtype=torch.long), EXPERTS)
    torch.testing.assert_close(moe(x, only_zero), dense(x), atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("compilable")
@pytest.mark.parametrize("compiled", [False, True], ids=["in turn", "grouped"])
@pytest.mark.parametrize("case", ["hard", "area"])
def test_autocast_computes_in_bf16(models, moe, x, case, compiled):
    run = torch.compile(moe, backend="eager", fullgraph=True) if compiled else moe
    exact = moe(x, routing_of(models, case))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = run(x, routing_of(models, case))
    assert rough.dtype == torch.bfloat16
    error = (rough.float() - exact).abs().max() / exact.abs().max()
    assert 1e-5 < error < 2e-2


@pytest.mark.usefixtures("compilable")
def test_dropout_of_the_feed_forward_stays(models, x):
    moe = MoEFeedForward(FeedForward(CHANNELS, dropout=1.0), EXPERTS)
    bias = moe.net[2].bias
    for run in (moe, torch.compile(moe, backend="eager")):
        everywhere_dropped = run(x, routing_of(models, "all in one expert"))
        torch.testing.assert_close(everywhere_dropped, bias.expand_as(x))
    assert not torch.allclose(moe.eval()(x), bias.expand_as(x))


@pytest.mark.usefixtures("compilable")
def test_wrapped_projections_are_never_bypassed(models, moe, x):
    class Doubling(nn.Linear):  # stands for an adapter around the layer
        def forward(self, input):
            return 2 * super().forward(input)

    plain = moe(x, routing_of(models, "hard"))
    for net in (moe.net, *(expert.net for expert in moe.experts.values())):
        net[2].__class__ = Doubling
    compiled = torch.compile(moe, backend="eager")(x, routing_of(models, "hard"))
    torch.testing.assert_close(compiled, 2 * plain)


def saved_bytes(layer, *arguments):
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(*arguments)
    return sum(kept.values()), out


def test_hard_routing_keeps_no_more_for_the_backward_pass_than_one_dense_layer(models):
    x = torch.randn((IMAGES, CELLS, 128), requires_grad=True)
    dense = FeedForward(128)
    wanted, _ = saved_bytes(dense, x)
    got, _ = saved_bytes(MoEFeedForward(dense, EXPERTS), x, routing_of(models, "hard"))
    assert got <= 1.05 * wanted


def test_other_activations_are_refused():
    with pytest.raises(ConfigError, match=r"GEGLU or GELU.*SwiGLU"):
        MoEFeedForward(FeedForward(CHANNELS, activation_fn="swiglu"), 2)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_frozen_weights_and_dropout_go_with_grouped_products(models, moe, x, dropout, monkeypatch):
    monkeypatch.setattr("mamoe.models.experts.grouped.grouped_suits", lambda rows: True)
    for module in moe.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    moe.requires_grad_(False)
    x.requires_grad_()
    torch.manual_seed(0)
    moe(x, routing_of(models, "hard")).sum().backward()
    wanted = x.grad.clone()
    assert all(parameter.grad is None for parameter in moe.parameters())
    moe.requires_grad_(True)
    x.grad = None
    torch.manual_seed(0)
    moe(x, routing_of(models, "hard")).sum().backward()
    torch.testing.assert_close(x.grad, wanted)
    assert all(parameter.grad is not None for parameter in moe.parameters())


def test_grouped_products_under_autocast_answer_in_its_format(models, moe, x, monkeypatch):
    monkeypatch.setattr("mamoe.models.experts.grouped.grouped_suits", lambda rows: True)
    wanted = moe(x, routing_of(models, "hard"))
    with torch.autocast("cpu", torch.bfloat16):
        got = moe(x.requires_grad_(), routing_of(models, "hard"))
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), wanted, atol=3e-2, rtol=3e-2)
    got.float().sum().backward()
    assert x.grad.dtype == torch.float32 and moe.net[2].weight.grad.dtype == torch.float32
