import multiprocessing

import pytest
import torch

from mamoe.conditioning.encoded import EmbeddingCache, fingerprint
from mamoe.conditioning.text import PromptEncoder

PROMPTS = ["a red car", "bus", "", "bus"]


@pytest.mark.parametrize("padded", [True, False])
def test_cached_embeddings_are_bit_equal_and_need_no_encoder(tokenizer, text_encoder, tmp_path, padded):
    fresh = PromptEncoder(tokenizer, text_encoder).encode(PROMPTS, padded)
    first = PromptEncoder(tokenizer, text_encoder, EmbeddingCache(tmp_path, "id")).encode(PROMPTS, padded)
    hook = text_encoder.register_forward_pre_hook(lambda *_: pytest.fail("the encoder ran"))
    second = PromptEncoder(tokenizer, text_encoder, EmbeddingCache(tmp_path, "id")).encode(PROMPTS, padded)
    hook.remove()
    for a, b, c in zip(fresh, first, second, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
        assert not b.requires_grad and not c.requires_grad


def test_only_missing_prompts_are_encoded(tokenizer, text_encoder, tmp_path):
    encoder = PromptEncoder(tokenizer, text_encoder, EmbeddingCache(tmp_path, "id"))
    encoder.encode(["car", "bus"], padded=False)
    encoder.encode(["car", "sky"], padded=False)
    encoder.encode(["car"], padded=True)  # another entry than unpadded
    assert len(encoder.cache) == 4
    assert len(list(encoder.cache.folder.glob("*.safetensors"))) == 3
    assert not list(encoder.cache.folder.glob("*.tmp"))


def test_half_precision_stays_what_the_encoder_said(tmp_path):
    cache = EmbeddingCache(tmp_path, "id")
    embed = torch.randn(3, 4).bfloat16()
    cache.add({"car": embed}, padded=False)
    assert torch.equal(EmbeddingCache(tmp_path, "id").get("car", padded=False), embed)
    assert cache.get("car", padded=True) is None
    assert EmbeddingCache(tmp_path, "other").get("car", padded=False) is None


def write_many(folder, writer: int) -> None:
    cache = EmbeddingCache(folder, "id")
    for i in range(20):
        cache.add({f"shared {i}": torch.full((2, 3), float(i)), f"{writer} {i}": torch.full((1, 3), 7.0)}, padded=False)


def test_two_writers_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(tmp_path, w)) for w in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        EmbeddingCache(tmp_path, "id")  # a reader never meets a half-written shard (it would warn)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    cache = EmbeddingCache(tmp_path, "id")
    assert len(cache) == 60
    for i in range(20):
        assert torch.equal(cache.get(f"shared {i}", padded=False), torch.full((2, 3), float(i)))
        assert cache.get(f"0 {i}", padded=False) is not None and cache.get(f"1 {i}", padded=False) is not None


def test_a_shard_that_could_not_be_written_leaves_nothing(tmp_path, monkeypatch):
    def fill_the_disk(tensors, path, metadata):
        path.write_bytes(b"half a shard")
        raise OSError("No space left on device")

    folder = EmbeddingCache(tmp_path, "id").folder
    monkeypatch.setattr("mamoe.storage.shards.save_file", fill_the_disk)
    with pytest.raises(OSError, match="No space"):
        EmbeddingCache(tmp_path, "id").add({"car": torch.ones(2, 3)}, padded=False)
    assert list(folder.iterdir()) == []


def test_a_damaged_shard_is_left_out_with_a_warning(tmp_path):
    cache = EmbeddingCache(tmp_path, "id")
    cache.add({"car": torch.ones(2, 3)}, padded=False)
    cache.add({"bus": torch.ones(2, 3)}, padded=False)
    shard = sorted(cache.folder.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.warns(UserWarning, match="damaged"):
        assert len(EmbeddingCache(tmp_path, "id")) == 1


def test_fingerprint_tells_encoders_apart_and_nothing_else(tokenizer, encoder_factory, tmp_path):
    encoder = encoder_factory(0)
    one = fingerprint(encoder, tokenizer)
    assert one == fingerprint(encoder_factory(0), tokenizer)
    encoder.save_pretrained(tmp_path)
    assert one == fingerprint(type(encoder).from_pretrained(tmp_path), tokenizer)
    assert one != fingerprint(encoder_factory(1), tokenizer)
    encoder.config.hidden_act = "gelu"
    assert one != fingerprint(encoder, tokenizer)
    assert one != fingerprint(encoder_factory(0).half(), tokenizer)


def test_fingerprint_does_not_change_with_use(tokenizer, text_encoder):
    before = fingerprint(text_encoder, tokenizer)
    PromptEncoder(tokenizer, text_encoder).encode(PROMPTS, padded=True)
    assert fingerprint(text_encoder, tokenizer) == before
