"""Experts by low-rank additions, and beside a shared one, against their plain definitions."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention import FeedForward

from mamoe.errors import ConfigError
from mamoe.methods.full import Full
from mamoe.methods.lora_experts import LoraExperts
from mamoe.methods.shared_expert import SharedExpert
from mamoe.models.experts.lora import LoraExpertsFeedForward
from mamoe.models.experts.moe import MoEFeedForward, SharedExpertFeedForward
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.runs.adapter import trained_names

IMAGES, CELLS, CHANNELS, EXPERTS, RANK = 2, 30, 16, 4, 8


def shares(case):
    """f32[B N E]: the share of every cell that an expert has."""
    generator = torch.Generator().manual_seed(3)
    if case == "area":
        raw = torch.rand((IMAGES, CELLS, EXPERTS), generator=generator)
        raw = raw * (raw > raw.median())
        raw[..., 1] += 0.1
        return raw / raw.sum(2, keepdim=True)
    expert = {
        "hard": torch.multinomial(torch.tensor([0.4, 0.3, 0.2, 0.1]), IMAGES * CELLS, True, generator=generator),
        "no rest, no last": torch.randint(1, 3, (IMAGES * CELLS,), generator=generator),
        "rest alone": torch.zeros(IMAGES * CELLS, dtype=torch.long),
    }[case]
    return F.one_hot(expert, EXPERTS).float().view(IMAGES, CELLS, EXPERTS)


CASES = ["hard", "no rest, no last", "rest alone", "area"]


def routing_of(models, case):
    share = shares(case)
    return models.area(share) if case == "area" else models.hard(share.argmax(2), EXPERTS)


@pytest.fixture
def x():
    return torch.randn((IMAGES, CELLS, CHANNELS), generator=torch.Generator().manual_seed(4)).requires_grad_()


def lora_experts(rank=RANK):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    layer = LoraExpertsFeedForward(FeedForward(CHANNELS), EXPERTS, rank=rank, alpha=2.0 * rank, generator=generator)
    with torch.no_grad():
        for parameter in (layer.widen.up_EFr, layer.narrow.up_EFr):
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return layer


def shared_expert(models):
    torch.manual_seed(0)
    return models.trained(SharedExpertFeedForward(FeedForward(CHANNELS), EXPERTS))


def plain_lora_experts(layer, x, share):
    wide, narrow = layer.net[0].proj, layer.net[2]
    outputs = []
    for e in range(EXPERTS):
        first = wide.weight + 2.0 * layer.widen.up_EFr[e] @ layer.widen.down_ErC[e]
        second = narrow.weight + 2.0 * layer.narrow.up_EFr[e] @ layer.narrow.down_ErC[e]
        value, gate = F.linear(x, first, wide.bias).chunk(2, dim=-1)
        outputs.append(F.linear(value * F.gelu(gate), second, narrow.bias))
    return torch.einsum("ebnc,bne->bnc", torch.stack(outputs), share)


def plain_shared_expert(layer, x, share):
    added = torch.stack([torch.zeros_like(x), *(expert(x) for expert in layer.experts.values())])
    return layer(x) + torch.einsum("ebnc,bne->bnc", added, share)


def assert_same(layer, x, got, wanted):
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    weight = torch.linspace(-1, 1, got.numel()).view_as(got)
    leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]
    mine, theirs = (torch.autograd.grad((out * weight).sum(), leaves) for out in (got, wanted))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=5e-5, rtol=1e-4)


@pytest.mark.usefixtures("compilable")
@pytest.mark.parametrize("compiled", [False, True], ids=["in turn", "grouped"])
@pytest.mark.parametrize("case", CASES)
def test_lora_experts_are_full_experts_of_low_rank(case, compiled, models, x):
    layer = lora_experts()
    run = torch.compile(layer, backend="eager", fullgraph=True) if compiled else layer
    assert_same(layer, x, run(x, routing_of(models, case)), plain_lora_experts(layer, x, shares(case)))


@pytest.mark.usefixtures("compilable")
@pytest.mark.parametrize("compiled", [False, True], ids=["in turn", "grouped"])
@pytest.mark.parametrize("case", CASES)
def test_class_experts_add_to_the_shared_one(case, compiled, models, x):
    layer = shared_expert(models)
    run = torch.compile(layer, backend="eager", fullgraph=True) if compiled else layer
    assert_same(layer, x, run(x, routing_of(models, case)), plain_shared_expert(layer, x, shares(case)))


@pytest.mark.parametrize("rank", [3, RANK])
def test_merged_lora_experts_compute_the_same(rank, models, x):
    layer, routing = lora_experts(rank), routing_of(models, "area")
    before, without = layer(x, routing), layer(x)
    full = layer.merged()
    assert type(full) is MoEFeedForward and full.num_experts == EXPERTS
    torch.testing.assert_close(full(x, routing), before, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(full(x), without, atol=1e-5, rtol=1e-5)


def test_a_lora_without_cells_gets_zero_gradients_not_none(models, x):
    layer = lora_experts()
    layer(x, routing_of(models, "rest alone")).sum().backward()
    for parameter in (layer.widen.down_ErC, layer.narrow.up_EFr):
        assert parameter.grad[0].any() and not parameter.grad[1:].any()
    assert all(p.grad is None for p in layer.net.parameters())


@pytest.mark.usefixtures("compilable")
@pytest.mark.parametrize("kind", ["lora", "shared"])
def test_autocast_computes_in_bf16(kind, models, x):
    layer = lora_experts() if kind == "lora" else shared_expert(models)
    exact = layer(x, routing_of(models, "hard"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for run in (layer, torch.compile(layer, backend="eager", fullgraph=True)):
            rough = run(x, routing_of(models, "hard"))
            assert rough.dtype == torch.bfloat16
            assert 1e-5 < (rough.float() - exact).abs().max() / exact.abs().max() < 2e-2


def fresh(models, **options):
    return MaMoEUNet2DConditionModel.from_unet(models.unet(), num_experts=3, **options)


def output(models, unet):
    with torch.no_grad():
        return unet(**models.inputs(), cross_attention_kwargs={"regions": models.levels(2, (9, 14), 7)}).sample


def test_lora_experts_cost_a_few_percent_and_train_alone():
    with torch.device("meta"):
        stock = UNet2DConditionModel(
            attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True
        )
        method, trained = LoraExperts(), 0
        for layer in stock.modules():
            if isinstance(layer, FeedForward):
                lora = LoraExpertsFeedForward(
                    layer, 5, rank=method.rank, alpha=method.alpha, generator=torch.Generator()
                )
                trained += sum(p.numel() for p in lora.parameters() if p.requires_grad)
    assert 0.01 < trained / sum(p.numel() for p in stock.parameters()) < 0.03


def test_only_lora_experts_train(models):
    names = trained_names(LoraExperts(rank=2).prepare(fresh(models), seed=0))
    assert names and all(".ff.widen." in name or ".ff.narrow." in name for name in names)


def test_a_shared_expert_is_saved_and_read_by_us_and_as_a_stock_unet(models, tmp_path):
    unet = models.trained(SharedExpert().prepare(fresh(models, moe_levels=(0,)), seed=0))
    assert trained_names(unet) == trained_names(Full().prepare(fresh(models, moe_levels=(0,)), seed=0))
    unet.save_pretrained(tmp_path)
    again = MaMoEUNet2DConditionModel.from_pretrained(tmp_path, use_safetensors=True)
    assert any(isinstance(layer, SharedExpertFeedForward) for layer in again.modules())
    assert torch.equal(output(models, again), output(models, unet))
    dense = unet.to_dense()
    with torch.no_grad():
        torch.testing.assert_close(dense(**models.inputs()).sample, unet(**models.inputs()).sample)


@pytest.mark.parametrize("method", [LoraExperts(rank=2), SharedExpert()], ids=["lora", "shared"])
def test_unets_that_do_not_fit_are_refused(method, models):
    with pytest.raises(ConfigError, match=r"this network has none: switch layout\.moe on"):
        method.prepare(models.unet(), seed=0)
    with pytest.raises(ConfigError, match=r"trained before"):
        method.prepare(models.mamoe(), seed=0)
    with pytest.raises(ConfigError, match=r"at least 2: beside a shared expert"):
        MaMoEUNet2DConditionModel.from_unet(models.unet(), num_experts=1, shared_expert=True)


def test_low_rank_experts_need_no_copies_of_the_pretrained_one(models):
    """Where they are going to be replaced, experts take no memory on the way, and the result is the same to the bit."""
    made = {}
    for copies in (True, False):
        unet = MaMoEUNet2DConditionModel.from_unet(models.unet(), num_experts=4, copies=copies)
        places = [weight for name, weight in unet.named_parameters() if ".experts." in name]
        assert places and all(weight.is_meta is not copies for weight in places)
        made[copies] = LoraExperts(rank=4).prepare(unet, seed=3).state_dict()
    assert made[True].keys() == made[False].keys()
    assert all(torch.equal(value, made[True][name]) for name, value in made[False].items())


def test_experts_that_were_trained_are_not_mistaken_for_places(models):
    trained = models.mamoe(num_experts=4)
    again = MaMoEUNet2DConditionModel.from_unet(trained, num_experts=4, copies=False)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in again.state_dict().items())
    with pytest.raises(ConfigError, match="they were trained before"):
        LoraExperts().prepare(again, seed=0)
