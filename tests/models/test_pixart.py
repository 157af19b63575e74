"""PixArt's transformer: the stock one where it must be, steered by the layout where it may be, and portable."""

import inspect
import re

import pytest
import torch
from diffusers import PixArtTransformer2DModel, SanaTransformer2DModel

from mamoe.errors import ConfigError
from mamoe.methods.lora import Lora
from mamoe.methods.options import Target
from mamoe.methods.registry import METHODS
from mamoe.models.backbones import backbone_of, backbone_of_class, pyramid_of
from mamoe.models.control.call import predict, with_layout
from mamoe.models.dit.pixart import MaMoEPixArtTransformer2DModel
from mamoe.vocabulary.conditioning import LevelConditioning
from small_models import TEXT_WIDTH

SIZE = (12, 18)  # latent cells
GRID = (6, 9)
SIGMA_XL = {  # PixArt-Sigma-XL-2-1024-MS
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "caption_channels": 4096,
    "cross_attention_dim": 1152,
    "in_channels": 4,
    "interpolation_scale": 2,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "norm_type": "ada_norm_single",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 128,
    "use_additional_conditions": False,
}


def given(models, batch=2, size=SIZE, tokens=7):
    made = models.inputs(batch, size, tokens)
    return {"hidden_states": made.pop("sample"), **made}


def layout(models, batch=2, tokens=7, **options):
    return models.levels(batch, GRID, tokens, num_levels=1, **options)


def run(model, inputs, levels=None, **options):
    kwargs = {} if levels is None else {"cross_attention_kwargs": {"regions": levels}}
    return model(**inputs, **kwargs, **options).sample


def difference(a, b):
    return (a - b).abs().max().item()


# Identity with the stock transformer.


@torch.no_grad()
def test_at_initialisation_it_is_the_stock_transformer(models):
    stock = models.pixart()
    model = MaMoEPixArtTransformer2DModel.from_transformer(stock, num_experts=3)
    inputs = given(models)
    wanted = run(stock, inputs)
    assert difference(run(model, inputs), wanted) < 1e-5
    assert difference(run(model, inputs, layout(models, covering=True)), wanted) < 1e-5
    assert difference(run(model, inputs, layout(models)), wanted) > 1e-3
    learned = MaMoEPixArtTransformer2DModel.from_transformer(stock, learned_strength=True)
    dense = tuple(LevelConditioning(grid=GRID, attend=one.attend, routing=None) for one in layout(models))
    hard = MaMoEPixArtTransformer2DModel.from_transformer(stock)
    assert torch.equal(run(learned, inputs, dense), run(hard, inputs, dense))


@torch.no_grad()
def test_a_region_mask_is_the_stock_mask(models):
    # The stock model takes a mask per cell too: the oracle of ours.
    stock = models.pixart()
    (level,) = layout(models)
    model = MaMoEPixArtTransformer2DModel.from_transformer(stock)
    dense = (LevelConditioning(grid=GRID, attend=level.attend, routing=None),)
    inputs = given(models)
    torch.testing.assert_close(run(model, inputs, dense), run(stock, inputs, encoder_attention_mask=level.attend))


@torch.no_grad()
def test_padding_is_left_out_as_the_stock_transformer_leaves_it_out(models):
    stock, valid = models.pixart(), torch.arange(7) < torch.tensor([[5], [7]])
    model = MaMoEPixArtTransformer2DModel.from_transformer(stock)
    inputs = given(models)
    wanted = run(stock, inputs, encoder_attention_mask=valid)
    assert difference(run(model, inputs, encoder_attention_mask=valid), wanted) < 1e-5
    assert difference(run(model, inputs), wanted) > 1e-4


@pytest.mark.parametrize("shared", [False, True])
@torch.no_grad()
def test_there_and_back_and_through_a_file(models, shared, tmp_path):
    stock = models.pixart()
    model = MaMoEPixArtTransformer2DModel.from_transformer(stock, num_experts=3, shared_expert=shared)
    inputs, levels = given(models), layout(models)
    assert difference(run(model.to_dense(), inputs), run(stock, inputs)) == 0
    models.trained(model)
    model.save_pretrained(tmp_path)
    again = MaMoEPixArtTransformer2DModel.from_pretrained(tmp_path)
    assert torch.equal(run(again, inputs, levels), run(model, inputs, levels))
    dense = PixArtTransformer2DModel.from_pretrained(tmp_path)  # expert 0 keeps the stock keys
    assert difference(run(dense, inputs), run(model, inputs)) < 1e-6
    public = {key for key in stock.config if not key.startswith("_")}
    assert {key: model.to_dense().config[key] for key in public} == {key: stock.config[key] for key in public}
    with pytest.raises(ConfigError, match="does not hold 4 experts"):
        MaMoEPixArtTransformer2DModel.from_pretrained(tmp_path, num_experts=4)


def test_checkpointing_gives_the_same_gradients(models):
    model = models.mamoe_pixart(learned_strength=True).train()
    inputs, levels = given(models), layout(models)
    kept = torch.autograd.grad(run(model, inputs, levels).square().sum(), list(model.parameters()), allow_unused=True)
    model.enable_gradient_checkpointing()
    again = torch.autograd.grad(run(model, inputs, levels).square().sum(), list(model.parameters()), allow_unused=True)
    assert all(one is None or torch.equal(one, other) for one, other in zip(kept, again, strict=True))
    missing = [name for (name, _), one in zip(model.named_parameters(), kept, strict=True) if one is None]
    assert not missing


@torch.no_grad()
def test_cells_lie_in_memory_as_norms_read_them(models):
    # The patches come channels first; were they left so, every norm would turn them round, and its gradient back.
    model, lie = models.mamoe_pixart(), []
    for block in model.transformer_blocks[1:]:
        block.norm1.register_forward_pre_hook(lambda norm, args: lie.append(args[0].is_contiguous()))
    run(model, given(models), layout(models))
    assert lie and all(lie)


@torch.no_grad()
def test_default_processors_come_back(models):
    model = models.mamoe_pixart()
    inputs, levels = given(models), layout(models)
    wanted = run(model, inputs, levels)
    model.set_default_attn_processor()
    assert torch.equal(run(model, inputs, levels), wanted)


# The real one.


def test_pixart_sigma_has_the_names_experts_and_targets_it_should():
    with torch.device("meta"):
        stock = PixArtTransformer2DModel(**SIGMA_XL)
        model = with_layout(stock, num_experts=5)
    assert sum(p.numel() for p in stock.parameters()) == 610_856_096
    names, added = set(dict(stock.named_parameters())), set(dict(model.named_parameters()))
    experts = {
        f"transformer_blocks.{block}.ff.experts.{i}.net.{layer}.{kind}"
        for block in range(28)
        for i in range(1, 5)
        for layer in ("0.proj", "2")
        for kind in ("weight", "bias")
    }
    assert added == names | experts and len(experts) == 448
    assert sum(model.get_parameter(name).numel() for name in experts) == 28 * 4 * (2 * 1152 * 4608 + 4608 + 1152)
    assert pyramid_of(model).count == 1 and pyramid_of(model).skipped == 1
    assert backbone_of(model).text_width(model.config) == 4096
    counts = {Target.ATTENTION: 28 * 8, Target.PROJECTION: 1 + 1 + 2 + 1 + 2, Target.FEED_FORWARD: 28 * 2 * 5}
    for target, count in counts.items():
        found = adapted(model, **{other: other == target for other in Target})
        assert len(found) == count, target


def adapted(model, **options):
    expression = Lora(rank=2, **options).layers(model)
    return [name for name, _ in model.named_modules() if re.fullmatch(expression, name)]


# Methods.


@pytest.mark.parametrize("name", ["full", "lora", "dora", "lora_experts", "shared_expert"])
@torch.no_grad()
def test_methods_begin_as_the_model_and_merge_to_what_they_computed(models, name):
    stock = models.pixart()
    kind = METHODS[name]
    method = kind(rank=4, alpha=4, conv=False) if name in ("lora", "dora") else kind()
    model = with_layout(stock, num_experts=3, copies=not method.replaces_experts)
    inputs, levels = given(models), layout(models, covering=True)
    network = method.prepare(model, seed=1)
    assert difference(run(network, inputs, levels), run(stock, inputs)) < 1e-5
    trains = [p for p in network.parameters() if p.requires_grad]
    assert trains and all(not p.is_meta for p in network.parameters())
    for p in trains:
        p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
    after = run(network, inputs, layout(models))
    merged = method.merged(network)
    assert difference(run(merged, inputs, layout(models)), after) < 1e-4
    assert not any("lora" in key for key in merged.state_dict()) or name == "lora_experts"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (METHODS["decoder"](), "no such part"),
        (METHODS["lora"](decoder_only=True, conv=False), "no such part"),
        (METHODS["lora"](), "method.conv=false"),
        (METHODS["concat"](), "condition picture"),
        (METHODS["controlnet_xs"](), "condition picture"),
    ],
)
def test_methods_that_do_not_fit_say_so(models, method, said):
    with pytest.raises(ConfigError, match=said):
        method.prepare(with_layout(models.pixart(), num_experts=2), seed=0)


# What is refused.


def test_an_unknown_backbone_is_refused_with_those_that_are_known():
    with pytest.raises(ConfigError, match=r"SanaTransformer2DModel: .*convolution.*UNet2DConditionModel, PixArt"):
        backbone_of_class(SanaTransformer2DModel)
    with pytest.raises(ConfigError, match="mask per cell"):
        backbone_of(torch.nn.Linear(1, 1))


@torch.no_grad()
def test_a_layout_that_would_be_ignored_is_never_passed(models):
    inputs = {"encoder_hidden_states": torch.zeros(2, 7, TEXT_WIDTH)}
    steered = {**inputs, "cross_attention_kwargs": {"regions": layout(models)}}
    noisy = torch.zeros(2, 4, *SIZE)
    for stock in (models.pixart(), models.unet()):
        with pytest.raises(ValueError, match="would ignore the layout"):
            predict(stock, noisy, 3, steered)
        assert predict(stock, noisy, 3, inputs).shape == noisy.shape  # the learned variance is left out
    assert predict(models.mamoe_pixart(), noisy, 3, steered).shape == noisy.shape


def test_what_does_not_fit_is_told(models):
    model, inputs = models.mamoe_pixart(), given(models)
    with pytest.raises(ValueError, match=r"must have \(6, 9\) cells"):
        run(model, inputs, models.levels(2, (9, 6), 7, num_levels=1))
    with pytest.raises(ValueError, match="1 levels, got 3"):
        run(model, inputs, models.levels(2, GRID, 7))
    with pytest.raises(ValueError, match="whole patches of 2x2"):
        run(model, given(models, size=(11, 18)))
    with pytest.raises(ConfigError, match=r"moe_levels must be \[0\]"):
        with_layout(models.pixart(), num_experts=2, moe_levels=[1])
    with pytest.raises(ConfigError, match="3 experts, 2 are asked"):
        with_layout(model, num_experts=2)
    assert list(inspect.signature(MaMoEPixArtTransformer2DModel).parameters)[:2] == ["num_experts", "region_attention"]
