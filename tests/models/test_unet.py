"""The whole UNet: equal to the stock one where it must be, steered by the layout where it may be, and portable."""

import copy
import logging
import pickle

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from mamoe.errors import ConfigError
from mamoe.models.experts.moe import MoEFeedForward
from mamoe.models.unet.block import MaMoETransformerBlock
from mamoe.models.unet.model import MaMoEUNet2DConditionModel
from mamoe.vocabulary.conditioning import ExpertRouting, LevelConditioning, level_grids

SIZE = (9, 14)


def run(unet, given, levels=None, **kwargs):
    layout = {} if levels is None else {"cross_attention_kwargs": {"regions": levels}}
    return unet(**given, **layout, **kwargs).sample


def without_masks(levels):
    return tuple(LevelConditioning(grid=level.grid, attend=None, routing=level.routing) for level in levels)


def largest_difference(a, b):
    return (a - b).abs().max().item()


# Identity with the stock UNet.


@pytest.mark.parametrize("shape", ["sd15", "sd21", "sdxl"])
@torch.no_grad()
def test_at_initialisation_it_is_the_stock_unet(models, shape):
    stock = models.unet(shape)
    model = MaMoEUNet2DConditionModel.from_unet(stock, num_experts=3)
    given = models.inputs(size=SIZE)
    wanted = run(stock, given)
    any_layout = without_masks(models.levels(2, SIZE, 7))
    all_covering = models.levels(2, SIZE, 7, covering=True)
    assert largest_difference(run(model, given, any_layout), wanted) < 1e-5
    assert largest_difference(run(model, given, all_covering), wanted) < 1e-5
    assert largest_difference(run(model, given), wanted) < 1e-5
    assert largest_difference(run(model, given, models.levels(2, SIZE, 7)), wanted) > 1e-3


@torch.no_grad()
def test_area_routing_too_starts_as_the_stock_unet(models):
    stock = models.unet()
    model = MaMoEUNet2DConditionModel.from_unet(stock, num_experts=3)
    levels = []
    for grid in level_grids(SIZE, 3):
        raw = torch.rand((2, grid[0] * grid[1], 3))
        share = raw / raw.sum(2, keepdim=True)
        levels.append(LevelConditioning(grid=grid, attend=None, routing=models.area(share)))
    given = models.inputs(size=SIZE)
    assert largest_difference(run(model, given, tuple(levels)), run(stock, given)) < 1e-5


@torch.no_grad()
def test_one_expert_is_the_dense_model_whatever_the_routing(models):
    model = models.mamoe(num_experts=1)
    assert not any(isinstance(layer, MoEFeedForward) for layer in model.modules())
    given = models.inputs(size=SIZE)
    routed = run(model, given, without_masks(models.levels(2, SIZE, 7, num_experts=1)))
    assert torch.equal(routed, run(model.to_dense(), given))


@torch.no_grad()
def test_without_a_layout_it_is_expert_zero(models):
    model = models.mamoe()
    dense = model.to_dense()
    assert type(dense) is UNet2DConditionModel
    given = models.inputs(size=SIZE)
    assert largest_difference(run(model, given), run(dense, given)) < 1e-6
    rest = tuple(
        LevelConditioning(grid=g, attend=None, routing=models.hard(torch.zeros((2, g[0] * g[1]), dtype=torch.long), 3))
        for g in level_grids(SIZE, 3)
    )
    assert largest_difference(run(model, given, rest), run(dense, given)) < 1e-5


def test_there_and_back_gives_the_stock_unet_and_touches_neither(models):
    stock = models.unet("sd21")
    before = copy.deepcopy(stock.state_dict())
    model = MaMoEUNet2DConditionModel.from_unet(stock, num_experts=3)
    dense = model.to_dense()
    public = {key for key in stock.config if not key.startswith("_")}
    assert {key: dense.config[key] for key in public} == {key: stock.config[key] for key in public}
    models.trained(model)
    models.trained(dense)
    for key, value in before.items():
        assert torch.equal(stock.state_dict()[key], value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conversion_keeps_type_and_mode(models, dtype):
    stock = models.unet().to(dtype).train()
    model = MaMoEUNet2DConditionModel.from_unet(stock, num_experts=2)
    assert {p.dtype for p in model.parameters()} == {dtype} and model.training
    assert model.to_dense().dtype == dtype and not model.eval().to_dense().training


# Levels.


@pytest.mark.parametrize("size", [(16, 16), (9, 14), (13, 7), (5, 22)])
@torch.no_grad()
def test_levels_have_the_cells_of_a_hooked_real_unet(models, size):
    stock = models.unet()
    model = MaMoEUNet2DConditionModel.from_unet(stock)
    seen = {}
    for name, layer in stock.named_modules():
        if isinstance(layer, Transformer2DModel):
            layer.register_forward_hook(lambda _, args, out, name=name: seen.update({name: args[0].shape[2:]}))
    run(stock, models.inputs(size=size))
    levels = {n.split(".transformer")[0]: m.level for n, m in model.named_modules() if hasattr(m, "level")}
    assert seen.keys() == levels.keys() and len(set(levels.values())) == 3
    assert {name: level_grids(size, 3)[level] for name, level in levels.items()} == {
        n: tuple(g) for n, g in seen.items()
    }


@pytest.mark.parametrize("moe_levels", [(0,), (2, 1), ()])
def test_experts_live_on_the_chosen_levels_only(models, moe_levels):
    model = models.mamoe(moe_levels=moe_levels)
    blocks = [m for m in model.modules() if isinstance(m, MaMoETransformerBlock)]
    assert {b.level for b in blocks if isinstance(b.ff, MoEFeedForward)} == set(moe_levels)
    run(model, models.inputs(size=SIZE), models.levels(2, SIZE, 7))


# The layout steers.


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch_mates(models):
    model = models.mamoe()
    given = models.inputs(batch=3, size=SIZE)
    alone = [models.levels(1, SIZE, 7, seed=seed) for seed in (1, 2, 3)]
    together = []
    for parts in zip(*alone, strict=True):
        expert = torch.stack([_expert_map(part.routing) for part in parts])
        attend = torch.cat([part.attend for part in parts])
        together.append(LevelConditioning(grid=parts[0].grid, attend=attend, routing=models.hard(expert, 3)))
    batch = run(model, given, tuple(together))
    for i, levels in enumerate(alone):
        single = run(model, {key: value[i : i + 1] for key, value in given.items()}, levels)
        assert largest_difference(batch[i : i + 1], single) < 1e-5
    assert largest_difference(batch[0], batch[1]) > 1e-2


def _expert_map(routing: ExpertRouting):
    expert = torch.empty_like(routing.token)
    start = 0
    for i, end in enumerate(routing.offsets.tolist()):
        expert[routing.token[start:end]] = i
        start = end
    return expert


def test_gradient_checkpointing_gives_the_same_gradients(models):
    model = models.mamoe().train()
    given, levels = models.inputs(size=SIZE), models.levels(2, SIZE, 7)
    wanted = torch.autograd.grad(run(model, given, levels).square().sum(), list(model.parameters()))
    model.enable_gradient_checkpointing()
    out = run(model, given, levels)
    run(model, given, models.levels(2, SIZE, 7, seed=9))  # another layout in between must not be remembered
    got = torch.autograd.grad(out.square().sum(), list(model.parameters()))
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0.0, rtol=0.0)
    scale = max(gradient.abs().max() for gradient in wanted)
    assert scale > 1e-3


def test_every_parameter_gets_a_gradient_even_of_experts_without_cells(models):
    model = models.mamoe()
    levels = tuple(
        LevelConditioning(grid=g, attend=None, routing=models.hard(torch.ones((2, g[0] * g[1]), dtype=torch.long), 3))
        for g in level_grids(SIZE, 3)
    )
    run(model, models.inputs(size=SIZE), levels).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not any(p.grad.any() for name, p in model.named_parameters() if ".experts.2." in name or ".ff.net." in name)


@torch.no_grad()
def test_bf16_autocast_stays_near_fp32(models):
    model = models.mamoe()
    given, levels = models.inputs(size=SIZE), models.levels(2, SIZE, 7)
    exact = run(model, given, levels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = run(model, given, levels)
    relative = (rough.float() - exact).norm() / exact.norm()
    assert rough.dtype == torch.bfloat16 and 1e-5 < relative < 0.05


@torch.no_grad()
def test_the_stock_attention_processor_gives_the_same(models):
    model = models.mamoe()
    given, levels = models.inputs(size=SIZE), models.levels(2, SIZE, 7)
    wanted = run(model, given, levels)
    model.set_attn_processor(AttnProcessor2_0())
    assert largest_difference(run(model, given, levels), wanted) < 1e-5


@torch.no_grad()
def test_no_call_logs_a_warning(models, caplog):
    model = models.mamoe()
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        run(model, models.inputs(size=SIZE), models.levels(2, SIZE, 7))
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records


# On disk and between processes.


@torch.no_grad()
def test_save_and_load_round_trip(models, tmp_path):
    model = models.mamoe("sd21", moe_levels=(0, 2), region_attention=False)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()
    again = MaMoEUNet2DConditionModel.from_pretrained(tmp_path, use_safetensors=True)
    public = {key: value for key, value in model.config.items() if not key.startswith("_")}
    loaded = {key: again.config[key] for key in public}
    assert str(loaded) == str({**public, **{k: list(v) for k, v in public.items() if isinstance(v, tuple)}})
    assert (again.config["num_experts"], again.config["region_attention"]) == (3, False)
    given, levels = models.inputs(size=SIZE), models.levels(2, SIZE, 7)
    assert torch.equal(run(again, given, levels), run(model, given, levels))


@torch.no_grad()
def test_the_stock_class_reads_a_checkpoint_as_the_dense_model(models, tmp_path):
    model = models.mamoe()
    model.save_pretrained(tmp_path)
    stock, info = UNet2DConditionModel.from_pretrained(tmp_path, use_safetensors=True, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert info["unexpected_keys"] and all(".ff.experts." in key for key in info["unexpected_keys"])
    given = models.inputs(size=SIZE)
    assert torch.equal(run(stock, given), run(model.to_dense(), given))


def test_experts_a_folder_does_not_hold_are_asked_for(models, tmp_path):
    models.unet().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"does not hold 4 experts.*from_unet"):
        MaMoEUNet2DConditionModel.from_pretrained(tmp_path, num_experts=4)
    dense = MaMoEUNet2DConditionModel.from_pretrained(tmp_path)
    assert torch.equal(run(dense, models.inputs()), run(models.unet(), models.inputs()))


@torch.no_grad()
def test_it_can_be_copied_and_pickled(models):
    model = models.mamoe()
    given, levels = models.inputs(size=SIZE), models.levels(2, SIZE, 7)
    wanted = run(model, given, levels)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(run(twin, given, levels), wanted)


def test_a_copy_of_what_is_recorded_or_compiled_computes_for_itself(models):
    model = models.mamoe()
    layer = next(module for module in model.modules() if isinstance(module, MoEFeedForward))
    for module in (model, layer):
        module._compiled_call_impl = lambda *_, **__: "the original's"
        for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert twin._compiled_call_impl is None
        module._compiled_call_impl = None


# Real sizes.

SD21 = {
    "attention_head_dim": (5, 10, 20, 20),
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 1024,
    "sample_size": 96,
    "use_linear_projection": True,
    "upcast_attention": True,
}


def test_the_real_architecture_of_stable_diffusion_2_1_converts():
    with torch.device("meta"):
        stock = UNet2DConditionModel(**SD21)
    count = sum(p.numel() for p in stock.parameters())
    assert count == 865_910_724  # as published
    model = MaMoEUNet2DConditionModel.from_unet(stock, num_experts=5)
    blocks = {320: 5, 640: 5, 1280: 6}
    one_expert = sum(number * (12 * width**2 + 9 * width) for width, number in blocks.items())
    assert sum(p.numel() for p in model.parameters()) == count + 4 * one_expert
    assert all(p.is_meta for p in model.parameters())
    assert model.to_dense().state_dict().keys() == stock.state_dict().keys()


# Mistakes.


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        (lambda m: m.levels(2, (8, 14), 7), r"level 0 must have \(9, 14\) cells \(h, w\), got \(8, 14\)"),
        (lambda m: m.levels(2, (14, 9), 7), r"level 2 must have \(3, 4\) cells \(h, w\), got \(4, 3\)"),
        (lambda m: m.levels(2, SIZE, 8), r"mask \[B N S\] of \(2, 126, 7\), got \(2, 126, 8\)"),
        (lambda m: m.levels(1, SIZE, 7), r"mask \[B N S\] of \(2, 126, 7\), got \(1, 126, 7\)"),
        (lambda m: m.levels(2, SIZE, 7, num_experts=5), r"routed to the network's 3 experts, got 5"),
        (lambda m: m.levels(2, SIZE, 7)[:2], r"3 levels, got 2"),
    ],
)
def test_a_layout_that_does_not_fit_is_told(models, levels, said):
    with pytest.raises(ValueError, match=said):
        run(models.mamoe(), models.inputs(size=SIZE), levels(models))


def test_two_masks_at_once_are_refused(models):
    mask = torch.ones((2, 7), dtype=torch.bool)
    with pytest.raises(ValueError, match="either regions or encoder_attention_mask"):
        run(models.mamoe(), models.inputs(size=SIZE), models.levels(2, SIZE, 7), encoder_attention_mask=mask)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_experts": 0}, "num_experts must be at least 1, got 0"),
        ({"num_experts": 2, "moe_levels": (0, 3)}, r"moe_levels must be among \[0, 1, 2\].*got \[3\]"),
    ],
)
def test_options_out_of_range_are_told(models, options, said):
    with pytest.raises(ConfigError, match=said):
        MaMoEUNet2DConditionModel.from_unet(models.unet(), **options)


def test_a_unet_without_text_is_told(models):
    plain = models.unet(down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3, mid_block_type=None)
    with pytest.raises(ConfigError, match=r"text cross-attention is wanted.*DownBlock2D, UpBlock2D"):
        MaMoEUNet2DConditionModel.from_unet(plain, num_experts=2)
