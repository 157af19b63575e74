"""FLUX.1 as a base model: read from its folder, drawn from as its own pipeline does."""

import json

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

from mamoe import LayoutPipeline
from mamoe.bases.pretrained import load_base, text_problems
from mamoe.conditioning.encoders import encoder_for
from mamoe.errors import ConfigError, MamoeError
from mamoe.vocabulary.framing import Framing
from small_flux_base import POOLED, PROMPT_TOKENS, flux_pipeline, write_flux_base
from small_models import TEXT_WIDTH

PROMPT = "A red car, and a Tree"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_flux_base(tmp_path_factory.mktemp("flux"))


@torch.no_grad()
def test_prompts_are_encoded_as_the_stock_pipeline_encodes_them():
    stock = flux_pipeline()
    embeds, pooled, _ = stock.encode_prompt([PROMPT, ""], max_sequence_length=PROMPT_TOKENS)
    encoder = encoder_for(
        stock.tokenizer, stock.text_encoder, tokenizer_2=stock.tokenizer_2, text_encoder_2=stock.text_encoder_2
    )
    assert encoder.limit == PROMPT_TOKENS and encoder.pools
    for got, words, whole in zip(encoder.encode_whole([PROMPT, ""]), embeds, pooled, strict=True):
        torch.testing.assert_close(got.tokens, words, rtol=1e-4, atol=1e-5)  # padding is part of it
        torch.testing.assert_close(got.pooled, whole, rtol=1e-4, atol=1e-5)
    (own,) = encoder.encode([PROMPT], padded=False)
    assert own.shape == (encoder.num_tokens(PROMPT) - 1, TEXT_WIDTH)  # without padding and the end token
    assert not torch.equal(own, encoder.encode([PROMPT.lower()], padded=False)[0])  # it keeps its capitals
    assert encoder.encode([""], padded=False)[0].shape == (0, TEXT_WIDTH)
    with pytest.warns(UserWarning, match=f"limit of {PROMPT_TOKENS}"):
        (cut,) = encoder.encode(["car " * 60], padded=False)
    assert len(cut) == PROMPT_TOKENS - 1
    with pytest.warns(UserWarning, match="more than 24 tokens.*of their beginning"):
        encoder.encode_whole(["a car and another car beside it"])


@pytest.mark.parametrize(
    ("distilled", "schedule"),
    [(True, {}), (False, {}), (False, {"use_dynamic_shifting": False, "shift": 1.0})],
    ids=["dev", "not distilled", "schnell"],
)
def test_it_draws_what_the_stock_pipeline_draws(tmp_path, distilled, schedule):
    base = write_flux_base(tmp_path, distilled=distilled, schedule=schedule)
    ours, stock = LayoutPipeline.from_pretrained(base), FluxPipeline.from_pretrained(base)
    assert isinstance(ours.scheduler, FlowMatchEulerDiscreteScheduler) and ours.side_multiple == 16
    for pipe in (ours, stock):
        pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "output_type": "np", "height": 64, "width": 96}
    got = ours(PROMPT, generator=torch.Generator().manual_seed(1), guidance_scale=3.5, **options).images
    noise = torch.randn((1, 4, 8, 12), generator=torch.Generator().manual_seed(1))
    own = {"guidance_scale": 3.5} if distilled else {"true_cfg_scale": 3.5, "negative_prompt": ""}
    packed = FluxPipeline._pack_latents(noise, 1, 4, 8, 12)
    wanted = stock(PROMPT, latents=packed, max_sequence_length=PROMPT_TOKENS, **own, **options).images
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_a_distilled_model_says_what_it_cannot_be_asked(base):
    pipe = LayoutPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 1, "height": 32, "width": 32, "output_type": "latent"}
    with pytest.warns(UserWarning, match="Negative prompts have no effect"):
        pipe(PROMPT, negative_prompt="fog", **options)
    with pytest.raises(MamoeError, match="distilled to guide itself"):
        pipe(PROMPT, guidance_layout=2.0, **options)
    with pytest.raises(MamoeError, match="knows no framing"):
        pipe(PROMPT, framing=Framing.whole((32, 32)), **options)


def test_pictures_are_changed_by_its_flow(base):
    pipe = LayoutPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    mask = np.zeros((64, 96), bool)
    mask[:, 48:] = True
    options = {"num_inference_steps": 4, "output_type": "np", "generator": torch.Generator().manual_seed(1)}
    drawn = pipe(PROMPT, image=picture, mask_image=mask, border=0, **options).images[0]
    np.testing.assert_allclose(drawn[:, :48], picture[:, :48] / 255, atol=1e-6)  # what is kept is kept
    assert np.abs(drawn[:, 48:] - picture[:, 48:] / 255).max() > 0.1
    little = pipe(PROMPT, image=picture, strength=0.25, output_type="latent", num_inference_steps=4).images
    much = pipe(PROMPT, image=picture, strength=1.0, output_type="latent", num_inference_steps=4).images
    clean = pipe.vae.encode(torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1).latent_dist.mean
    clean = (clean - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
    assert (little - clean).abs().mean() < (much - clean).abs().mean()


def test_its_parts_must_fit(base):
    loaded = load_base(str(base))
    assert loaded.scheduler.config["use_dynamic_shifting"] and not loaded.text.force_zeros_for_empty_prompt
    encoders = [loaded.text.text_encoder, loaded.text.text_encoder_2]
    config = {"joint_attention_dim": TEXT_WIDTH, "pooled_projection_dim": POOLED}
    assert text_problems(config, encoders) == []
    words, whole = text_problems({"joint_attention_dim": 99, "pooled_projection_dim": 7}, encoders)
    assert "text features of width 99" in words and "7 numbers about the whole picture" in whole
    assert "there is one" in text_problems(config, encoders[:1])[0]


def test_an_unknown_text_encoder_is_refused_before_anything_is_loaded(tmp_path):
    parts = {
        "transformer": ["diffusers", "Flux2Transformer2DModel"],
        "text_encoder": ["transformers", "Gemma2Model"],
        "tokenizer": ["transformers", "GemmaTokenizerFast"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Flux2Pipeline", **parts}))
    with pytest.raises(ConfigError, match=r"reads its prompts by a Gemma2Model \(text_encoder\)"):
        load_base(str(tmp_path))
