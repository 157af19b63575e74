"""Random maps and a tiny text encoder with a byte tokenizer."""

from collections.abc import Callable

import numpy as np
import pytest
from transformers import CLIPTextModel, CLIPTokenizer

from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy
from small_text import byte_encoder, byte_tokenizer


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
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def text_encoder() -> CLIPTextModel:
    return byte_encoder(seed=0)


@pytest.fixture(scope="session")
def encoder_factory() -> Callable[[int], CLIPTextModel]:
    return byte_encoder
