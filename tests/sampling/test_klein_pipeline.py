"""FLUX.2-klein as a base model: read from its folder, drawn from as its own pipeline does."""

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

from mamoe import LayoutPipeline
from mamoe.bases.pretrained import load_base, text_problems
from mamoe.conditioning.encoded import EmbeddingCache, fingerprint
from mamoe.conditioning.encoders import encoder_for, reader_of
from mamoe.models.flux.backbone import drawn_shift
from mamoe.models.latents import LatentScaling
from small_klein_base import PROMPT_TOKENS, WIDTH, klein_pipeline, write_klein_base

PROMPT = "A red car, and a Tree"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_klein_base(tmp_path_factory.mktemp("klein"))


@torch.no_grad()
def test_prompts_are_encoded_as_the_stock_pipeline_encodes_them(tmp_path):
    stock = klein_pipeline()
    embeds, _ = stock.encode_prompt([PROMPT, ""], max_sequence_length=PROMPT_TOKENS)
    cache = EmbeddingCache(tmp_path, fingerprint(stock.text_encoder, stock.tokenizer))
    encoder = encoder_for(stock.tokenizer, stock.text_encoder, cache)
    assert encoder.limit == PROMPT_TOKENS and not encoder.pools
    for got, words in zip(encoder.encode_whole([PROMPT, ""]), embeds, strict=True):
        torch.testing.assert_close(got.tokens, words, rtol=1e-4, atol=1e-5)  # padding is part of it
    (own,) = encoder.encode([PROMPT], padded=False)
    count = encoder.num_tokens(PROMPT)
    torch.testing.assert_close(own, embeds[0][:count], rtol=1e-4, atol=1e-5)
    assert own.shape == (count, 3 * WIDTH) and encoder.from_cache().num_tokens(PROMPT) == count
    assert encoder.encode([], padded=False) == []
    words, room = reader_of(stock.tokenizer, encoder=type(stock.text_encoder).__name__)
    assert words is stock.tokenizer and room == PROMPT_TOKENS - encoder.num_tokens("")
    with pytest.warns(UserWarning, match=f"limit of {PROMPT_TOKENS}"):
        (cut,) = encoder.encode(["car " * 60], padded=False)
    assert len(cut) == PROMPT_TOKENS


def test_latents_are_known_as_the_stock_pipeline_knows_them():
    stock = klein_pipeline()
    vae, latents = stock.vae, torch.randn(2, 4, 6, 8)
    scaling = LatentScaling.of(vae)
    mean = vae.bn.running_mean.view(1, -1, 1, 1)
    deviation = (vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps).sqrt()
    patches = (Flux2KleinPipeline._patchify_latents(latents) - mean) / deviation
    torch.testing.assert_close(Flux2KleinPipeline._patchify_latents(scaling.scaled(latents)), patches)
    torch.testing.assert_close(scaling.unscaled(scaling.scaled(latents)), latents)


def test_the_shift_is_that_of_the_stock_pipeline():
    for patches in (24, 1024, 4096, 5000):
        for steps in (4, 50, 200):
            assert drawn_shift(patches, steps) == pytest.approx(compute_empirical_mu(patches, steps))


def test_it_draws_what_the_stock_pipeline_draws(base):
    ours, stock = LayoutPipeline.from_pretrained(base), Flux2KleinPipeline.from_pretrained(base)
    for pipe in (ours, stock):
        pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "output_type": "np", "height": 64, "width": 96, "guidance_scale": 3.5}
    got = ours(PROMPT, generator=torch.Generator().manual_seed(1), **options).images
    noise = torch.randn((1, 4, 8, 12), generator=torch.Generator().manual_seed(1))
    latents = Flux2KleinPipeline._patchify_latents(noise)
    wanted = stock(prompt=PROMPT, latents=latents, max_sequence_length=PROMPT_TOKENS, **options).images
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_its_parts_must_fit(base):
    loaded = load_base(str(base))
    encoders = [loaded.text.text_encoder, None]
    assert text_problems({"joint_attention_dim": 3 * WIDTH}, encoders) == []
    assert "give 24" in text_problems({"joint_attention_dim": 99}, encoders)[0]
