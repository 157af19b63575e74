"""Qwen-Image's transformer: the stock one where it must be, steered where it may be, and words have places in it."""

import dataclasses

import pytest
import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_qwenimage import QwenDoubleStreamAttnProcessor2_0

from joint_calls import GRID, REGION, TOKENS, adapted, difference, layout, noisy, run, text
from mamoe.commands.check.network import check_network
from mamoe.errors import ConfigError
from mamoe.methods.options import Target
from mamoe.methods.registry import METHODS
from mamoe.models.backbones import backbone_of, pyramid_of
from mamoe.models.control.call import predict, with_layout
from mamoe.models.joint.patches import packed
from mamoe.models.qwen.model import MaMoEQwenImageTransformer2DModel
from small_qwen_base import write_qwen_base

PUBLISHED = {  # Qwen/Qwen-Image
    "attention_head_dim": 128,
    "axes_dims_rope": (16, 56, 56),
    "guidance_embeds": False,
    "in_channels": 64,
    "joint_attention_dim": 3584,
    "num_attention_heads": 24,
    "num_layers": 60,
    "out_channels": 16,
    "patch_size": 2,
}
SHAPES = [[(1, *GRID)]] * 2


def mamoe(models):
    model = with_layout(models.qwen(), num_experts=3)
    model.add_experts(rank=4, alpha=8.0, generator=torch.Generator().manual_seed(4))
    return models.trained(model)


@torch.no_grad()
def test_it_is_called_as_the_stock_pipeline_calls_it(models):
    stock, latents = models.qwen(), noisy()
    rows = QwenImagePipeline._pack_latents(latents, 2, 4, 6, 8)
    told = {"timestep": torch.tensor([0.3, 0.7]), "img_shapes": SHAPES}
    wanted = stock(rows, text(), **told).sample
    assert torch.equal(rows, packed(latents)) and difference(packed(run(stock)), wanted) < 1e-6
    # Padding is left out, by the stock one and by ours.
    valid = (torch.arange(TOKENS + 3) < TOKENS).repeat(2, 1)
    longer = {"encoder_hidden_states": torch.cat([text(), torch.ones(2, 3, text().shape[2])], 1)}
    for network in (stock, with_layout(stock, num_experts=2)):
        assert difference(run(network, **longer, encoder_attention_mask=valid), run(network)) < 1e-5
        assert difference(run(network, **longer), run(network)) > 1e-4


@torch.no_grad()
def test_a_prompt_has_the_places_that_it_would_have_alone(models):
    """Words of region 1, wherever they stand, are rotated as the stock transformer rotates a text of them alone."""
    stock = models.qwen()
    model = with_layout(stock, num_experts=1)
    _, alone = stock.pos_embed(SHAPES, max_txt_seq_len=3, device=torch.device("cpu"))
    cosine, sine = model._placed(REGION, SHAPES)
    assert cosine.shape == (2, TOKENS + 12, 16)
    for start in (0, 3, 6):
        torch.testing.assert_close(cosine[1, start : start + 3, ::2], alone.real)
        torch.testing.assert_close(sine[1, start : start + 3, 1::2], alone.imag)
    # A cell that sees one prompt alone is drawn as by the stock transformer, though another prompt stands before it.
    (level,), hidden = layout(), text()
    attend = torch.zeros_like(level.attend)
    attend[:, :, 6:] = True
    level = dataclasses.replace(level, attend=attend, routing=None)
    wanted = run(stock, encoder_hidden_states=hidden[:, 6:])
    assert difference(run(model, (level,), encoder_hidden_states=hidden), wanted) < 1e-5
    assert difference(run(stock, encoder_hidden_states=hidden, encoder_attention_mask=attend[:, 0]), wanted) > 1e-5


@torch.no_grad()
def test_the_order_of_prompts_says_nothing_though_words_have_places(models):
    model, (level,) = mamoe(models), layout()
    order = torch.tensor([3, 4, 5, 6, 7, 8, 0, 1, 2])
    turned = dataclasses.replace(level, attend=level.attend[:, :, order], region=level.region[:, order])
    assert difference(run(model, (level,)), run(model, (turned,), encoder_hidden_states=text()[:, order])) < 1e-5
    other = torch.tensor([1, 0, 2, 3, 4, 5, 6, 7, 8])  # two words of one prompt
    assert difference(run(model, (level,)), run(model, (level,), encoder_hidden_states=text()[:, other])) > 1e-4


@torch.no_grad()
def test_more_words_than_there_are_places_are_of_several_prompts(models):
    model = with_layout(models.qwen(num_layers=1), num_experts=1)
    region = torch.arange(4200)[None] // 1400
    cosine, _ = model._placed(region, SHAPES[:1])
    assert torch.equal(cosine[:, :1400], cosine[:, 2800:4200])
    padding = torch.zeros(1, 200, dtype=torch.long)  # counted on from the first region's beginning
    assert model._placed(torch.cat([region, padding], 1), SHAPES[:1])[0].shape[1] == 4400 + 12


@torch.no_grad()
def test_cells_go_to_their_experts_and_what_it_is_without_is_dense(models, tmp_path):
    model, (level,) = mamoe(models), layout(one_prompt=True)
    every = torch.zeros((2, 12), dtype=torch.long)
    rest = dataclasses.replace(level, routing=models.hard(every, 3))
    other = dataclasses.replace(level, routing=models.hard(every + 1, 3))
    assert difference(run(model, (rest,)), run(model)) < 1e-5
    assert difference(run(model, (other,)), run(model)) > 1e-3
    dense = model.to_dense()
    assert type(dense) is QwenImageTransformer2DModel and difference(run(dense), run(model)) < 1e-5
    model.save_pretrained(tmp_path)
    again = MaMoEQwenImageTransformer2DModel.from_pretrained(tmp_path)
    assert torch.equal(run(again, layout()), run(model, layout()))


@torch.no_grad()
def test_a_mask_that_would_be_ignored_is_refused(models):
    stock, model, levels = models.qwen(), mamoe(models), layout()
    with pytest.raises(ValueError, match="would ignore the layout"):
        run(stock, levels)
    nobody = torch.eye(TOKENS + 12, dtype=torch.bool)[None, None]
    with pytest.raises(ValueError, match="does not accept an external attention_mask"):  # of diffusers' own
        predict(
            stock, noisy(), 300, {"encoder_hidden_states": text(), "cross_attention_kwargs": {"attention_mask": nobody}}
        )
    padding = torch.ones(2, TOKENS, dtype=torch.bool)
    with pytest.raises(ValueError, match="another mask beside it"):
        run(model, levels, encoder_attention_mask=padding)
    # A layout that masks nothing goes with a mask of padding.
    routed = (dataclasses.replace(levels[0], attend=None, region=torch.zeros_like(REGION)),)
    padding[:, 6:] = False
    shorter = (dataclasses.replace(routed[0], region=REGION[:, :6] * 0),)
    wanted = run(model, shorter, encoder_hidden_states=text()[:, :6])
    assert difference(run(model, routed, encoder_attention_mask=padding), wanted) < 1e-5
    wanted = run(model, levels)
    model.set_attn_processor(QwenDoubleStreamAttnProcessor2_0())
    with pytest.raises(ConfigError, match="QwenDoubleStreamAttnProcessor2_0 would drop"):
        run(model, levels)
    model.set_default_attn_processor()
    assert torch.equal(run(model, levels), wanted)


@torch.no_grad()
def test_wrong_sizes_are_refused(models):
    model = mamoe(models)
    told = {"timestep": torch.tensor([0.3, 0.7])}
    for shapes in ([[(1, 3, 5)]] * 2, [[(1, 3, 4)]], [[(1, 3, 4), (1, 3, 4)]] * 2, [[(1, 3, 4)], [(1, 4, 3)]]):
        with pytest.raises(ValueError, match=r"img_shapes must say .* of each of the 2 latents, 12 patches"):
            model(packed(noisy()), text(), img_shapes=shapes, **told)
    with pytest.raises(ValueError, match="whole patches of 2x2 cells, got 5x8"):
        predict(model, torch.zeros(2, 4, 5, 8), 300, {"encoder_hidden_states": text()})
    with pytest.raises(ValueError, match=r"its mask \[B N S\] must be"):
        run(model, layout(), encoder_hidden_states=text()[:, :5])


def test_transformers_that_edit_pictures_are_refused(models):
    for key in ("zero_cond_t", "use_layer3d_rope"):
        with pytest.raises(ConfigError, match=rf"{key}=True: .*makes a picture of text alone"):
            with_layout(models.qwen(**{key: True}), num_experts=2)
    for name in ("full", "shared_expert", "decoder", "controlnet_xs"):
        with pytest.raises(ConfigError):
            METHODS[name]().prepare(with_layout(models.qwen(), num_experts=2), seed=0)


def test_its_folder_is_checked(tmp_path):
    said, problems = check_network(str(write_qwen_base(tmp_path)), cells=8)
    assert not problems and "Layouts hold" in said


def test_the_published_one_has_the_names_experts_and_targets_it_should():
    with torch.device("meta"):
        stock = QwenImageTransformer2DModel(**PUBLISHED)
        model = with_layout(stock, num_experts=5)
        assert dict(model.named_parameters()).keys() == dict(stock.named_parameters()).keys()
        METHODS["lora_experts"](rank=16, alpha=16).prepare(model, seed=0)
    names, added = set(dict(stock.named_parameters())), set(dict(model.named_parameters()))
    assert sum(p.numel() for p in stock.parameters()) == 20_430_401_088
    parts = ("down_ErC", "up_EFr")
    experts = {f"transformer_blocks.{b}.experts.{x}.{p}" for b in range(60) for x in ("widen", "narrow") for p in parts}
    assert added == names | experts
    assert {name for name, p in model.named_parameters() if p.requires_grad} == experts
    assert sum(model.get_parameter(name).numel() for name in experts) == 5 * 60 * 2 * 16 * (3072 + 4 * 3072)
    family = backbone_of(model)
    assert (pyramid_of(model).count, pyramid_of(model).skipped) == (1, 1)
    assert family.text_width(model.config) == 3584 and family.latent_channels(model.config) == 16
    counts = {  # of the last block nobody hears what the text becomes
        Target.ATTENTION: 60 * 8 - 2,
        Target.PROJECTION: 3 + 1 + 60 * 2 + 2,
        Target.FEED_FORWARD: 60 * 4 - 2,
    }
    for target, count in counts.items():
        assert len(adapted(stock, target)) == count, target
    assert len(adapted(model, Target.FEED_FORWARD)) == counts[Target.FEED_FORWARD] - 60 * 2
