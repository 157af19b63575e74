"""FLUX.2-dev as a base model: read from its folder, drawn from as its own pipeline does."""

import numpy as np
import pytest
import torch
from diffusers import Flux2Pipeline

from mamoe import LayoutPipeline
from mamoe.bases.pretrained import load_base, text_problems
from mamoe.conditioning.conditioner import text_tokens
from mamoe.conditioning.encoded import EmbeddingCache, fingerprint
from mamoe.conditioning.encoders import encoder_for, reader_of
from mamoe.models.control.call import predict, with_layout
from small_flux2_dev_base import PROMPT_TOKENS, WIDTH, byte_mistral_processor, dev_pipeline, write_dev_base

PROMPT = "A red car, and a Tree"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_dev_base(tmp_path_factory.mktemp("dev"))


@torch.no_grad()
def test_prompts_are_encoded_as_the_stock_pipeline_encodes_them(tmp_path):
    stock = dev_pipeline()
    prompts = [PROMPT, "", "[IMG]" + PROMPT]
    embeds, _ = stock.encode_prompt(prompts, max_sequence_length=PROMPT_TOKENS)
    cache = EmbeddingCache(tmp_path, fingerprint(stock.text_encoder, stock.tokenizer))
    encoder = encoder_for(stock.tokenizer, stock.text_encoder, cache)
    assert encoder.limit == PROMPT_TOKENS and not encoder.pools
    for got, words in zip(encoder.encode_whole(prompts), embeds, strict=True):
        torch.testing.assert_close(got.tokens, words, rtol=1e-4, atol=1e-5)  # padding is part of it
    assert torch.equal(embeds[0], embeds[2])  # there is no picture
    (own,) = encoder.encode([PROMPT], padded=False)
    assert len(own) == len(PROMPT) + 1  # and its end; what stands before every prompt is the whole picture's matter
    for one in (encoder, encoder.from_cache()):  # padding stands before the words
        whole = one.without_padding(PROMPT, embeds[0])
        assert one.words_end == PROMPT_TOKENS and one.num_tokens(PROMPT) == len(whole)
        assert torch.equal(whole, embeds[0][-len(whole) :]) and len(whole) > len(own)
        torch.testing.assert_close(own, whole[-len(own) :], rtol=1e-4, atol=1e-5)
    words, room = reader_of(stock.tokenizer, encoder=type(stock.text_encoder).__name__)
    assert words is stock.tokenizer.tokenizer and room == PROMPT_TOKENS - encoder.num_tokens("")
    with pytest.warns(UserWarning, match=f"limit of {PROMPT_TOKENS}"):
        (cut,) = encoder.encode(["car " * 60], padded=True)
    whole, _ = stock.encode_prompt(["car " * 60], max_sequence_length=PROMPT_TOKENS)
    torch.testing.assert_close(cut, whole[0], rtol=1e-4, atol=1e-5)


def test_the_template_decides_an_embedding_too():
    stock = dev_pipeline()
    other = byte_mistral_processor()
    other.chat_template = other.chat_template.replace("[INST]", "[INST] ")
    assert fingerprint(stock.text_encoder, stock.tokenizer) != fingerprint(stock.text_encoder, other)


@torch.no_grad()
def test_words_end_where_they_do_with_their_padding():
    stock = dev_pipeline().transformer
    model = with_layout(stock, num_experts=2)
    words, noisy = torch.randn(2, 5, 3 * WIDTH), torch.randn(2, 4, 4, 4)
    text = text_tokens([[words[0, :2], words[0, 2:]], [words[1]]], "cpu", words_end=12)
    assert text.place.tolist() == [[10, 11, 9, 10, 11], [7, 8, 9, 10, 11]]
    told = {"encoder_hidden_states": words[1:], "word_places": text.place[1:]}
    # As at the end of a text of twelve tokens, of which the others are left out.
    padded = torch.cat([torch.randn(1, 7, 3 * WIDTH), words[1:]], dim=1)
    left = {"encoder_hidden_states": padded, "encoder_attention_mask": torch.arange(12)[None] >= 7}
    got, wanted = predict(model, noisy[1:], 300, told), predict(model, noisy[1:], 300, left)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    assert (predict(model, noisy[1:], 300, {"encoder_hidden_states": words[1:]}) - got).abs().max() > 1e-4
    # A stock network does likewise, as long as it can.
    torch.testing.assert_close(predict(stock, noisy[1:], 300, told), got, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="global_padding=true"):
        predict(stock, noisy, 300, {"encoder_hidden_states": text.embeds, "word_places": text.place})


def test_it_draws_what_the_stock_pipeline_draws(base):
    ours, stock = LayoutPipeline.from_pretrained(base), Flux2Pipeline.from_pretrained(base)
    for pipe in (ours, stock):
        pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "output_type": "np", "height": 64, "width": 96, "guidance_scale": 3.5}
    got = ours(PROMPT, generator=torch.Generator().manual_seed(1), **options).images
    noise = torch.randn((1, 4, 8, 12), generator=torch.Generator().manual_seed(1))
    latents = Flux2Pipeline._patchify_latents(noise)
    wanted = stock(prompt=PROMPT, latents=latents, max_sequence_length=PROMPT_TOKENS, **options).images
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_its_parts_must_fit(base):
    loaded = load_base(str(base))
    assert text_problems({"joint_attention_dim": 3 * WIDTH}, loaded.text.encoders) == []
    assert "give 24" in text_problems({"joint_attention_dim": 99}, loaded.text.encoders)[0]
