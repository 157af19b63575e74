"""Stable Diffusion 3's transformer: the stock one where it must be, steered by the layout where it may be, portable."""

import dataclasses
import json

import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import JointAttnProcessor2_0

from joint_calls import GRID, SIZE, TOKENS, adapted, difference, layout, run, said
from mamoe.commands.check.network import check_network
from mamoe.errors import ConfigError
from mamoe.methods.options import Target
from mamoe.methods.registry import METHODS
from mamoe.models.backbones import backbone_of, pyramid_of
from mamoe.models.control.call import predict, with_layout
from mamoe.models.sd3.model import MaMoESD3Transformer2DModel
from small_models import small_sd3

MEDIUM = {  # Stable Diffusion 3.5-medium
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}


@torch.no_grad()
def test_there_and_back_and_through_a_file(models, tmp_path):
    model = MaMoESD3Transformer2DModel.from_transformer(models.sd3(), num_experts=3)
    model.add_experts(rank=4, alpha=4.0, generator=torch.Generator().manual_seed(4))
    models.trained(model)
    levels = layout()
    model.save_pretrained(tmp_path)
    assert torch.equal(run(MaMoESD3Transformer2DModel.from_pretrained(tmp_path), levels), run(model, levels))
    dense = model.to_dense()
    assert isinstance(dense, SD3Transformer2DModel) and not isinstance(dense, MaMoESD3Transformer2DModel)
    assert difference(run(dense), run(model)) < 1e-4


@torch.no_grad()
def test_a_mask_that_would_be_ignored_is_refused(models):
    stock = models.trained(models.sd3())
    nobody = torch.eye(GRID[0] * GRID[1] + TOKENS, dtype=torch.bool)[None, None]
    told = {**said(stock), "cross_attention_kwargs": {"attention_mask": nobody}}
    noisy = torch.zeros(2, 4, *SIZE)
    assert torch.equal(predict(stock, noisy, 300, told), predict(stock, noisy, 300, said(stock)))  # which is why
    padded = {**said(stock), "encoder_attention_mask": torch.ones(2, TOKENS, dtype=torch.bool)}
    with pytest.raises(ValueError, match="ignores masks"):
        predict(stock, noisy, 300, padded)
    model = MaMoESD3Transformer2DModel.from_transformer(stock)
    dense = (dataclasses.replace(layout()[0], routing=None),)
    wanted = run(model, dense)
    model.set_attn_processor(JointAttnProcessor2_0())
    with pytest.raises(ConfigError, match="would ignore the layout's mask"):
        run(model, dense)
    model.set_default_attn_processor()
    assert torch.equal(run(model, dense), wanted)


@torch.no_grad()
def test_padding_changes_nothing(models):
    model = MaMoESD3Transformer2DModel.from_transformer(models.trained(models.sd3()))
    noisy, asked = torch.ones(2, 4, *SIZE), said(model)
    longer = {**asked, "encoder_hidden_states": torch.nn.functional.pad(asked["encoder_hidden_states"], (0, 0, 0, 3))}
    longer["encoder_attention_mask"] = (torch.arange(TOKENS + 3) < TOKENS).repeat(2, 1)
    assert difference(predict(model, noisy, 300, longer), predict(model, noisy, 300, asked)) < 1e-5


def test_medium_has_the_names_experts_and_targets_it_should():
    with torch.device("meta"):
        stock = SD3Transformer2DModel(**MEDIUM)
        model = with_layout(stock, num_experts=5)
        assert dict(model.named_parameters()).keys() == dict(stock.named_parameters()).keys()
        METHODS["lora_experts"](rank=16, alpha=16).prepare(model, seed=0)
    names, added = set(dict(stock.named_parameters())), set(dict(model.named_parameters()))
    experts = {
        f"transformer_blocks.{block}.experts.{layer}.{part}"
        for block in range(24)
        for layer in ("widen", "narrow")
        for part in ("down_ErC", "up_EFr")
    }
    assert added == names | experts
    assert {name for name, p in model.named_parameters() if p.requires_grad} == experts
    assert sum(model.get_parameter(name).numel() for name in experts) == 5 * 24 * 2 * 16 * (1536 + 6144)
    family = backbone_of(model)
    assert pyramid_of(model).count == 1 and pyramid_of(model).skipped == 1
    assert family.text_width(model.config) == 4096 and family.pooled_width(model.config) == 2048
    # Of the last block the text has no way out, and so neither an output layer nor a feed-forward.
    counts = {
        Target.ATTENTION: 24 * 7 + 23 + 13 * 4,
        Target.PROJECTION: 4 + 24 * 2 + 4,
        Target.FEED_FORWARD: 24 * 2 + 23 * 2,
    }
    for target, count in counts.items():
        assert len(adapted(stock, target)) == count, target


def test_other_methods_are_refused(models):
    for name in ("full", "shared_expert", "decoder", "controlnet_xs"):
        with pytest.raises(ConfigError):
            METHODS[name]().prepare(with_layout(models.sd3(), num_experts=2), seed=0)


def test_its_folder_is_checked(tmp_path):
    small_sd3().save_pretrained(tmp_path / "transformer")
    index = {"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    text, problems = check_network(str(tmp_path), cells=8)
    assert not problems and "Layouts hold" in text


def test_chunks_are_refused(models):
    model = MaMoESD3Transformer2DModel.from_transformer(models.sd3())
    with pytest.raises(ConfigError, match="chunking"):
        model.enable_forward_chunking(chunk_size=2)
    model.disable_forward_chunking()
