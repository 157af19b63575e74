"""PixArt-alpha at 1024 pixels: what Sigma's is, and told how large pictures are."""

import numpy as np
import pytest
import torch
from diffusers import PixArtAlphaPipeline

from mamoe import Framing, LayoutPipeline
from mamoe.bases.pretrained import load_base
from mamoe.commands.check.network import check_network
from mamoe.conditioning.text import PromptEncoder
from mamoe.diffusion.sampler import ddim_scheduler
from mamoe.errors import MamoeError
from small_pixart_base import write_alpha_base, write_pixart_base

PROMPT = "A red car, and a tree"
OPTIONS = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "np", "height": 64, "width": 96}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_alpha_base(tmp_path_factory.mktemp("alpha"))


def drawn(pipe, **options):
    pipe.set_progress_bar_config(disable=True)
    return pipe(PROMPT, generator=torch.Generator().manual_seed(1), **OPTIONS, **options).images


def test_it_draws_what_the_stock_pipeline_draws(base):
    ours, stock = LayoutPipeline.from_pretrained(base), PixArtAlphaPipeline.from_pretrained(base)
    stock.scheduler = ddim_scheduler(stock.scheduler.config)
    stock.set_progress_bar_config(disable=True)
    got = drawn(ours)
    noise = torch.randn((1, 4, 8, 12), generator=torch.Generator().manual_seed(1))
    wanted = stock(PROMPT, latents=noise, use_resolution_binning=False, **OPTIONS).images
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    other = drawn(ours, framing=Framing(original=(2048, 2048), crop=(0, 0), target=(64, 96)))
    assert np.abs(other - got).max() > 1e-3  # it is told of the file


def test_its_prompts_have_120_tokens(base):
    loaded = load_base(str(base))
    encoder = PromptEncoder(loaded.tokenizer, loaded.text_encoder)
    assert encoder.limit == 120
    with pytest.warns(UserWarning, match="limit of 120"):
        encoder.encode(["car " * 200], padded=True)


def test_layouts_hold(base):
    text, problems = check_network(str(base), cells=8)
    assert not problems and "Layouts hold" in text


def test_sigma_knows_no_sizes(tmp_path):
    pipe = LayoutPipeline.from_pretrained(write_pixart_base(tmp_path))
    with pytest.raises(MamoeError, match="no framing"):
        drawn(pipe, framing=Framing.whole((64, 96)))
