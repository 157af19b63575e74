"""PixArt-Sigma as a base model: read from its folder, drawn from as its own pipeline does."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PixArtSigmaPipeline

from mamoe import LayoutPipeline
from mamoe.bases.pretrained import load_base
from mamoe.conditioning.text import PromptEncoder
from mamoe.diffusion.sampler import ddim_scheduler
from mamoe.errors import ConfigError
from small_pixart_base import pixart_pipeline, write_pixart_base
from small_text import byte_t5_tokenizer

PROMPT = "A red car, and a tree"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_pixart_base(tmp_path_factory.mktemp("pixart"))


@torch.no_grad()
def test_prompts_are_encoded_as_the_stock_pipeline_encodes_them():
    stock = pixart_pipeline()
    embeds, mask, *_ = stock.encode_prompt([PROMPT, ""], do_classifier_free_guidance=False)
    encoder = PromptEncoder(stock.tokenizer, stock.text_encoder)
    assert encoder.limit == 300
    for got, wanted, seen in zip(encoder.encode([PROMPT, ""], padded=True), embeds, mask, strict=True):
        torch.testing.assert_close(got, wanted[seen.bool()], rtol=1e-4, atol=1e-5)
    (words,) = encoder.encode([PROMPT], padded=False)  # without the end token
    torch.testing.assert_close(words, embeds[0][: len(words)], rtol=1e-4, atol=1e-5)
    assert len(words) == mask[0].sum() - 1 == encoder.num_tokens(PROMPT) - 1
    assert encoder.encode([""], padded=False)[0].shape == (0, 24)
    with pytest.warns(UserWarning, match="limit of 300"):
        (cut,) = encoder.encode(["car " * 200], padded=True)
    assert len(cut) == 300


def test_it_draws_what_the_stock_pipeline_draws(base):
    ours, stock = LayoutPipeline.from_pretrained(base), PixArtSigmaPipeline.from_pretrained(base)
    assert isinstance(ours.scheduler, DDIMScheduler) and ours.scheduler.config["beta_schedule"] == "linear"
    stock.scheduler = ddim_scheduler(stock.scheduler.config)
    ours.set_progress_bar_config(disable=True)
    stock.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "np", "height": 64, "width": 96}
    got = ours(PROMPT, generator=torch.Generator().manual_seed(1), **options).images
    noise = torch.randn((1, 4, 8, 12), generator=torch.Generator().manual_seed(1))
    wanted = stock(PROMPT, latents=noise, use_resolution_binning=False, **options).images
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert ours.side_multiple == 16


def test_other_transformers_are_refused_before_anything_is_loaded(base, tmp_path):
    index = json.loads((base / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "SanaTransformer2DModel"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"SanaTransformer2DModel: its feed-forward is a convolution.*PixArt"):
        load_base(str(tmp_path))


def test_its_parts_must_fit(base):
    loaded = load_base(str(base))
    assert loaded.scheduler.config["beta_end"] == 0.02 and loaded.text.tokenizer_2 is None
    assert len(byte_t5_tokenizer()) == loaded.text_encoder.config.vocab_size
