"""Ways of fine-tuning: nothing changes at first, the right weights train, and merging keeps the function."""

import copy

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from mamoe.errors import ConfigError
from mamoe.methods.decoder import Decoder
from mamoe.methods.dora import Dora
from mamoe.methods.full import Full
from mamoe.methods.lora import Lora, to_channels_last
from mamoe.methods.lora_experts import LoraExperts
from mamoe.methods.options import Target
from mamoe.methods.registry import METHODS as BY_NAME
from mamoe.methods.registry import method_of
from mamoe.methods.shared_expert import SharedExpert
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.runs.adapter import ADAPTER, load_adapter, save_adapter, trained_names
from mamoe.runs.recipe import Recipe, Terms, write_recipe
from mamoe.runs.source import Source
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.taxonomy import Taxonomy

METHODS = {
    "full": Full(),
    "decoder": Decoder(),
    "lora": Lora(rank=4, alpha=8.0),
    "decoder lora": Lora(rank=4, alpha=4.0, decoder_only=True),
    "dora": Dora(rank=4, alpha=4.0),
}
OF_EXPERTS = {"lora experts": LoraExperts(rank=3, alpha=6.0), "shared expert": SharedExpert()}
ALL = METHODS | OF_EXPERTS
CASES = [(name, steered) for name in METHODS for steered in (False, True)] + [(name, True) for name in OF_EXPERTS]


def a_unet(models, steered: bool, method=None):
    if isinstance(method, LoraExperts | SharedExpert):  # these start from experts that are still copies
        return MaMoEUNet2DConditionModel.from_unet(models.unet(), num_experts=3)
    return models.mamoe() if steered else models.unet()


def only(*targets: str) -> dict[str, bool]:
    return {target.value: target in targets for target in Target}


def has_adapters(unet) -> bool:
    return any(isinstance(module, BaseTunerLayer) for module in unet.modules())


def output(models, unet, steered: bool):
    call = models.inputs()
    layout = {"cross_attention_kwargs": {"regions": models.levels(2, (9, 14), 7)}} if steered else {}
    with torch.no_grad():
        return unet(**call, **layout).sample


def shaken(unet):
    """The UNet after every trained weight has moved."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in unet.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return unet


@pytest.mark.parametrize(("name", "steered"), CASES)
def test_prepared_is_the_same_function_and_merged_keeps_what_was_learned(name, steered, models, tmp_path):
    method = ALL[name]
    unet = a_unet(models, steered, method)
    before = output(models, unet, steered)
    prepared = method.prepare(unet, seed=3)
    torch.testing.assert_close(output(models, prepared, steered), before, rtol=0, atol=1e-5)
    trained = trained_names(prepared)
    assert trained
    learned = shaken(prepared)
    after = output(models, learned, steered)
    assert (after - before).abs().max() > 1e-3

    if method.keeps_adapter_alone:
        save_adapter(learned, learned.state_dict(), tmp_path)
        again = method.prepare(a_unet(models, steered, method), seed=9)
        load_adapter(again, tmp_path)
        torch.testing.assert_close(output(models, again, steered), after, rtol=0, atol=1e-6)
    merged = method.merged(learned)
    assert not has_adapters(merged)
    assert set(merged.state_dict()) == set(a_unet(models, steered, method).state_dict())
    torch.testing.assert_close(output(models, merged, steered), after, rtol=1e-4, atol=1e-5)


def test_what_trains(models):
    unet = models.mamoe()
    everything = [name for name, _ in unet.named_parameters()]
    assert trained_names(Full().prepare(unet, seed=0)) == everything
    decoder = trained_names(Decoder().prepare(unet, seed=0))
    assert decoder == [n for n in everything if n.startswith(("up_blocks.", "conv_norm_out.", "conv_out."))]
    count = {}
    for target in Target:
        names = trained_names(Lora(rank=2, **only(target)).prepare(models.mamoe(), seed=0))
        assert all(".lora_A." in name or ".lora_B." in name for name in names)
        count[target] = len(names)
        inside = {
            Target.ATTENTION: (".to_q.", ".to_k.", ".to_v.", ".to_out."),
            Target.CONV: (".conv1.", ".conv2.", ".conv_shortcut.", "samplers."),
            Target.PROJECTION: (".proj_in.", ".proj_out.", ".time_emb_proj."),
            Target.FEED_FORWARD: (".ff.",),
        }[target]
        assert all(any(part in name for part in inside) for name in names)
        if target is Target.FEED_FORWARD:
            assert any(".experts.2." in name for name in names)
    assert len(trained_names(Lora(rank=2).prepare(models.mamoe(), seed=0))) == sum(count.values())


@pytest.mark.parametrize("name", ALL)
def test_learned_strengths_train_with_every_method(name, models):
    unet = MaMoEUNet2DConditionModel.from_unet(models.unet(), num_experts=3, learned_strength=True)
    prepared = ALL[name].prepare(unet, seed=0)
    assert any(".strength." in weight for weight in trained_names(prepared))


def test_seed_decides_the_adapters_and_leaves_the_global_stream_alone(models):
    state = torch.get_rng_state()
    first, same, other = (Lora(rank=2).prepare(models.unet(), seed=seed).state_dict() for seed in (1, 1, 2))
    key = next(name for name in first if ".lora_A." in name)
    assert torch.equal(first[key], same[key]) and not torch.equal(first[key], other[key])
    torch.set_rng_state(state)
    Lora(rank=2).prepare(copy.deepcopy(models.unet()), seed=1)
    unet = models.unet()
    assert Lora(rank=2, **only(Target.ATTENTION)).layers(unet) != Lora(rank=2).layers(unet)


def test_dora_computes_the_same_with_channels_last(models):
    unet = shaken(ALL["dora"].prepare(models.unet(), seed=0))
    before = output(models, unet, False)
    assert to_channels_last(unet).conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output(models, unet, False), before, rtol=1e-4, atol=1e-5)


def test_an_adapter_for_another_model_is_refused(models, tmp_path):
    small, large = Lora(rank=2).prepare(models.unet(), seed=0), Lora(rank=4).prepare(models.unet(), seed=0)
    save_adapter(small, small.state_dict(), tmp_path)
    kept = (tmp_path / ADAPTER).read_bytes()
    before = {name: value.clone() for name, value in large.state_dict().items()}
    with pytest.raises(ConfigError, match="does not fit this model"):
        load_adapter(large, tmp_path)
    with pytest.raises(ConfigError, match=r"experts"):
        load_adapter(Lora(rank=2).prepare(models.mamoe(), seed=0), tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in large.state_dict().items())
    assert (tmp_path / ADAPTER).read_bytes() == kept


def test_methods_by_name():
    assert all(kind.name == name and method_of({"name": name}) == kind() for name, kind in BY_NAME.items())
    assert method_of({"name": "full"}) == Full()
    options = {"rank": 8, "alpha": 4.0, "attention": True, "conv": False, "projection": False, "feed_forward": True}
    made = method_of({"name": "dora", **options, "decoder_only": False})
    assert made == Dora(rank=8, alpha=4.0, **only(Target.ATTENTION, Target.FEED_FORWARD))
    assert method_of({"name": "lora_experts", "rank": 4, "alpha": 2.0}) == LoraExperts(rank=4, alpha=2.0)
    assert method_of({"name": "shared_expert"}) == SharedExpert()
    with pytest.raises(ConfigError, match="there are full, decoder, lora"):
        method_of({"name": "prompt"})
    with pytest.raises(ConfigError, match="needs at least one target"):
        Lora(**only())


def test_an_adapter_of_another_base_of_the_same_shapes_is_refused(models, tmp_path):
    unet = shaken(Lora(rank=4).prepare(models.mamoe(), seed=0))
    save_adapter(unet, unet.state_dict(), tmp_path / "unet")
    terms = Terms(layout=LayoutSettings(taxonomy=Taxonomy.load("scenes")))
    write_recipe(Recipe(base=Source(path="its/base"), scheduler={}, terms=terms), tmp_path)
    half = models.mamoe().half().float()
    load_adapter(Lora(rank=4).prepare(half, seed=1), tmp_path / "unet")  # the same base, kept in half precision
    other = models.mamoe()
    with torch.no_grad():
        other.down_blocks[1].resnets[0].conv1.weight.mul_(1.01)
    with pytest.raises(ConfigError, match=r"another base model \(its/base\), .* fingerprint \w{24}; this model's"):
        load_adapter(Lora(rank=4).prepare(other, seed=0), tmp_path / "unet")


def test_targets_that_match_no_layer_are_refused_with_those_that_do(models):
    plain = models.unet(up_block_types=("UpBlock2D",) * 3)
    with pytest.raises(
        ConfigError, match=r"no layer for attention, feed_forward: .* none in its up blocks.*for conv, "
    ):
        Lora(**only("attention", "conv", "feed_forward"), decoder_only=True).prepare(plain, seed=0)
    assert not has_adapters(plain)
    assert has_adapters(Lora(rank=2, **only("attention", "conv")).prepare(plain, seed=0))


def test_a_shared_expert_is_made_in_place_of_the_copies(models):
    copies = MaMoEUNet2DConditionModel.from_unet(models.unet(), num_experts=3)
    converted = MaMoEUNet2DConditionModel.from_unet(models.unet(), num_experts=3, shared_expert=True)
    made = SharedExpert().prepare(copies, seed=0)
    assert made is copies and dict(made.config) == dict(converted.config)
    assert [name for name, _ in made.named_parameters()] == [name for name, _ in converted.named_parameters()]
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in converted.state_dict().items())
