"""A base model of the SDXL kind: two text encoders, a pooled prompt, and the pictures' sizes beside the text."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from transformers import CLIPTokenizer

from factories import POOLED_WIDTH, SECOND_WIDTH, TEXT_WIDTH
from mamoe import Framing, LayoutPipeline, MaMoEUNet2DConditionModel, PanopticMap
from mamoe.conditioning.collate import Collator
from mamoe.conditioning.conditioner import Conditioner
from mamoe.conditioning.encoded import EmbeddingCache
from mamoe.conditioning.text import PromptEncoder
from mamoe.errors import ConfigError, MamoeError
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.prompts import RegionPrompts
from mamoe.vocabulary.sample import Sample
from mamoe.vocabulary.taxonomy import Taxonomy

ASKED = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 32, "width": 48, "output_type": "np"}
PROMPTS = ["red car", "", "a long street", "house"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def stock(xl_base) -> StableDiffusionXLPipeline:
    pipe = StableDiffusionXLPipeline.from_pretrained(xl_base, add_watermarker=False)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def ours(xl_base) -> LayoutPipeline:
    pipe = LayoutPipeline.from_pretrained(xl_base)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def encoder(ours) -> PromptEncoder:
    return ours._prompt_encoder(torch.device("cpu"))


@pytest.fixture(scope="module")
def streets() -> LayoutSettings:
    return LayoutSettings(taxonomy=Taxonomy.load("scenes"), grouping="streets")


@pytest.fixture(scope="module")
def with_layout(ours, streets) -> LayoutPipeline:
    unet = MaMoEUNet2DConditionModel.from_unet(ours.unet, num_experts=streets.num_experts)
    pipe = LayoutPipeline(
        **{**ours.components, "unet": unet}, layout=streets.to_dict(), force_zeros_for_empty_prompt=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def panoptic(streets) -> PanopticMap:
    things = [c.id for c in streets.taxonomy.classes if c.is_thing]
    segment, klass = np.ones((32, 48), dtype=np.int32), np.zeros((32, 48), dtype=np.uint8)
    segment[8:24, 8:24], klass[8:24, 8:24] = 2, things[0]
    return PanopticMap(segment_id=segment, class_id=klass)


# Text.


def test_whole_prompts_are_what_diffusers_encodes(stock, encoder):
    with torch.no_grad():
        tokens, _, pooled, _ = stock.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
        mine = replace_zeroing(encoder, False).encode_whole(PROMPTS)
    assert tokens.shape == (4, 77, TEXT_WIDTH + SECOND_WIDTH) and pooled.shape == (4, POOLED_WIDTH)
    torch.testing.assert_close(torch.stack([one.tokens for one in mine]), tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.stack([one.pooled for one in mine]), pooled, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(pooled[0], pooled[2], atol=1e-3)


def replace_zeroing(encoder: PromptEncoder, zero_empty: bool, cache: EmbeddingCache | None = None) -> PromptEncoder:
    return PromptEncoder(
        encoder.tokenizers[0],
        encoder.text_encoders[0],
        cache,
        tokenizer_2=encoder.tokenizers[1],
        text_encoder_2=encoder.text_encoders[1],
        zero_empty=zero_empty,
    )


def test_instance_prompts_are_the_words_through_both_encoders(encoder):
    with torch.no_grad():
        for prompt, embed in zip(PROMPTS, encoder.encode(PROMPTS, padded=False), strict=True):
            ids = torch.tensor([encoder.tokenizers[0](prompt, add_special_tokens=False).input_ids], dtype=torch.long)
            assert embed.shape == (ids.shape[1], TEXT_WIDTH + SECOND_WIDTH)
            if not prompt:
                continue
            alone = [one(input_ids=ids, output_hidden_states=True) for one in encoder.text_encoders]
            # Two layers: the second-last hidden state is the first layer's.
            wanted = torch.cat([output.hidden_states[1] for output in alone], dim=-1)[0]
            torch.testing.assert_close(embed, wanted, atol=1e-6, rtol=1e-5)


def test_the_empty_prompt_is_zero_where_the_base_model_knows_it_so(encoder):
    assert encoder.zero_empty  # read from model_index.json
    with torch.no_grad():
        empty, words = encoder.encode_whole(["", "red car"])
        real = replace_zeroing(encoder, False).encode_whole([""])[0]
    assert not empty.tokens.any() and not empty.pooled.any()
    assert words.tokens.any() and real.tokens.any() and real.tokens.shape == empty.tokens.shape


def test_cached_prompts_come_back_with_their_pooled_vector(encoder, tmp_path):
    with torch.no_grad():
        fresh = encoder.encode_whole(PROMPTS)
    replace_zeroing(encoder, True, EmbeddingCache(tmp_path, "id")).encode_whole(PROMPTS)
    hooks = [one.register_forward_pre_hook(lambda *_: pytest.fail("it ran")) for one in encoder.text_encoders]
    cached = replace_zeroing(encoder, True, EmbeddingCache(tmp_path, "id")).encode_whole(PROMPTS)
    for hook in hooks:
        hook.remove()
    for one, other in zip(fresh, cached, strict=True):
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.pooled, other.pooled)


def test_tokenizers_that_split_differently_are_refused(encoder, tmp_path):
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz", *(c + "</w>" for c in "redcar")]
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(dict.fromkeys(words))}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    letters = CLIPTokenizer.from_pretrained(tmp_path, model_max_length=77)
    odd = PromptEncoder(
        encoder.tokenizers[0],
        encoder.text_encoders[0],
        tokenizer_2=letters,
        text_encoder_2=encoder.text_encoders[1],
    )
    with pytest.raises(ConfigError, match=r"split 'red car' into 4 and 6 tokens.*one vocabulary"):
        odd.encode(["red car"], padded=False)
    with pytest.raises(ConfigError, match="give both or none"):
        PromptEncoder(encoder.tokenizers[0], encoder.text_encoders[0], tokenizer_2=letters)


# Conditioning.


def sample_of(panoptic: PanopticMap, framing: Framing | None) -> Sample:
    image = torch.zeros((3, *panoptic.size), dtype=torch.uint8)
    prompts = RegionPrompts(global_prompt="street", by_segment={2: "red car"})
    return Sample(key="a", index=0, epoch=0, image=image, panoptic=panoptic, prompts=prompts, framing=framing)


def test_a_sample_tells_the_unet_how_it_was_cut_out(encoder, streets, panoptic):
    cut = Framing(original=(1024, 2048), crop=(3, 17), target=(32, 48))
    batch = Collator(streets)([sample_of(panoptic, cut), sample_of(panoptic, None)]).to("cpu")
    conditioner = Conditioner(encoder, streets, 3)
    with torch.no_grad():
        full, null = (
            conditioner(r, device="cpu", dtype=torch.bfloat16)
            for r in (batch.regions, batch.regions.drop(torch.tensor([True, False])))
        )
        defaults = conditioner(replace(batch.regions, framing=None), device="cpu")
        whole = encoder.encode_whole(["street"])[0]
    wanted = [[1024.0, 2048, 3, 17, 32, 48], [32, 48, 0, 0, 32, 48]]
    added = full.unet_inputs()["added_cond_kwargs"]
    assert added["time_ids"].dtype == torch.float32 and added["time_ids"].tolist() == wanted
    assert torch.equal(added["text_embeds"], whole.pooled.bfloat16().expand(2, -1))
    assert null.picture.time_ids.tolist() == wanted  # the sizes stay where the prompt is dropped
    assert not null.picture.pooled[0].any() and null.picture.pooled[1].any()
    assert defaults.picture.time_ids.tolist() == [wanted[1]] * 2


# Pictures.


def test_the_base_model_draws_what_diffusers_draws(stock, ours):
    sizes = {"original_size": (200, 300), "crops_coords_top_left": (8, 16), "target_size": (32, 48)}
    framing = Framing(original=(200, 300), crop=(8, 16), target=(32, 48))
    plain = stock("red car", generator=seeded(), **ASKED).images
    assert np.abs(plain - ours("red car", generator=seeded(), **ASKED).images).max() < 1e-5
    framed = stock("red car", generator=seeded(), **sizes, **ASKED).images
    assert np.abs(framed - ours("red car", generator=seeded(), framing=framing, **ASKED).images).max() < 1e-5
    assert np.abs(framed - plain).max() > 1e-3


def test_one_guided_pass_with_a_layout_saved_and_read_again(with_layout, panoptic, tmp_path):
    asked = {"prompt": "street", "panoptic": panoptic, "num_inference_steps": 2, "output_type": "np"}
    first = with_layout(**asked, instance_prompts={2: "red car"}, generator=seeded()).images
    other = with_layout(**asked, instance_prompts={2: "house"}, generator=seeded()).images
    assert np.abs(first - other).max() > 1e-5
    with_layout.save_pretrained(tmp_path)
    again = LayoutPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert again.config["force_zeros_for_empty_prompt"] and again.text_encoder_2 is not None
    assert again.tokenizer_2.pad_token == "!" != again.tokenizer.pad_token
    drawn = again(**asked, instance_prompts={2: "red car"}, generator=seeded()).images
    assert np.abs(drawn - first).max() < 1e-5


def test_half_precision_decodes_without_overflow(ours):
    loud = torch.full((1, 4, 4, 4), 3.0)
    vae = ours.vae
    with torch.no_grad():
        vae.decoder.conv_in.weight *= 3e4  # activations beyond 65504
        wanted = ours._decode(loud, "pt", (32, 32), None)
        vae.half()
        raw = vae.decode(loud.half() / vae.config["scaling_factor"]).sample
        safe = ours._decode(loud, "pt", (32, 32), None)
        kept = vae.dtype
        vae.float()
        vae.decoder.conv_in.weight /= 3e4
    assert not torch.isfinite(raw).all() and kept == torch.float16
    assert (safe - wanted).abs().max() < 0.05


# Refusals name both sides.


def test_parts_that_do_not_fit_are_refused(ours, stock, make_pipe, parts):
    with pytest.raises(ConfigError, match=r"width 80 \(cross_attention_dim\), the text encoder gives 32.*text_time"):
        LayoutPipeline(**{**ours.components, "text_encoder_2": None, "tokenizer_2": None})
    with pytest.raises(ConfigError, match=r"width 16 .*, the text encoders give 32 \+ 48.*does not take a pooled"):
        LayoutPipeline(**{**ours.components, "unet": parts["unet"]})
    with pytest.raises(MamoeError, match="knows no framing"):
        make_pipe(layout=False)("a", framing=Framing.whole((32, 32)))


def test_experts_need_transformer_blocks(ours):
    with pytest.raises(ConfigError, match=r"blocks on levels \[1, 2\] only, so there is no place for experts on \[0\]"):
        MaMoEUNet2DConditionModel.from_unet(ours.unet, num_experts=2, moe_levels=(0, 1))
