"""A vision-language model on this machine, by the command."""

import json

import pytest

from factories import mamoe
from mamoe.data.folder.prompts import read_prompts_csv
from tiny_vl import WORDS, tiny_vl

pytestmark = pytest.mark.slow  # transformers' models take their time to import


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_vl(tmp_path_factory.mktemp("vl") / "model")


def test_captions_by_a_local_model(town, model, tmp_path):
    template = tmp_path / "mine.yaml"
    template.write_text("prompt: a street seen\nwords: 5\nmax_tokens: 6\n")
    words = ["prepare", "captions", town, "--via", "local", "--model", model, "--template", template]
    outcome = mamoe(*words)
    assert outcome.code == 0, outcome
    captions = read_prompts_csv(town / "prompts_train.csv")
    assert len(captions) == 8
    assert all(len(text.split()) == 5 and set(text.split()) <= set(WORDS) for text in captions.values())
    report = json.loads((town / "captions/pictures.report.json").read_text())
    assert report["good"] == 11 and report["tokens"]["written"] == 66 and report["spent"] is None
    # Started again, nothing is left to ask; another process with the same journal answers the same.
    (town / "prompts_train.csv").unlink()
    again = mamoe(*words)
    assert again.code == 0 and "nothing to ask, 8 answered already" in again.out
    assert read_prompts_csv(town / "prompts_train.csv") == captions


def test_an_answer_without_an_end_is_cut_off(town, model, tmp_path, monkeypatch):
    from transformers import GenerationConfig

    config = GenerationConfig.from_pretrained(model)
    config.forced_eos_token_id = None
    config.min_new_tokens = 6
    elsewhere = tmp_path / "model"
    elsewhere.mkdir()
    for path in model.iterdir():
        (elsewhere / path.name).write_bytes(path.read_bytes())
    config.save_pretrained(elsewhere)
    template = tmp_path / "mine.yaml"
    template.write_text("prompt: a street seen\nmax_tokens: 6\n")
    words = ["--via", "local", "--model", elsewhere, "--template", template, "--split", "val"]
    outcome = mamoe("prepare", "captions", town, *words)
    assert outcome.code == 3 and "3 cut off after max_tokens (6)" in outcome.err


def test_what_is_no_such_model(town, tmp_path, base_model):
    for name in (tmp_path, base_model / "text_encoder", "no/such-model"):
        outcome = mamoe("prepare", "captions", town, "--via", "local", "--model", name)
        assert outcome.code == 2 and "image-text-to-text" in outcome.err, outcome
    assert not (town / "captions").exists()
