"""Stable Diffusion 3 as a base model: read from its folder, drawn from as its own pipeline does."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from mamoe import LayoutPipeline
from mamoe.assemble.caches import prompt_encoder, text_id
from mamoe.bases.pretrained import Formats, load_base, text_problems
from mamoe.conditioning import joined_text
from mamoe.conditioning.encoded import EmbeddingCache
from mamoe.conditioning.encoders import encoder_for, reader_of
from mamoe.errors import MamoeError
from mamoe.models.frozen import let_go
from mamoe.models.sd3.model import MaMoESD3Transformer2DModel
from small_sd3_base import PLACES, T5_WORDS, WIDTH, sd3_pipeline, write_sd3_base
from small_text import LIMIT

PROMPT = "A red car, a Tree"
CLIP = 32  # both of CLIP's widths


def encoder_of(pipe, cache=None):
    names = ("tokenizer_2", "text_encoder_2", "tokenizer_3", "text_encoder_3")
    others = {name: getattr(pipe, name) for name in names}
    return encoder_for(pipe.tokenizer, pipe.text_encoder, cache, **others, width=WIDTH)


@pytest.fixture(scope="module", params=[True, False], ids=["with T5", "without T5"])
def stock(request):
    with pytest.MonkeyPatch.context() as patch:  # a third of the zeros of the real one
        patch.setattr(joined_text, "T5_TOKENS", T5_WORDS)
        yield sd3_pipeline(t5=request.param)


@torch.no_grad()
def test_prompts_are_encoded_as_the_stock_pipeline_encodes_them(stock, tmp_path):
    embeds, _, pooled, _ = stock.encode_prompt(
        [PROMPT, ""], None, None, max_sequence_length=T5_WORDS, do_classifier_free_guidance=False
    )
    encoder = encoder_of(stock, EmbeddingCache(tmp_path, "id"))
    encoder.fill([PROMPT, ""], padded=True)
    for one in (encoder, encoder.from_cache(), encoder_of(stock)):
        for got, words, whole in zip(one.encode_whole([PROMPT, ""]), embeds, pooled, strict=True):
            torch.testing.assert_close(got.tokens, words, rtol=1e-4, atol=1e-5)  # padding is part of it
            torch.testing.assert_close(got.pooled, whole, rtol=1e-4, atol=1e-5)
        # Without padding: what CLIP reads, with begin and end, and what T5 reads, with its end.
        kept = one.without_padding(PROMPT, embeds[0])
        own = 0 if stock.text_encoder_3 is None else len(stock.tokenizer_3(PROMPT).input_ids)
        clip = len(stock.tokenizer(PROMPT).input_ids)
        assert torch.equal(kept, torch.cat([embeds[0][:clip], embeds[0][LIMIT : LIMIT + own]]))
        assert one.num_tokens(PROMPT) == len(kept)


@torch.no_grad()
def test_a_regions_prompt_is_both_kinds_of_words(stock):
    encoder = encoder_of(stock)
    (own,) = encoder.encode([PROMPT], padded=False)
    t5 = 0 if stock.text_encoder_3 is None else len(stock.tokenizer_3(PROMPT).input_ids) - 1
    clip = len(stock.tokenizer(PROMPT).input_ids) - 2
    assert own.shape == (clip + t5, WIDTH)
    assert own[:clip, :CLIP].any(dim=1).all() and not own[:clip, CLIP:].any()  # filled up with zeros
    assert own[clip:, CLIP:].any(dim=1).all()
    assert encoder.encode([""], padded=False)[0].shape == (0, WIDTH)


@torch.no_grad()
def test_what_is_cut_off_is_said(stock):
    encoder, has_t5 = encoder_of(stock), stock.text_encoder_3 is not None
    with pytest.warns(UserWarning) as said:
        encoder.encode_whole(["a car and another car beside it"])
    (text,) = [str(one.message) for one in said]
    assert f"limit of {LIMIT}; cut off: 'e it'" in text
    assert ("T5 reads up to 64 tokens of it." in text) == has_t5
    if has_t5:
        with pytest.warns(UserWarning, match=f"limit of {T5_WORDS}"):
            (cut,) = encoder.encode(["car " * 60], padded=False)
        assert len(cut) == LIMIT + T5_WORDS - 1


def test_the_reader_is_t5_where_there_is_one():
    tokenizers = [getattr(sd3_pipeline(), name) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")]
    tokenizers[2].model_max_length = 512
    assert reader_of(*tokenizers) == (tokenizers[2], 256)
    assert reader_of(*tokenizers[:2]) == (tokenizers[0], LIMIT)


@pytest.mark.parametrize("t5", [True, False], ids=["with T5", "without T5"])
def test_it_draws_what_the_stock_pipeline_draws(tmp_path, t5):
    base = write_sd3_base(tmp_path, t5=t5)
    ours = LayoutPipeline.from_pretrained(base)
    without = {} if t5 else {"text_encoder_3": None, "tokenizer_3": None}
    stock = StableDiffusion3Pipeline.from_pretrained(base, **without)
    assert isinstance(ours.scheduler, FlowMatchEulerDiscreteScheduler) and ours.side_multiple == 16
    for pipe in (ours, stock):
        pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "output_type": "np", "height": 64, "width": 96, "guidance_scale": 3.5}
    got = ours(PROMPT, generator=torch.Generator().manual_seed(1), **options).images
    noise = torch.randn((1, 4, 8, 12), generator=torch.Generator().manual_seed(1))
    words = {"max_sequence_length": T5_WORDS if t5 else joined_text.T5_TOKENS}
    wanted = stock(PROMPT, latents=noise, **words, **options).images
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_pictures_beyond_its_places_are_refused(tmp_path):
    pipe = LayoutPipeline.from_pretrained(write_sd3_base(tmp_path))
    with pytest.raises(MamoeError, match=f"more than the {8 * PLACES} pixels a side"):
        pipe(PROMPT, height=8 * PLACES + 1, width=64)
    with pytest.raises(ValueError, match="places for 32x32 latent cells"):
        MaMoESD3Transformer2DModel.from_transformer(pipe.unet)(torch.zeros(1, 4, 34, 8), torch.zeros(1, 2, WIDTH))


def test_t5_is_kept_in_half_and_told_apart_in_the_cache(tmp_path):
    base = str(write_sd3_base(tmp_path / "base"))
    half, whole = (load_base(base, formats=Formats(text=dtype)) for dtype in (None, torch.float32))
    formats = [next(one.parameters()).dtype for one in half.text.encoders]
    assert formats == [torch.float32, torch.float32, torch.bfloat16]
    assert text_id(half.text).split("-")[:2] == text_id(whole.text).split("-")[:2]
    assert text_id(half.text) != text_id(whole.text) and text_id(whole.text).count("-") == 2
    encoder = prompt_encoder(half, EmbeddingCache(tmp_path / "cache", "id"))
    encoder.fill([PROMPT], padded=False)
    assert encoder.cache.get(PROMPT, padded=False).dtype == torch.bfloat16  # what is kept is as large as T5's
    let_go(half.text_networks)
    (kept,) = encoder.from_cache().encode([PROMPT], padded=False)
    (exact,) = prompt_encoder(whole).encode([PROMPT], padded=False)
    torch.testing.assert_close(kept, exact.detach(), rtol=0.05, atol=0.05)


def test_its_parts_must_fit(tmp_path):
    loaded = load_base(str(write_sd3_base(tmp_path)))
    assert loaded.scheduler.config["shift"] == 3.0 and not loaded.text.force_zeros_for_empty_prompt
    encoders = loaded.text.encoders
    config = {"caption_projection_dim": 32, "joint_attention_dim": WIDTH, "pooled_projection_dim": 32}
    assert text_problems(config, encoders) == text_problems(config, encoders[:2]) == []
    words, narrow, whole = text_problems({**config, "joint_attention_dim": 9, "pooled_projection_dim": 7}, encoders)
    assert "width 9, the third text encoder gives 40" in words and "CLIP's give 16 + 16" in narrow
    assert "7 numbers about the whole picture, CLIP's text encoders give 12 + 20" in whole
    assert "there are 1" in text_problems(config, encoders[:1])[0]
