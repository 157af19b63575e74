"""Small weights cast at once: the values and gradients of casts one by one. Autocast on a CPU stands in for a GPU's."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from mamoe.models.blocks.casting import cast_small_weights, holders


@pytest.fixture(autouse=True)
def autocast_widens_norms(monkeypatch):
    for place in ("norms", "casting"):
        monkeypatch.setattr(
            f"mamoe.models.blocks.{place}.widens_norms", lambda device: torch.is_autocast_enabled("cpu")
        )


@pytest.fixture
def one_by_one(monkeypatch):
    """Lets a model cast nothing at once."""

    def of(model):
        monkeypatch.setattr(model, "_holders", [])
        return model

    return of


def outcome(models, model):
    given = {**models.inputs(), "cross_attention_kwargs": {"regions": models.levels(2, (9, 14), 7)}}
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(**given).sample
    out.float().square().mean().backward()
    return out, {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


def freeze_all_but_the_decoder(model):
    model.requires_grad_(False)
    model.up_blocks.requires_grad_(True)


@pytest.mark.parametrize("form", ["plain", "checkpointed", "frozen", "all frozen but a norm", "decoder checkpointed"])
def test_values_and_gradients_are_those_of_casts_one_by_one(models, one_by_one, form):
    model = models.mamoe().train()
    if "checkpointed" in form:
        model.enable_gradient_checkpointing()
    if form == "frozen":
        model.down_blocks.requires_grad_(False)
    if form == "all frozen but a norm":
        model.requires_grad_(False)
        model.conv_norm_out.requires_grad_(True)
    if "decoder" in form:
        freeze_all_but_the_decoder(model)
    out, gradients = outcome(models, model)
    wanted, wanted_gradients = outcome(models, one_by_one(copy.deepcopy(model)))
    assert torch.equal(out, wanted) and gradients.keys() == wanted_gradients.keys()
    for name, gradient in wanted_gradients.items():
        assert torch.equal(gradients[name], gradient) and gradient.dtype == torch.float32, name


def test_what_is_frozen_in_front_of_the_first_trained_weight_keeps_nothing_for_gradients(models, one_by_one):
    model = models.mamoe().train()
    freeze_all_but_the_decoder(model)

    def kept(model):
        sizes = []

        def keep(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outcome(models, model)
        return sum(sizes)

    assert kept(model) == kept(one_by_one(copy.deepcopy(model)))


def test_weights_are_back_in_their_places_whatever_happened(models):
    model = models.mamoe()
    before = dict(model.named_parameters())
    seen = []

    def fail(module, args):
        seen.append(module.bias.dtype)
        raise RuntimeError("halfway")

    hook = model.mid_block.resnets[0].conv1.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="halfway"):
        outcome(models, model)
    hook.remove()
    assert seen == [torch.bfloat16]
    assert all(weight is before[name] for name, weight in model.named_parameters())


def test_a_copy_does_not_keep_the_modules_it_loses(models):
    model = models.mamoe()
    outcome(models, model)
    shortened = copy.deepcopy(model)
    shortened.up_blocks = nn.ModuleList()
    inside = set(shortened.modules())
    assert set(shortened._holding()) < inside and len(model._holding()) > len(shortened._holding())


def test_a_bias_that_is_kept_elsewhere_is_left_alone(models, one_by_one):
    model = models.mamoe()
    prune.l1_unstructured(model.mid_block.resnets[0].conv1, "bias", amount=1)
    out, _ = outcome(models, model)
    assert torch.equal(out, outcome(models, one_by_one(model))[0])


def test_what_is_cast_begins_at_whole_16_bytes():
    network = nn.Sequential(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7), nn.Linear(7, 8), nn.Linear(8, 1)))
    before = [weight.detach().clone() for weight in network.parameters()]
    within = holders(network, but=nn.Conv2d)
    with torch.autocast("cpu", torch.bfloat16), cast_small_weights(lambda: within, torch.device("cpu")):
        cast = list(network.parameters())
    for weight, was in zip(cast, before, strict=True):
        assert torch.equal(weight, was.to(weight.dtype)) and weight.data_ptr() % 16 == 0
    assert [weight.dtype for weight in cast] == [torch.float32, torch.bfloat16] * 4


def test_what_is_large_expert_compiled_or_of_another_type_keeps_its_own(models):
    model = models.mamoe()

    def cast():
        """The names of the weights that are in another's place."""
        own = {name: id(weight) for name, weight in model.named_parameters()}
        with torch.autocast("cpu", torch.bfloat16), cast_small_weights(model._holding, torch.device("cpu")):
            return {name for name, weight in model.named_parameters() if own.get(name) != id(weight)}

    names = cast()
    assert names and all(name.endswith("bias") or "norm" in name for name in names)
    assert not any(".ff." in name for name in names)
    block = model.mid_block.attentions[0].transformer_blocks[0]
    block._compiled_call_impl = block._call_impl
    assert cast() == set()
    block._compiled_call_impl = None
    model.conv_in.half()
    block.norm1.half()
    assert cast() == set()


def test_a_layer_that_took_anothers_place_is_left_alone(models, one_by_one):
    class Adapted(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base

        def forward(self, x):
            return 2 * self.base(x)

    model = models.mamoe()
    out_layers = model.mid_block.attentions[0].transformer_blocks[0].attn1.to_out
    out_layers[0] = Adapted(out_layers[0])
    out, _ = outcome(models, model)
    assert torch.equal(out, outcome(models, one_by_one(copy.deepcopy(model)))[0])


@pytest.mark.parametrize("learns", [False, True])
def test_gradients_of_a_text_that_learns_add_up_in_its_own_type(models, learns):
    model, seen = models.mamoe().train(), []
    for name, layer in model.named_modules():
        if name.endswith("attn2.to_k"):
            layer.register_forward_pre_hook(lambda layer, args: seen.append(args[0].dtype))
    given = {**models.inputs(), "cross_attention_kwargs": {"regions": models.levels(2, (9, 14), 7)}}
    given["encoder_hidden_states"].requires_grad_(learns)
    with torch.autocast("cpu", torch.bfloat16):
        model(**given)
    assert set(seen) == {torch.float32 if learns else torch.bfloat16}
