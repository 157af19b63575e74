"""The experts' weights as one tensor: the same values and gradients as a plain stack, without a copy where they may."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mamoe.models.experts.moe import prepare_experts
from mamoe.models.experts.stacking import lay_end_to_end, stacked


def parts(count=3, shape=(4, 5)):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for _ in range(count)]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_a_stack_with_the_gradients_of_one(together, dtype):
    ours, plain = parts(), parts()
    if together:
        lay_end_to_end(ours)
    ours[1].requires_grad_(False)
    whole, wanted = stacked(ours, dtype), torch.stack([part.to(dtype) for part in plain])
    assert torch.equal(whole, wanted)
    weight = torch.linspace(-1, 1, whole.numel()).view_as(whole)
    (whole * weight).sum().backward()
    (wanted * weight).sum().backward()
    assert ours[1].grad is None
    assert all(torch.equal(ours[i].grad, plain[i].grad) and ours[i].grad.dtype == torch.float32 for i in (0, 2))


def test_parts_that_lie_end_to_end_are_not_copied_and_stay_apart():
    ours = parts()
    names = [id(part) for part in ours]
    lay_end_to_end(ours)
    whole = stacked(ours, torch.float32)
    assert whole.data_ptr() == ours[0].data_ptr() and [id(part) for part in ours] == names
    with torch.no_grad():
        ours[1].fill_(7)  # what an optimizer does is seen at once, whatever it writes through
        ours[2].data += 1
    assert torch.equal(stacked(ours, torch.float32), torch.stack(list(ours)))
    memory = ours[0].data_ptr()
    lay_end_to_end(ours)
    assert ours[0].data_ptr() == memory
    moved = [nn.Parameter(part.detach().double()) for part in ours]
    assert torch.equal(stacked(moved, torch.float64), torch.stack(moved))


@pytest.mark.parametrize("rows", [None, 8])
def test_parts_that_have_a_memory_stay_where_they_are(rows):
    ours = parts(3, (4,))
    memory = lay_end_to_end(ours, rows)
    places = [part.data_ptr() for part in ours]
    again = lay_end_to_end(ours, rows)
    assert memory is not None and again is not None and torch.equal(again, memory)
    assert [part.data_ptr() for part in ours] == places and again.data_ptr() == memory.data_ptr()
    assert len(lay_end_to_end(ours, 16)) == 16 and ours[0].data_ptr() != places[0]


def test_a_recording_of_a_network_that_is_told_to_go_where_it_is_reads_its_weights_still(models, monkeypatch):
    monkeypatch.setattr("mamoe.models.experts.grouped.grouped_suits", lambda rows: True)
    model = models.mamoe()
    prepare_experts(model)
    places = [weight.data_ptr() for weight in model.parameters()]
    model.to("cpu")
    prepare_experts(model)
    assert [weight.data_ptr() for weight in model.parameters()] == places


def test_unlike_parts_are_left_alone():
    ours = [*parts(2), *parts(1, (5, 4))]
    lay_end_to_end(ours)
    assert ours[0].untyped_storage().data_ptr() != ours[1].untyped_storage().data_ptr()


def test_a_model_laid_out_for_grouped_products_computes_and_saves_the_same(models, monkeypatch, tmp_path):
    monkeypatch.setattr("mamoe.models.experts.grouped.grouped_suits", lambda rows: True)
    model = models.mamoe()
    given = {**models.inputs(), "cross_attention_kwargs": {"regions": models.levels(2, (9, 14), 7)}}

    def outcome():
        out = model(**given).sample
        return [out, *torch.autograd.grad(out.square().mean(), list(model.parameters()))]

    before, keys = outcome(), list(model.state_dict())
    prepare_experts(model)
    experts = [module for module in model.modules() if hasattr(module, "nets")]
    pointers = [{net[2].weight.untyped_storage().data_ptr() for net in layer.nets} for layer in experts]
    assert experts and all(len(memories) == 1 for memories in pointers)
    assert all(torch.equal(a, b) for a, b in zip(before, outcome(), strict=True))
    assert list(model.state_dict()) == keys
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, use_safetensors=True)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_memory_is_asked_for_again_when_the_weights_have_left_it(models, monkeypatch):
    monkeypatch.setattr("mamoe.models.experts.grouped.grouped_suits", lambda rows: True)
    model = models.mamoe()
    given = {**models.inputs(), "cross_attention_kwargs": {"regions": models.levels(2, (9, 14), 7)}}
    wanted = model(**given).sample
    prepare_experts(model)
    layers = [module for module in model.modules() if hasattr(module, "nets")]
    memories = layers[0]._laid.memories
    assert [len(memory) for memory in memories] == [3, 8, 3, 8]
    assert not memories[1][3:].any() and not memories[3][3:].any()
    prepare_experts(model)
    assert layers[0]._laid.memories is memories
    assert torch.equal(model(**given).sample, wanted)
    layers[0].net[2].bias.data = layers[0].net[2].bias.detach() + 1
    changed = model(**given).sample
    assert layers[0]._laid is None and not torch.equal(changed, wanted)
    layers[0].net[2].bias.data -= 1
    torch.testing.assert_close(model(**given).sample, wanted, atol=1e-5, rtol=1e-4)
    prepare_experts(model)
    layers[0].net[2].weight = nn.Parameter(layers[0].net[2].weight.detach())  # another parameter in the same memory
    model(**given).sample.sum().backward()
    assert layers[0]._laid is None and layers[0].net[2].weight.grad is not None
    model.double()
    assert all(layer._laid is None for layer in layers)


@pytest.mark.parametrize("what", ["expert", "first layer", "product", "another expert more"])
def test_what_is_put_in_the_place_of_an_expert_works(models, monkeypatch, what):
    monkeypatch.setattr("mamoe.models.experts.grouped.grouped_suits", lambda rows: True)
    layer = next(module for module in models.mamoe().modules() if hasattr(module, "nets"))
    layer.prepare()
    if what == "another expert more":
        layer.experts["3"] = copy.deepcopy(layer.experts["2"])
        assert not layer._laid.suits(layer.net[2].weight, layer.nets)
        return
    cells = torch.randn(1, 12, layer.net[2].out_features)
    routing = models.hard(torch.arange(12)[None] % 3, 3)
    before = layer(cells, routing)
    assert layer._laid is not None
    changed = copy.deepcopy(layer.experts["1"])
    for weight in changed.parameters():
        weight.data *= 3
    if what == "expert":
        layer.experts["1"] = changed
    elif what == "first layer":
        layer.experts["1"].net[0] = changed.net[0]
    else:
        layer.experts["1"].net[2] = changed.net[2]
    after = layer(cells, routing)
    assert layer._laid is None and not torch.allclose(after, before)
    assert torch.allclose(after[:, 0::3], before[:, 0::3], atol=1e-5)


def test_a_copy_keeps_no_memory_in_which_its_weights_are_not(models, monkeypatch):
    monkeypatch.setattr("mamoe.models.experts.grouped.grouped_suits", lambda rows: True)
    layer = next(module for module in models.mamoe().modules() if hasattr(module, "nets"))
    layer.prepare()
    assert layer._laid is not None
    assert copy.deepcopy(layer)._laid is None and pickle.loads(pickle.dumps(layer))._laid is None
    assert layer._laid is not None


def test_beside_a_shared_expert_no_memory_is_kept(models, monkeypatch):
    monkeypatch.setattr("mamoe.models.experts.grouped.grouped_suits", lambda rows: True)
    model = models.mamoe(shared_expert=True)
    prepare_experts(model)
    assert all(module._laid is None for module in model.modules() if hasattr(module, "nets"))


def test_weights_laid_out_in_inference_mode_can_be_trained():
    ours = parts()
    with torch.inference_mode():
        lay_end_to_end(ours)
    (ours[0] * ours[1]).sum().backward()
    assert torch.equal(ours[0].grad, ours[1].detach()) and ours[0].data_ptr() < ours[1].data_ptr()
