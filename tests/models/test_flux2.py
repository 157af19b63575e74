"""FLUX.2's transformer: the stock one where it must be, steered where it may be, and words have places in it."""

import dataclasses

import pytest
import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from diffusers.models.transformers.transformer_flux2 import Flux2AttnProcessor

from joint_calls import adapted, difference, layout, noisy, run, text
from mamoe.errors import ConfigError
from mamoe.methods.options import Target
from mamoe.methods.registry import METHODS
from mamoe.models.backbones import backbone_of, pyramid_of
from mamoe.models.control.call import with_layout
from mamoe.models.flux.model2 import MaMoEFlux2Transformer2DModel
from mamoe.models.joint.attention import places_in_prompts
from mamoe.models.joint.patches import packed

KLEIN = {  # FLUX.2-klein-4B
    "attention_head_dim": 128,
    "axes_dims_rope": (32, 32, 32, 32),
    "guidance_embeds": False,
    "in_channels": 128,
    "joint_attention_dim": 7680,
    "mlp_ratio": 3.0,
    "num_attention_heads": 24,
    "num_layers": 5,
    "num_single_layers": 20,
    "rope_theta": 2000,
    "timestep_guidance_channels": 256,
}


@torch.no_grad()
def test_it_is_called_as_the_stock_pipeline_calls_it(models):
    stock, latents = models.flux2(), noisy()
    patches = Flux2KleinPipeline._patchify_latents(latents)
    rows = stock(
        hidden_states=Flux2KleinPipeline._pack_latents(patches),
        encoder_hidden_states=text(),
        timestep=torch.tensor([0.3, 0.7]),
        img_ids=Flux2KleinPipeline._prepare_latent_ids(patches),
        txt_ids=Flux2KleinPipeline._prepare_text_ids(text()),
    ).sample
    assert torch.equal(Flux2KleinPipeline._pack_latents(patches), packed(latents))
    assert difference(packed(run(stock)), rows) < 1e-6


def test_flux_dev_has_the_sizes_it_should():
    wider = {"guidance_embeds": True, "joint_attention_dim": 15360, "num_attention_heads": 48}
    with torch.device("meta"):
        stock = Flux2Transformer2DModel(**{**KLEIN, **wider, "num_layers": 8, "num_single_layers": 48})
        model = with_layout(stock, num_experts=5)
        METHODS["lora_experts"](rank=16, alpha=16).prepare(model, seed=0)
    width, double, single = 6144, 8 + 2 * 9, 9 + 4  # in squares of the width
    squares = 8 * double + 48 * single + (6 + 6 + 3) + 2 + 2  # as klein's, and a second layer that is told the guidance
    thin = width * (128 + 15360 + 2 * 256 + 128) + 128 * (8 * 4 + 48 * 2)
    assert sum(p.numel() for p in stock.parameters()) == squares * width**2 + thin == 32_223_281_152
    trains = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trains) == 8 * 4 + 48 * 2 and all(".experts." in name for name in trains)
    family = backbone_of(model)
    assert family.text_width(model.config) == 15360 and family.distilled(model.config)


def mamoe(models):
    model = with_layout(models.flux2(), num_experts=3)
    model.add_experts(rank=4, alpha=4.0, generator=torch.Generator().manual_seed(4))
    return models.trained(model)


def test_every_prompt_is_counted_from_its_own_beginning():
    region = torch.tensor([[0, 0, 1, 1, 1, 2, 0]])  # the last is padding
    assert places_in_prompts(region).tolist() == [[0, 1, 0, 1, 2, 0, 6]]


@torch.no_grad()
def test_the_order_of_prompts_says_nothing_though_words_have_places(models):
    model, (level,) = mamoe(models), layout()
    order = torch.tensor([3, 4, 5, 6, 7, 8, 0, 1, 2])
    turned = dataclasses.replace(level, attend=level.attend[:, :, order], region=level.region[:, order])
    assert difference(run(model, (level,)), run(model, (turned,), encoder_hidden_states=text()[:, order])) < 1e-5
    other = torch.tensor([1, 0, 2, 3, 4, 5, 6, 7, 8])  # two words of one prompt
    assert difference(run(model, (level,)), run(model, (level,), encoder_hidden_states=text()[:, other])) > 1e-4


@torch.no_grad()
def test_cells_go_to_their_experts_and_what_it_is_without_is_dense(models, tmp_path):
    model, (level,) = mamoe(models), layout(one_prompt=True)
    every = torch.zeros((2, 12), dtype=torch.long)
    rest = dataclasses.replace(level, routing=models.hard(every, 3))
    other = dataclasses.replace(level, routing=models.hard(every + 1, 3))
    assert difference(run(model, (rest,)), run(model)) < 1e-5
    assert difference(run(model, (other,)), run(model)) > 1e-3
    dense = model.to_dense()
    assert type(dense) is Flux2Transformer2DModel and difference(run(dense), run(model)) < 1e-5
    model.save_pretrained(tmp_path)
    again = MaMoEFlux2Transformer2DModel.from_pretrained(tmp_path)
    assert torch.equal(run(again, layout()), run(model, layout()))


@torch.no_grad()
def test_processors_that_would_drop_the_layout_are_refused(models):
    model = mamoe(models)
    model.transformer_blocks[0].attn.set_processor(Flux2AttnProcessor())
    with pytest.raises(ConfigError, match="Flux2AttnProcessor would drop"):
        run(model, layout())


def test_flux_klein_has_the_names_experts_and_targets_it_should():
    with torch.device("meta"):
        stock = Flux2Transformer2DModel(**KLEIN)
        model = with_layout(stock, num_experts=5)
        assert dict(model.named_parameters()).keys() == dict(stock.named_parameters()).keys()
        METHODS["lora_experts"](rank=16, alpha=16).prepare(model, seed=0)
    width, double, single = 3072, 8 + 2 * 9, 9 + 4  # in squares of the width
    squares = 5 * double + 20 * single + (6 + 6 + 3) + 1 + 2  # blocks, modulations, timestep, output norm
    thin = width * (128 + 7680 + 256 + 128) + 128 * (5 * 4 + 20 * 2)  # into and out of it; norms of heads
    assert sum(p.numel() for p in stock.parameters()) == squares * width**2 + thin == 3_875_544_576
    names, added = set(dict(stock.named_parameters())), set(dict(model.named_parameters()))
    parts = ("down_ErC", "up_EFr")
    experts = {f"transformer_blocks.{b}.experts.{x}.{p}" for b in range(5) for x in ("widen", "narrow") for p in parts}
    experts |= {f"single_transformer_blocks.{b}.experts.widen.{p}" for b in range(20) for p in parts}
    assert added == names | experts
    assert {name for name, p in model.named_parameters() if p.requires_grad} == experts
    wide, narrow = 16 * (3072 + 2 * 9216), 16 * (9216 + 3072)  # of one expert
    assert sum(model.get_parameter(name).numel() for name in experts) == 5 * (25 * wide + 5 * narrow)
    family = backbone_of(model)
    assert (pyramid_of(model).count, pyramid_of(model).skipped) == (1, 1)
    assert family.text_width(model.config) == 7680 and family.latent_channels(model.config) == 32
    counts = {
        Target.ATTENTION: 5 * 8 + 20 * 2,
        Target.PROJECTION: 4 + 3 + 2,
        Target.FEED_FORWARD: 5 * 4,
    }
    for target, count in counts.items():
        assert len(adapted(stock, target)) == count, target
    assert len(adapted(model, Target.FEED_FORWARD)) == counts[Target.FEED_FORWARD] - 5 * 2
