"""Qwen-Image as a base model: read from its folder, drawn from as its own pipeline does."""

import json

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

from mamoe import LayoutPipeline
from mamoe.bases.pretrained import load_base, text_problems
from mamoe.conditioning.encoded import EmbeddingCache, fingerprint
from mamoe.conditioning.encoders import encoder_for, reader_of
from mamoe.diffusion.levels import NoiseLevels
from mamoe.diffusion.schedules import schedule_from, shift_of
from mamoe.errors import ConfigError, MamoeError
from mamoe.evaluation.reconstruction import reconstructed
from mamoe.models.autoencoder import cell_pixels, decoded, latent_channels, posterior_of
from mamoe.models.latents import LatentScaling
from mamoe.sampling.guidance import Guidance, keep_length
from small_qwen_base import PROMPT_TOKENS, SCHEDULE, WIDTH, qwen_pipeline, small_films, write_qwen_base

PROMPT = "A red car, and a Tree"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_qwen_base(tmp_path_factory.mktemp("qwen"))


@torch.no_grad()
def test_prompts_are_encoded_as_the_stock_pipeline_encodes_them(tmp_path):
    stock = qwen_pipeline()
    embeds, mask = stock.encode_prompt([PROMPT, ""])
    cache = EmbeddingCache(tmp_path, fingerprint(stock.text_encoder, stock.tokenizer))
    encoder = encoder_for(stock.tokenizer, stock.text_encoder, cache)
    assert encoder.limit == PROMPT_TOKENS and not encoder.pools
    for padded in (True, False):  # there is no padding in either form
        for got, words, valid in zip(encoder.encode([PROMPT, ""], padded), embeds, mask, strict=True):
            torch.testing.assert_close(got, words[valid.bool()], rtol=1e-4, atol=1e-5)
    count = encoder.num_tokens(PROMPT)
    assert count == int(mask[0].sum()) and encoder.from_cache().num_tokens(PROMPT) == count
    assert encoder.encode([], padded=False) == []
    words, room = reader_of(stock.tokenizer, encoder=type(stock.text_encoder).__name__)
    assert words is stock.tokenizer and room == PROMPT_TOKENS - encoder.num_tokens("")
    with pytest.warns(UserWarning, match=f"limit of {PROMPT_TOKENS}"):
        (cut,) = encoder.encode(["car " * 60], padded=False)
    wanted, _ = stock.encode_prompt(["car " * 60], max_sequence_length=PROMPT_TOKENS)
    torch.testing.assert_close(cut, wanted[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_picture_is_a_film_of_one_frame(monkeypatch):
    vae, pictures = small_films(), torch.rand(2, 3, 32, 48) * 2 - 1
    posterior = posterior_of(vae, pictures)
    stock = vae.encode(pictures.unsqueeze(2)).latent_dist
    assert posterior.mean.shape == posterior.std.shape == (2, 4, 4, 6)
    assert torch.equal(posterior.mean, stock.mean[:, :, 0]) and torch.equal(posterior.std, stock.std[:, :, 0])
    latents = posterior.mode()
    assert torch.equal(decoded(vae, latents), vae.decode(latents.unsqueeze(2)).sample[:, :, 0])
    assert (latent_channels(vae.config), cell_pixels(vae.config)) == (4, 8)
    shown = (pictures[0].permute(1, 2, 0) * 127.5 + 127.5).byte().numpy()
    assert reconstructed(vae, shown).shape == shown.shape
    scaling = LatentScaling.of(vae)
    mean, deviation = (torch.tensor(vae.config[f"latents_{one}"]).view(1, 4, 1, 1) for one in ("mean", "std"))
    torch.testing.assert_close(scaling.scaled(latents), (latents - mean) / deviation)
    torch.testing.assert_close(scaling.unscaled(scaling.scaled(latents)), latents)
    # These numbers lie on the host: a step sends them to its device without waiting for it.
    travelled = []
    monkeypatch.setattr("mamoe.models.latents.sent", lambda one, *where: travelled.append(where) or one.to(*where))
    assert scaling.scaled(latents.double()).dtype == torch.float64
    assert travelled == [(latents.device, torch.float64)] * 2


def test_the_schedule_is_that_of_the_stock_pipeline():
    flow = schedule_from(FlowMatchEulerDiscreteScheduler(**SCHEDULE).config)
    assert flow.config["shift_terminal"] == 0.02
    for patches in (16, 64, 100):
        mu = calculate_shift(patches, 4, 64, 0.5, 0.9)
        assert shift_of(flow.config, patches) == pytest.approx(np.exp(mu))
        # In training there are levels below the last one of a drawing.
        assert NoiseLevels.of(flow, patches).sigma[0] < 0.01


def test_a_guided_patch_is_as_long_as_the_conditional_one():
    guided, conditional = torch.randn(2, 2, 3, 4, 6)
    rows, wanted = (QwenImagePipeline._pack_latents(one, 2, 3, 4, 6) for one in (guided, conditional))
    wanted = rows * wanted.norm(dim=-1, keepdim=True) / rows.norm(dim=-1, keepdim=True)
    got = keep_length(guided, conditional, patch=2)
    torch.testing.assert_close(QwenImagePipeline._pack_latents(got, 2, 3, 4, 6), wanted)
    assert not keep_length(torch.zeros_like(guided), conditional, patch=2).any()


def test_led_by_text_and_layout_apart_a_patch_is_as_long_as_with_both():
    parts = torch.randn(3 * 2, 3, 4, 6, generator=torch.Generator().manual_seed(0))  # led away from; text; both
    options = {"scale": 4.0, "layout": 2.0, "rescale": 0.0}
    plain, kept = (Guidance(**options, patch=patch).combined(parts, 2) for patch in (None, 2))
    torch.testing.assert_close(kept, keep_length(plain, parts[4:], 2))
    assert not torch.allclose(kept, plain)


@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_it_draws_what_the_stock_pipeline_draws(base, scale):
    ours, stock = LayoutPipeline.from_pretrained(base), QwenImagePipeline.from_pretrained(base)
    for pipe in (ours, stock):
        pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "height": 64, "width": 96}
    noise = torch.randn((1, 4, 8, 12), generator=torch.Generator().manual_seed(1))
    led = {"negative_prompt": "", "true_cfg_scale": scale} if scale > 1 else {"true_cfg_scale": 1.0}

    def both(kind):
        got = ours(PROMPT, latents=noise, guidance_scale=scale, output_type=kind, **options).images
        packed = QwenImagePipeline._pack_latents(noise, 1, 4, 8, 12)
        return got, stock(prompt=PROMPT, latents=packed, output_type=kind, **led, **options).images

    latents, wanted = both("latent")
    torch.testing.assert_close(QwenImagePipeline._pack_latents(latents, 1, 4, 8, 12), wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(*both("np"), atol=1e-5)


def test_pictures_drawn_together_are_those_drawn_alone(base):
    """Prompts of several lengths, by a base model that knows no layout: what fills the shorter one is not read."""
    pipe, prompts = LayoutPipeline.from_pretrained(base), ["a car", PROMPT]
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    options = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "latent", "guidance_scale": 1.0}
    together = pipe(prompts, latents=noise, **options).images
    alone = [pipe(words, latents=noise[[i]], **options).images for i, words in enumerate(prompts)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_what_it_cannot_be_asked_is_refused(base):
    pipe = LayoutPipeline.from_pretrained(base)
    options = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "latent"}
    with pytest.raises(MamoeError, match="guidance_rescale has no effect"):
        pipe(PROMPT, guidance_rescale=0.5, **options)
    with pytest.raises(MamoeError, match=r"at least 2.*shift_terminal"):
        pipe(PROMPT, **{**options, "num_inference_steps": 1})


def test_its_parts_must_fit(base, tmp_path):
    loaded = load_base(str(base))
    assert text_problems({"joint_attention_dim": WIDTH}, [loaded.text.text_encoder, None]) == []
    assert f"give {WIDTH}" in text_problems({"joint_attention_dim": 99}, [loaded.text.text_encoder, None])[0]
    index = json.loads((base / "model_index.json").read_text())
    edits = {**index, "_class_name": "QwenImageEditPipeline", "processor": ["transformers", "Qwen2VLProcessor"]}
    (tmp_path / "model_index.json").write_text(json.dumps(edits))
    with pytest.raises(ConfigError, match="QwenImageEditPipeline is shown pictures"):
        load_base(str(tmp_path))
    small_films().save_pretrained(tmp_path / "vae")
    assert load_base(str(base), vae=str(tmp_path / "vae")).vae.config["z_dim"] == 4
    other = small_films()
    other.register_to_config(latents_std=[2.0] * 4)
    other.save_pretrained(tmp_path / "vae")
    with pytest.raises(ConfigError, match=r"its latents_std is \[2\.0, .*that of the own"):
        load_base(str(base), vae=str(tmp_path / "vae"))
