"""Region attention softer than a mask: log weights of area shares, and a strength that every head learns."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch._dynamo.testing import CompileCounter

from mamoe.errors import ConfigError
from mamoe.models.blocks.strength import RegionStrength, noise_features
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.vocabulary.conditioning import LevelConditioning

SIZE = (9, 14)


def run(unet, given, levels):
    return unet(**given, cross_attention_kwargs={"regions": levels}).sample


def largest_difference(a, b):
    return (a - b).abs().max().item()


def weighted(levels, *, covering=False, seed=5):
    """The same layout with random log weights where its mask is True."""
    generator = torch.Generator().manual_seed(seed)
    soft = []
    for level in levels:
        share = torch.rand(level.attend.shape, generator=generator).clamp(min=0.01)
        share = torch.ones_like(share) if covering else share * level.attend
        share[..., 0] = 1.0
        soft.append(LevelConditioning(grid=level.grid, attend=share.log(), routing=level.routing))
    return tuple(soft)


def learned_unet(models, moved=True, **options):
    """A UNet with a learned strength; ``moved`` = every weight, the strengths' too, is off its start."""
    model = MaMoEUNet2DConditionModel.from_unet(models.unet(), num_experts=3, learned_strength=True, **options)
    return models.trained(model) if moved else model


def strengths(model):
    return [layer for layer in model.modules() if isinstance(layer, RegionStrength)]


@pytest.fixture(params=["soft", "learned"])
def steered(models, request):
    """(UNet, batch, seed -> layout) of a kind."""
    if request.param == "soft":
        return models.mamoe(), lambda batch, seed=0: weighted(models.levels(batch, SIZE, 7, seed=seed))
    return learned_unet(models), lambda batch, seed=0: models.levels(batch, SIZE, 7, seed=seed)


# What the two kinds are.


@torch.no_grad()
def test_log_weights_of_ones_and_zeros_are_a_mask(models):
    model, given, levels = models.mamoe(), models.inputs(size=SIZE), models.levels(2, SIZE, 7)
    as_weights = tuple(
        LevelConditioning(grid=lv.grid, attend=lv.attend.float().log(), routing=lv.routing) for lv in levels
    )
    assert largest_difference(run(model, given, as_weights), run(model, given, levels)) < 1e-5
    assert largest_difference(run(model, given, weighted(levels)), run(model, given, levels)) > 1e-3


@torch.no_grad()
def test_a_weight_of_two_copies_counts_as_one_token_twice(models):
    model, given = models.mamoe(), models.inputs(size=SIZE)
    given["encoder_hidden_states"][:, 6] = given["encoder_hidden_states"][:, 5]
    doubled, lone = [], []
    for level in models.levels(2, SIZE, 7, covering=True):
        share = torch.ones(level.attend.shape)
        doubled.append(LevelConditioning(grid=level.grid, attend=share.log(), routing=level.routing))
        share = share.clone()
        share[..., 5], share[..., 6] = 2.0, 0.0
        lone.append(LevelConditioning(grid=level.grid, attend=share.log(), routing=level.routing))
    assert largest_difference(run(model, given, tuple(doubled)), run(model, given, tuple(lone))) < 1e-5


@torch.no_grad()
def test_learned_starts_as_hard_bit_for_bit(models):
    hard = MaMoEUNet2DConditionModel.from_unet(models.unet(), num_experts=3)
    learned = learned_unet(models, moved=False)
    given, levels = models.inputs(size=SIZE), models.levels(2, SIZE, 7)
    assert torch.equal(run(learned, given, levels), run(hard, given, levels))


@torch.no_grad()
def test_regions_that_cover_everything_give_the_stock_unet(models):
    given, levels = models.inputs(size=SIZE), models.levels(2, SIZE, 7, covering=True)
    wanted = models.unet()(**given).sample
    soft = MaMoEUNet2DConditionModel.from_unet(models.unet(), num_experts=3)
    assert largest_difference(run(soft, given, weighted(levels, covering=True)), wanted) < 1e-5
    learned = learned_unet(models, moved=False)
    for layer in strengths(learned):  # at any strength: there is nothing to open
        layer.weight.normal_(generator=torch.Generator().manual_seed(0))
    assert largest_difference(run(learned, given, levels), wanted) < 1e-5


@torch.no_grad()
def test_strength_zero_reads_all_text_of_the_own_image(models):
    learned = learned_unet(models, moved=False)
    for layer in strengths(learned):
        layer.weight[0] = 20.0
    given, levels = models.inputs(size=SIZE), models.levels(2, SIZE, 7)
    for level in levels:
        level.attend[0, :, 4:] = False  # image 0 has four tokens, the rest is padding
    opened = tuple(
        LevelConditioning(grid=lv.grid, attend=lv.attend.any(1, keepdim=True).expand_as(lv.attend), routing=lv.routing)
        for lv in levels
    )
    hard = MaMoEUNet2DConditionModel.from_unet(models.unet(), num_experts=3)
    assert largest_difference(run(learned, given, levels), run(hard, given, opened)) < 1e-5


def test_the_gradient_reaches_every_strength_at_the_start_and_moves_it(models):
    model = learned_unet(models, moved=False)
    given, levels = models.inputs(size=SIZE), models.levels(2, SIZE, 7)
    run(model, given, levels).square().mean().backward()
    assert strengths(model)
    for layer in strengths(model):
        assert (layer.weight.grad.abs() > 0).all()  # every head, every feature
        layer.weight.data -= 0.1 * layer.weight.grad / layer.weight.grad.norm()
        early, late = layer(torch.tensor([0.0, 999.0]))
        assert (early != 1).all() and (early != late).all()


def test_strength_is_one_minus_a_bounded_curve_over_the_noise_levels():
    layer = RegionStrength(3)
    t = torch.linspace(0, 999, 50)
    assert torch.equal(layer(t), torch.ones(50, 3))
    layer.weight.data.normal_(std=10.0, generator=torch.Generator().manual_seed(0))
    assert ((layer(t) >= 0) & (layer(t) <= 2)).all()
    features = noise_features(torch.tensor([0.0, 500.0, 1000.0]))
    torch.testing.assert_close(
        features, torch.tensor([[1.0, 1, 1, 1], [1, 0, -1, 0], [1, -1, 1, -1]]), atol=1e-6, rtol=0
    )


@torch.no_grad()
def test_the_noise_level_alone_changes_nothing_at_the_start_but_counts_later(models):
    given, levels = models.inputs(size=SIZE), models.levels(2, SIZE, 7)
    one_for_all = {**given, "timestep": 300}
    each = {**given, "timestep": torch.tensor([300, 300])}
    model = learned_unet(models)
    assert torch.equal(run(model, one_for_all, levels), run(model, each, levels))


# What holds for hard holds for both.


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch_mates(models, steered):
    model, layout = steered
    given = models.inputs(batch=2, size=SIZE)
    masks = [layout(1, seed) for seed in (1, 2)]
    alone, together = [], []
    for parts in zip(*masks, strict=True):
        alone.append([LevelConditioning(grid=p.grid, attend=p.attend, routing=None) for p in parts])
        attend = torch.cat([p.attend for p in parts])
        together.append(LevelConditioning(grid=parts[0].grid, attend=attend, routing=None))
    batch = run(model, given, tuple(together))
    for i in range(2):
        single = run(model, {k: v[i : i + 1] for k, v in given.items()}, tuple(level[i] for level in alone))
        assert largest_difference(batch[i : i + 1], single) < 1e-5


def test_gradient_checkpointing_gives_the_same_gradients(models, steered):
    model, layout = steered
    model, given, levels = model.train(), models.inputs(size=SIZE), layout(2)
    wanted = torch.autograd.grad(run(model, given, levels).square().sum(), list(model.parameters()))
    model.enable_gradient_checkpointing()
    out = run(model, given, levels)
    run(model, {**given, "timestep": given["timestep"] + 100}, layout(2, seed=9))  # must not be remembered
    got = torch.autograd.grad(out.square().sum(), list(model.parameters()))
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0.0, rtol=0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("compilable")
@pytest.mark.parametrize("learned", [False, True], ids=["soft", "learned"])
@torch.no_grad()
def test_one_compiled_graph_for_all_layouts(models, learned):
    model = models.smallest_mamoe(learned_strength=learned)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    given = models.inputs(size=SIZE)
    for seed in range(2):
        levels = models.levels(2, SIZE, 7, seed=seed, num_levels=2)
        levels = levels if learned else weighted(levels)
        torch.testing.assert_close(run(compiled, given, levels), run(model, given, levels), atol=1e-5, rtol=1e-4)
    assert counter.frame_count == 1


@torch.no_grad()
def test_bf16_stays_near_fp32(models, steered):
    model, layout = steered
    given, levels = models.inputs(size=SIZE), layout(2)
    exact = run(model, given, levels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = run(model, given, levels)
    low = {k: v.bfloat16() if v.is_floating_point() else v for k, v in given.items()}
    rougher = run(copy.deepcopy(model).bfloat16(), low, levels)
    for got in (rough, rougher):
        assert got.dtype == torch.bfloat16
        assert 1e-5 < (got.float() - exact).norm() / exact.norm() < 0.05


# On disk.


@torch.no_grad()
def test_a_learned_strength_survives_saving(models, tmp_path):
    model = learned_unet(models)
    model.save_pretrained(tmp_path)
    again = MaMoEUNet2DConditionModel.from_pretrained(tmp_path, use_safetensors=True)
    given, levels = models.inputs(size=SIZE), models.levels(2, SIZE, 7)
    assert again.config["learned_strength"] and torch.equal(run(again, given, levels), run(model, given, levels))
    stock, info = UNet2DConditionModel.from_pretrained(tmp_path, use_safetensors=True, output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(stock(**given).sample, model.to_dense()(**given).sample)


def test_a_strength_a_folder_does_not_hold_is_asked_for(models, tmp_path):
    models.unet().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"does not hold a learned strength.*from_unet"):
        MaMoEUNet2DConditionModel.from_pretrained(tmp_path, learned_strength=True)


# Mistakes.


def test_kinds_that_do_not_go_together_are_told(models):
    with pytest.raises(ConfigError, match="learned_strength needs region_attention"):
        learned_unet(models, region_attention=False)
    soft = weighted(models.levels(2, SIZE, 7))
    with pytest.raises(ValueError, match=r"level 0 must have a boolean mask, got log weights.*learns the strength"):
        run(learned_unet(models), models.inputs(size=SIZE), soft)
    with pytest.raises(ValueError, match="has no region attention"):
        run(models.mamoe(region_attention=False), models.inputs(size=SIZE), soft)
