"""Z-Image as a base model: read from its folder, drawn from as its own pipeline does."""

import json

import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline
from transformers import Qwen3ForCausalLM

from mamoe import LayoutPipeline
from mamoe.bases.pretrained import load_base, text_problems
from mamoe.commands.check.network import check_network
from mamoe.conditioning.encoded import EmbeddingCache, fingerprint
from mamoe.conditioning.encoders import encoder_for, reader_of
from small_klein_base import PROMPT_TOKENS, WIDTH, byte_qwen_tokenizer, small_qwen
from small_z_image_base import write_z_image_base, z_image_pipeline

PROMPT = "A red car, and a Tree"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_z_image_base(tmp_path_factory.mktemp("z_image"))


@torch.no_grad()
def test_prompts_are_encoded_as_the_stock_pipeline_encodes_them(tmp_path):
    stock = z_image_pipeline()
    embeds, _ = stock.encode_prompt([PROMPT, ""], max_sequence_length=PROMPT_TOKENS)
    cache = EmbeddingCache(tmp_path, fingerprint(stock.text_encoder, stock.tokenizer))
    encoder = encoder_for(stock.tokenizer, stock.text_encoder, cache)
    for whole, own, words in zip(
        encoder.encode_whole([PROMPT, ""]), encoder.encode([PROMPT, ""], padded=False), embeds, strict=True
    ):
        torch.testing.assert_close(whole.tokens, words, rtol=1e-4, atol=1e-5)  # padding is no part of it
        torch.testing.assert_close(own, words, rtol=1e-4, atol=1e-5)
    count = encoder.num_tokens(PROMPT)
    assert embeds[0].shape == (count, WIDTH) and encoder.from_cache().num_tokens(PROMPT) == count
    assert reader_of(stock.tokenizer, encoder="Qwen3Model")[1] == PROMPT_TOKENS - encoder.num_tokens("")


def test_its_caches_are_not_those_of_a_network_that_has_other_layers_read():
    """FLUX.2-klein has the same language model, with its head."""
    tokenizer = byte_qwen_tokenizer()
    whole = Qwen3ForCausalLM(small_qwen(tokenizer, layers=3))
    assert fingerprint(whole, tokenizer) != fingerprint(whole.model, tokenizer)


@pytest.mark.parametrize(("size", "scale"), [((64, 96), 4.0), ((80, 64), 0.0)])
def test_it_draws_what_the_stock_pipeline_draws(base, size, scale):
    """Whose guidance counts from 0 where that of all others counts from 1."""
    ours, stock = LayoutPipeline.from_pretrained(base), ZImagePipeline.from_pretrained(base)
    for pipe in (ours, stock):
        pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "output_type": "np", "height": size[0], "width": size[1]}
    got = ours(PROMPT, generator=torch.Generator().manual_seed(1), guidance_scale=scale + 1, **options).images
    noise = torch.randn((1, 4, size[0] // 8, size[1] // 8), generator=torch.Generator().manual_seed(1))
    words = {"latents": noise, "max_sequence_length": PROMPT_TOKENS, "guidance_scale": scale}
    wanted = stock(prompt=PROMPT, **words, **options).images
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_pictures_drawn_together_are_those_drawn_alone(base):
    """Prompts of several lengths, by a base model that knows no layout: what fills the shorter one is not read."""
    pipe, prompts = LayoutPipeline.from_pretrained(base), ["a car", PROMPT]
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    options = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "latent", "guidance_scale": 1.0}
    together = pipe(prompts, latents=noise, **options).images
    alone = [pipe(words, latents=noise[[i]], **options).images for i, words in enumerate(prompts)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_lora_files_of_others_are_read_as_its_own_pipeline_reads_them(base):
    layer = "diffusion_model.layers.0.attention.to_q"  # as other trainers name it
    state = {f"{layer}.lora_A.weight": torch.randn(4, 32), f"{layer}.lora_B.weight": torch.randn(32, 4)}
    weights = []
    for pipe, network in ((LayoutPipeline, "unet"), (ZImagePipeline, "transformer")):
        pipe = pipe.from_pretrained(base)
        plain = getattr(pipe, network).layers[0].attention.to_q.weight.detach().clone()
        pipe.load_lora_weights(dict(state))
        pipe.fuse_lora(components=[network])
        weights.append(getattr(pipe, network).layers[0].attention.to_q.weight.detach())
        assert (weights[-1] - plain).abs().max() > 0.1
    assert torch.equal(*weights)


def test_its_parts_must_fit(base, tmp_path):
    loaded = load_base(str(base))
    encoders = [loaded.text.text_encoder, None]
    assert text_problems({"cap_feat_dim": WIDTH}, encoders) == []
    assert "that are read give 8" in text_problems({"cap_feat_dim": 99}, encoders)[0]
    with_head = Qwen3ForCausalLM(small_qwen(loaded.tokenizer, layers=28))  # read as FLUX.2-klein's
    assert "that are read give 24" in text_problems({"cap_feat_dim": WIDTH}, [with_head, None])[0]


def test_layouts_hold_in_it(base, tmp_path):
    text, problems = check_network(str(base), cells=12, out=tmp_path)
    assert not problems and "Layouts hold" in text
    found = json.loads((tmp_path / "leaks.json").read_text())
    assert found["identity"] < 1e-5 and [one["name"] for one in found["layers"]] == [
        "layers.0.attention",
        "layers.1.attention",
    ]
    assert all(one["left"] == one["gradient"] == 0.0 < one["open_left"] for one in found["layers"])
