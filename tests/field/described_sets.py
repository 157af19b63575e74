"""Small data sets that say in a data.yaml what they are."""

from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from mamoe.config.compose import compose
from mamoe.config.described import described
from mamoe.config.train import validated
from mamoe.console import note
from mamoe.vocabulary.panoptic import PanopticMap

HARBOUR = """
name: harbour
void_id: 255
classes:
  - {id: 0, name: water, thing: false, colour: [40, 80, 160]}
  - {id: 1, name: quay, thing: false, colour: [120, 120, 120]}
  - {id: 2, name: boat, thing: true, prompt: "a boat, a ship", colour: [200, 40, 40]}
"""
LETTERS = "abcdefghijklmnopqrst"
BOMB = "a: &a [1, 1]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise(LETTERS))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def write_pair(root: Path, split: str, name: str) -> None:
    for kind in ("images", "panoptic"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(root / "images" / split / name)
    halves = np.repeat([[0] * 8 + [2] * 8], 16, axis=0).astype(np.uint8)
    PanopticMap(segment_id=halves.astype(np.int32), class_id=halves).write(root / "panoptic" / split / name)


def data_set(root: Path, *, train=("a_1.png", "a_2.png"), val=("b_1.png",), described: str | None = None) -> Path:
    for split, names in (("train", train), ("val", val)):
        for name in names:
            write_pair(root, split, name)
    if described is not None:
        (root / "data.yaml").write_text(described)
    return root


@pytest.fixture
def harbour(tmp_path) -> Path:
    root = data_set(tmp_path / "harbour", described="taxonomy: harbour.yaml\nsize: [16, 16]\n")
    (root / "harbour.yaml").write_text(HARBOUR)
    return root


@pytest.fixture(scope="module")
def defaults() -> dict:
    """data=folder as it is composed, which takes its time, before a data set is looked at."""
    with patch("mamoe.config.compose.described", lambda composed, say: composed):
        return compose(["data=folder", "data.root=?"])


@pytest.fixture
def configured(defaults):
    """The configuration of a training on a folder, with other values in its section data."""

    def make(root: Path, say=note, **data):
        return validated(described({**defaults, "data": {**defaults["data"], "root": str(root), **data}}, say))

    return make
