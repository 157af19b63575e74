"""FLUX.1's transformer: the stock one where it must be, steered by the layout where it may be, and portable."""

import dataclasses

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from joint_calls import GRID, SIZE, TOKENS, adapted, difference, layout, noisy, run, text
from mamoe.errors import ConfigError
from mamoe.methods.options import Target
from mamoe.methods.registry import METHODS
from mamoe.models.backbones import backbone_of, pyramid_of
from mamoe.models.control.call import with_layout
from mamoe.models.flux.call import picture_places
from mamoe.models.flux.model import MaMoEFluxTransformer2DModel
from mamoe.models.joint.mask import joint_mask
from mamoe.models.joint.patches import packed, unpacked

DEV = {  # FLUX.1-dev
    "attention_head_dim": 128,
    "guidance_embeds": True,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}


# The call.


def test_latents_are_packed_as_the_stock_pipeline_packs_them():
    latents = noisy()
    rows = packed(latents)
    assert torch.equal(rows, FluxPipeline._pack_latents(latents, 2, 4, *SIZE))
    assert torch.equal(unpacked(rows, SIZE), latents)
    wanted = FluxPipeline._prepare_latent_image_ids(2, *GRID, torch.device("cpu"), torch.float32)
    assert torch.equal(picture_places(SIZE, torch.device("cpu")), wanted)
    with pytest.raises(ValueError, match="whole patches of 2x2 cells, got 5x8"):
        packed(latents[:, :, :5])


@torch.no_grad()
def test_a_distilled_network_is_told_its_guidance_and_another_is_not(models):
    distilled, plain = models.flux(), models.flux(guidance_embeds=False)
    assert difference(run(distilled), run(distilled, guidance=3.5)) > 1e-4
    assert torch.equal(run(plain), run(plain, guidance=3.5))


# The mask.


def test_the_mask_says_who_may_ask_whom():
    attend = torch.tensor([[[True, True, False, False], [True, False, True, False]]])  # 2 cells; the last is padding
    mask = joint_mask(attend, torch.tensor([[0, 1, 2, 0]]))
    assert mask.shape == (1, 1, 6, 6) and mask.dtype == torch.bool
    wanted = [  # whole, region 1, region 2, padding | cell a, cell b
        [1, 0, 0, 0, 1, 1],
        [1, 1, 0, 0, 1, 0],
        [1, 0, 1, 0, 0, 1],
        [1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1],
        [1, 0, 1, 0, 1, 1],
    ]
    assert torch.equal(mask[0, 0], torch.tensor(wanted).bool())


@torch.no_grad()
def test_the_order_of_prompts_says_nothing(models):
    # Words have no place in FLUX.1, so whether the whole picture's prompt comes first or last is the same.
    model, (level,) = models.mamoe_flux(), layout()
    order = torch.tensor([3, 4, 5, 6, 7, 8, 0, 1, 2])
    turned = dataclasses.replace(level, attend=level.attend[:, :, order], region=level.region[:, order])
    assert difference(run(model, (level,)), run(model, (turned,), encoder_hidden_states=text()[:, order])) < 1e-5


@torch.no_grad()
def test_padding_is_left_out_with_and_without_a_layout(models):
    model = models.mamoe_flux()
    valid = (torch.arange(TOKENS) < 5).repeat(2, 1)
    wanted = run(model, encoder_hidden_states=text()[:, :5])
    for network in (model, model.to_dense()):
        assert difference(run(network, encoder_attention_mask=valid), wanted) < 1e-5
    (level,) = layout(one_prompt=True)
    padded = dataclasses.replace(level, attend=level.attend & valid[:, None], routing=None)
    assert difference(run(model, (padded,)), wanted) < 1e-5


@torch.no_grad()
def test_without_region_attention_every_cell_reads_all_text(models):
    model = models.mamoe_flux(region_attention=False)
    (level,) = layout()
    assert difference(run(model, (dataclasses.replace(level, routing=None),)), run(model)) < 1e-5


# There and back.


@torch.no_grad()
def test_cells_go_to_their_experts_and_text_to_the_rest(models):
    model, (level,) = models.mamoe_flux(), layout(one_prompt=True)
    every = torch.zeros((2, 12), dtype=torch.long)
    rest = dataclasses.replace(level, routing=models.hard(every, 3))
    assert difference(run(model, (rest,)), run(model)) < 1e-5  # all cells at the rest is no layout at all
    assert difference(run(model, (dataclasses.replace(level, routing=models.hard(every + 1, 3)),)), run(model)) > 1e-3
    halves = torch.full((2, 12, 3), 0.0)
    halves[..., 1] = 1.0
    shares = dataclasses.replace(level, routing=models.area(halves))  # one expert by share is that expert
    whole = dataclasses.replace(level, routing=models.hard(every + 1, 3))
    assert difference(run(model, (shares,)), run(model, (whole,))) < 1e-5


@torch.no_grad()
def test_there_and_back_and_through_a_file(models, tmp_path):
    stock = models.flux()
    assert difference(run(with_layout(stock, num_experts=3).to_dense()), run(stock)) == 0
    model, levels = models.mamoe_flux(), layout()
    dense = model.to_dense()
    assert type(dense) is FluxTransformer2DModel and difference(run(dense), run(model)) < 1e-5
    model.save_pretrained(tmp_path)
    again = MaMoEFluxTransformer2DModel.from_pretrained(tmp_path)
    assert torch.equal(run(again, levels), run(model, levels))
    assert torch.equal(run(with_layout(model, num_experts=3), levels), run(model, levels))  # what it learned goes on
    base = FluxTransformer2DModel.from_pretrained(tmp_path)  # what the experts lie beside has the stock keys
    assert difference(run(base), run(model)) > 1e-4
    public = {key for key in stock.config if not key.startswith("_")}
    assert {key: dense.config[key] for key in public} == {key: stock.config[key] for key in public}
    stock.save_pretrained(tmp_path / "stock")
    for folder, asked in (
        (tmp_path, {"num_experts": 4}),
        (tmp_path / "stock", {"expert_rank": 4, "expert_alpha": 4.0}),
    ):
        with pytest.raises(ConfigError, match="does not hold the experts"):
            MaMoEFluxTransformer2DModel.from_pretrained(folder, low_cpu_mem_usage=False, **{"num_experts": 2, **asked})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="it has 3 experts, 2 are asked for"):
        with_layout(model, num_experts=2)


# The real one.


def test_flux_dev_has_the_names_experts_and_targets_it_should():
    with torch.device("meta"):
        stock = FluxTransformer2DModel(**DEV)
        model = with_layout(stock, num_experts=5)
        assert dict(model.named_parameters()).keys() == dict(stock.named_parameters()).keys()
        method = METHODS["lora_experts"](rank=16, alpha=16)
        method.prepare(model, seed=0)
    assert sum(p.numel() for p in stock.parameters()) == 11_901_408_320
    names, added = set(dict(stock.named_parameters())), set(dict(model.named_parameters()))
    experts = {
        f"transformer_blocks.{block}.experts.{layer}.{part}"
        for block in range(19)
        for layer in ("widen", "narrow")
        for part in ("down_ErC", "up_EFr")
    } | {f"single_transformer_blocks.{block}.experts.widen.{p}" for block in range(38) for p in ("down_ErC", "up_EFr")}
    assert added == names | experts
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trains == experts
    each = 16 * (3072 + 12288)  # of one layer and one expert
    assert sum(model.get_parameter(name).numel() for name in experts) == 5 * (19 * 2 + 38) * each
    assert pyramid_of(model).count == 1 and pyramid_of(model).skipped == 1
    family = backbone_of(model)
    assert family.text_width(model.config) == 4096 and family.pooled_width(model.config) == 768
    assert family.latent_channels(model.config) == 16
    counts = {
        Target.ATTENTION: 19 * 8 + 38 * 3,
        Target.PROJECTION: 4 + 19 * 2 + 38 + 2 * 3,
        Target.FEED_FORWARD: 19 * 4 + 38 * 2,
    }
    for target, count in counts.items():
        assert len(adapted(stock, target)) == count, target
    of_experts = 19 * 2 + 38  # which have adapters of their own
    assert len(adapted(model, Target.FEED_FORWARD)) == counts[Target.FEED_FORWARD] - of_experts


# Methods.


def test_without_class_groups_there_are_no_experts_to_train(models):
    with pytest.raises(ConfigError, match=r"this network has none: switch layout\.moe on"):
        METHODS["lora_experts"](rank=4, alpha=8).prepare(with_layout(models.flux(), num_experts=1), seed=1)


def test_experts_go_on_with_the_method_that_made_them(models):
    model = models.mamoe_flux()
    again = METHODS["lora_experts"](rank=4, alpha=4).prepare(model, seed=9)
    assert {name.split(".")[2] for name, p in again.named_parameters() if p.requires_grad} == {"experts"}
    with pytest.raises(ConfigError, match=r"method.rank=4 method.alpha=4.0"):
        METHODS["lora_experts"](rank=8, alpha=4).prepare(model, seed=9)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("full", "too many to be moved"),
        ("dora", "method=dora does not fit.*: lora, lora_experts"),
        ("shared_expert", "low-rank additions"),
        ("decoder", "no such part"),
        ("concat", "condition picture"),
        ("controlnet_xs", "condition picture"),
    ],
)
def test_methods_that_do_not_fit_say_so(models, name, said):
    with pytest.raises(ConfigError, match=said):
        METHODS[name]().prepare(with_layout(models.flux(), num_experts=2), seed=0)


# What is refused.


def test_what_does_not_fit_is_told(models):
    model, (level,) = models.mamoe_flux(), layout()
    with pytest.raises(ValueError, match="one level of this network, got 2"):
        run(model, (level, level))
    with pytest.raises(ValueError, match="must have the 12 patches"):
        run(model, (dataclasses.replace(level, grid=(4, 4)),))
    with pytest.raises(ValueError, match="of which region each token"):
        run(model, (dataclasses.replace(level, region=None),))
    with pytest.raises(ValueError, match="must be boolean, got log weights"):
        run(model, (dataclasses.replace(level, attend=level.attend.float().log()),))
    with pytest.raises(ValueError, match="leaves padding out too"):
        run(model, (level,), encoder_attention_mask=torch.ones(2, TOKENS, dtype=torch.bool))
    with pytest.raises(ValueError, match="routed to the network's 3 experts, got 2"):
        run(model, (dataclasses.replace(level, routing=models.hard(torch.zeros((2, 12), dtype=torch.long), 2)),))
    with pytest.raises(ValueError, match="would ignore the layout"):
        run(models.flux(), (level,))
    for own, why in (
        ({"learned_strength": True}, "regions.strength=hard"),
        ({"shared_expert": True}, "additions to a shared"),
        ({"moe_levels": [1]}, r"moe_levels must be \[0\]"),
    ):
        with pytest.raises(ConfigError, match=why):
            with_layout(models.flux(), num_experts=2, **own)
    with pytest.raises(ConfigError, match="num_experts must be at least 1"):
        with_layout(models.flux(), num_experts=0)
