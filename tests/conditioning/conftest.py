"""Random maps and a tiny text encoder with a byte tokenizer."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

LIMIT = 24


@pytest.fixture(scope="session")
def taxonomy() -> Taxonomy:
    return Taxonomy.load("cityscapes")


@pytest.fixture(scope="session")
def make_settings(taxonomy) -> Callable[..., LayoutSettings]:
    return lambda **choices: LayoutSettings(taxonomy=taxonomy, **{"grouping": "extreme_things", **choices})


@pytest.fixture(scope="session")
def make_map() -> Callable[..., PanopticMap]:
    """Blocky random maps, with segment 0 and void among them, and a few segments of a handful of pixels."""

    def make(seed: int, height: int, width: int, segments: int = 9) -> PanopticMap:
        rng = np.random.default_rng(seed)
        class_of = rng.integers(0, 20, segments + 5).astype(np.uint8)
        blocks = rng.integers(0, segments, (height // 6 + 2, width // 6 + 2))
        segment = np.kron(blocks, np.ones((6, 6), dtype=int))[3 : height + 3, 2 : width + 2].astype(np.int32)
        for small in range(segments, segments + 5):
            y, x = rng.integers(0, height - 3), rng.integers(0, width - 3)
            segment[y : y + 2, x : x + 3] = small
        return PanopticMap(segment_id=segment * 7, class_id=class_of[segment])

    return make


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> CLIPTokenizer:
    """One token per byte; begin 512, end 513, padded with '!'. 24 tokens at most."""
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": LIMIT, "pad_token": "!"}))
    return CLIPTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def text_encoder() -> CLIPTextModel:
    return make_text_encoder(seed=0)


def make_text_encoder(seed: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LIMIT,
        bos_token_id=512,
        eos_token_id=513,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIPTextModel(config).eval()


@pytest.fixture(scope="session")
def encoder_factory() -> Callable[[int], CLIPTextModel]:
    return make_text_encoder
