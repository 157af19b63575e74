"""The shipped templates, and those users write."""

import pytest

from mamoe.errors import ConfigError
from mamoe.prepare.captioning.template import Template


def test_shipped():
    picture, thing = Template.load("picture"), Template.load("object")
    assert (picture.words, thing.words) == (60, 15)
    assert "at most 60 words" in picture.messages("")[1]
    said = " ".join(thing.messages("a delivery van"))
    assert "a delivery van" in said and "at most 15 words" in said and "{" not in said
    assert all(word in said for word in ("colour", "type", "pose", "state"))


def test_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("prompt: What {class} is it? {words} words\nwords: 5\ntemperature: 0.5\n")
    template = Template.load(str(path))
    assert template.messages("a {words}") == ("", "What a {words} is it? 5 words")  # what is put in is not looked into
    assert Template(**template.to_dict()) == template


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt: ''", "prompt must be text"),
        ("prompt: a\nword: 5", "did you mean words?"),
        ("prompt: 'a {place}'", "{place}"),
        ("prompt: a\nwords: 0", "words must be a whole number"),
        ("prompt: a\nwords: true", "words must be a whole number"),
        ("prompt: a\ndetail: fine", "auto, low, high"),
        ("prompt: a\ntemperature: .nan", "temperature"),
        ("[1]", "must map prompt"),
        ("prompt: !!python/object:os.system a", "YAML"),
    ],
)
def test_wrong_ones(text, words, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        Template.load(str(path))
    assert words in str(raised.value) and str(path) in str(raised.value)


def test_missing(tmp_path):
    with pytest.raises(ConfigError, match="one of object, picture"):
        Template.load("pictures")
