import warnings
from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from mamoe.conditioning import text
from mamoe.conditioning.text import PromptEncoder

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "clip_tokenizer"
PROMPTS = ["a red car", "bus", "", "a person in green", "bus", "sky"]


def test_padded_prompts_are_the_tokenizers_full_length_ones(tokenizer, text_encoder):
    ids = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=24, return_tensors="pt").input_ids
    expected = text_encoder(input_ids=ids).last_hidden_state
    embeds = PromptEncoder(tokenizer, text_encoder).encode(PROMPTS, padded=True)
    torch.testing.assert_close(torch.stack(embeds), expected)
    assert ids[1].tolist() == [512, *ids[1, 1:4].tolist(), 513, *[tokenizer.pad_token_id] * 19]


def test_unpadded_batches_equal_one_by_one(tokenizer, text_encoder, monkeypatch):
    encoder = PromptEncoder(tokenizer, text_encoder)
    for chunk in (text.CHUNK, 2):
        monkeypatch.setattr(text, "CHUNK", chunk)
        for prompt, embed in zip(PROMPTS, encoder.encode(PROMPTS, padded=False), strict=True):
            ids = tokenizer(prompt, add_special_tokens=False).input_ids
            assert len(ids) == len(prompt.replace(" ", ""))  # a token per letter, none to begin or end
            assert embed.shape == (len(ids), 16)
            if ids:
                alone = text_encoder(input_ids=torch.tensor([ids])).last_hidden_state[0]
                torch.testing.assert_close(embed, alone, atol=1e-6, rtol=1e-5)


def test_each_distinct_prompt_runs_once(tokenizer, text_encoder):
    seen = []
    hook = text_encoder.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    PromptEncoder(tokenizer, text_encoder).encode(["car"] * 5 + ["bus"] * 3 + [""], padded=False)
    hook.remove()
    assert [ids.shape for ids in seen] == [(2, 3)]


def test_no_prompts_need_no_encoder(tokenizer, text_encoder):
    assert PromptEncoder(tokenizer, text_encoder).encode([], padded=False) == []


@pytest.mark.parametrize(("padded", "lost"), [(True, "w x y z"), (False, "y z")])
def test_a_prompt_too_long_warns_once_with_what_is_lost(tokenizer, text_encoder, padded, lost):
    encoder = PromptEncoder(tokenizer, text_encoder)
    alphabet = " ".join("abcdefghijklmnopqrstuvwxyz")
    with pytest.warns(
        UserWarning, match=f"{len(lost.split())} tokens longer .* limit of 24; cut off: '{lost}'"
    ) as caught:
        embeds = encoder.encode([alphabet, "car", alphabet], padded)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode([alphabet], padded)
        expected = encoder.encode([alphabet.removesuffix(lost)], padded)[0]  # fits exactly: no warning
    torch.testing.assert_close(embeds[0], expected, atol=1e-6, rtol=1e-5)


def test_gradients_reach_the_encoder_without_a_cache(tokenizer, encoder_factory):
    trained = encoder_factory(1)
    loss = sum(embed.square().sum() for embed in PromptEncoder(tokenizer, trained).encode(PROMPTS, padded=False))
    loss.backward()
    assert trained.get_input_embeddings().weight.grad.abs().sum() > 0
    with torch.no_grad():
        assert not PromptEncoder(tokenizer, trained).encode(["car"], padded=True)[0].requires_grad


@pytest.mark.real
@pytest.mark.skipif(not REAL.exists(), reason="needs the real tokenizer beside the checkout")
def test_token_counts_of_the_real_tokenizer(encoder_factory):
    real = CLIPTokenizer.from_pretrained(REAL)
    assert real("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    config = encoder_factory(0).config
    config.vocab_size, config.max_position_embeddings = len(real), 77
    encoder = PromptEncoder(real, type(encoder_factory(0))(config))
    assert [len(e) for e in encoder.encode(["a photo of a cat", "vegetation, trees, bushes"], padded=False)] == [5, 5]
    assert [len(e) for e in encoder.encode(["a photo of a cat"], padded=True)] == [77]
    with pytest.warns(UserWarning, match="cut off: 'cat dog'"):
        encoder.encode(["a " * 75 + "cat dog"], padded=True)
