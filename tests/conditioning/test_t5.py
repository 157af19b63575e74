"""T5's text encoders: their tokenizer's files, their number format, and that they go when they are done."""

import gc
import sys
import weakref

import pytest
import torch
from transformers import T5EncoderModel, T5Tokenizer

import mamoe.assemble.model as assembled
from factories import only_run, short_run
from mamoe.assemble.caches import text_id
from mamoe.bases.pretrained import load_base, load_text
from mamoe.conditioning.text import PromptEncoder
from mamoe.errors import ConfigError
from mamoe.models.frozen import let_go
from mamoe.runs.source import Source
from small_pixart_base import write_pixart_base, write_sentencepiece
from wholeruns import SMALL, trained

PROMPTS = ["a red car", "two people walk past a house, at dusk", ""]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_pixart_base(tmp_path_factory.mktemp("pixart"))


def test_sentencepiece_files_are_read_as_sentencepiece_reads_them(base, tmp_path):
    own = T5Tokenizer.from_pretrained(base / "tokenizer")
    assert own("a red car").input_ids[-1] == own.eos_token_id
    oracle = write_sentencepiece(
        tmp_path, (f"{prompt} {i % 7} in the rain" for i in range(50) for prompt in PROMPTS[:2])
    )
    read = T5Tokenizer.from_pretrained(tmp_path)
    read.save_pretrained(tmp_path / "fast")
    assert (tmp_path / "fast/tokenizer.json").is_file()
    fast = T5Tokenizer.from_pretrained(tmp_path / "fast")
    for prompt in [*PROMPTS, "a zebra"]:
        wanted = [*oracle.encode(prompt), 1]
        assert read(prompt).input_ids == wanted and fast(prompt).input_ids == wanted
    assert len(read) == oracle.vocab_size()


@torch.no_grad()
def test_half_precision_is_what_it_is_kept_in_and_nearly_the_same(base):
    usual, whole = load_text(Source(path=str(base)), dtype=None), load_text(Source(path=str(base)))
    assert {p.dtype for p in usual.text_encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in whole.text_encoder.parameters()} == {torch.float32}
    assert text_id(usual) != text_id(whole)  # their embeddings are not mixed in a cache
    for one, other in zip(
        PromptEncoder(usual.tokenizer, usual.text_encoder).encode(PROMPTS, padded=True),
        PromptEncoder(whole.tokenizer, whole.text_encoder).encode(PROMPTS, padded=True),
        strict=True,
    ):
        assert one.dtype == torch.float32 and not torch.equal(one, other)
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)


@torch.no_grad()
def test_in_int8_it_says_nearly_the_same(base):
    pytest.importorskip("bitsandbytes")
    whole = load_text(Source(path=str(base)))
    halves, small = (load_text(Source(path=str(base)), dtype=dtype) for dtype in (None, torch.int8))
    weights = {name: weight.dtype for name, weight in small.text_encoder.named_parameters()}
    in_int8 = {name for name, dtype in weights.items() if dtype == torch.int8}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in in_int8} == {"q", "k", "v", "o", "wi_0", "wi_1"}
    assert len(in_int8) == 2 * 6 and set(weights.values()) == {torch.int8, torch.bfloat16}
    assert text_id(small) != text_id(halves)
    said = [PromptEncoder(one.tokenizer, one.text_encoder).encode(PROMPTS[:2], padded=True) for one in (whole, small)]
    for one, other in zip(*said, strict=True):
        assert not torch.equal(one, other)
        assert torch.nn.functional.cosine_similarity(one, other, dim=1).min() > 0.99
    let_go(small.text_encoder)  # as when it is done
    assert {weight.device.type for weight in small.text_encoder.parameters()} == {"meta"}


@pytest.mark.slow
def test_in_int8_it_draws_the_samples_of_a_training(base, scenes, tmp_path):
    pytest.importorskip("bitsandbytes")
    words = short_run(base, scenes, tmp_path / "runs")
    trained(*words, "model.text_precision=int8", "trainer.max_steps=1", "callbacks.samples.every=1")
    assert len(list(only_run(tmp_path / "runs").glob("samples/*/*.png"))) > 1


def test_int8_is_for_t5_and_needs_a_package(base, base_model, monkeypatch):
    with pytest.raises(ConfigError, match=r"text_precision=int8 is for T5.*read by a CLIPTextModel\. Leave it out"):
        load_text(Source(path=str(base_model)), dtype=torch.int8)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"model\.text_precision=int8 needs the package bitsandbytes.*quantised"):
        load_text(Source(path=str(base)), dtype=torch.int8)


def test_clip_stays_in_float32(base_model):
    text = load_text(Source(path=str(base_model)), dtype=None)
    assert {p.dtype for p in text.text_encoder.parameters()} == {torch.float32}
    assert load_base(str(base_model)).text_encoder.dtype == torch.float32


@pytest.mark.parametrize("precision", ["null", "int8"])
def test_it_is_gone_once_the_prompts_are_in_the_cache(base, scenes, tmp_path, monkeypatch, precision):
    if precision == "int8":
        pytest.importorskip("bitsandbytes")
    seen, prompts = {}, assembled.training_prompts

    def watched(config, loaded, *others):
        encoder: T5EncoderModel = loaded.text_encoder
        seen["dtype"] = encoder.dtype
        storages = [weakref.ref(weight.untyped_storage()) for weight in encoder.parameters()]
        found = prompts(config, loaded, *others)
        seen["left"] = [one for one in storages if one() is not None and one().nbytes()]
        seen["encoder"] = weakref.ref(encoder)
        return found

    def fit(*given, **options):
        gc.collect()
        seen["alive"] = seen["encoder"]()
        return fitted(*given, **options)

    import mamoe.assemble.training as training

    fitted = training.fit
    monkeypatch.setattr(training, "training_prompts", watched)
    monkeypatch.setattr(training, "fit", fit)
    words = ["trainer.max_steps=1", f"model.text_precision={precision}"]
    trained(*short_run(base, scenes, tmp_path / "runs"), *SMALL, *words)
    assert seen["dtype"] == torch.bfloat16
    assert seen["left"] == [] and seen["alive"] is None


def test_another_precision_is_another_training(base, scenes, tmp_path):
    words = short_run(base, scenes, tmp_path / "runs")
    trained(*words, *SMALL, "trainer.max_steps=1")
    run = only_run(tmp_path / "runs")
    said = trained(f"resume={run}", "trainer.max_steps=2", "model.text_precision=fp32", code=2).err
    assert "model.text_precision" in said and "other embeddings" in said
    assert "stays as it is" in trained(*words, "model.train_text_encoder=true", code=2).err
    both = ["model.train_text_encoder=true", "model.text_precision=bf16"]
    assert "Leave one of them out" in trained(*words, *both, code=2).err
