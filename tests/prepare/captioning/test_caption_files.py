"""The text files: what others wrote there stays."""

import json

import pytest

from mamoe.data.folder.prompts import read_instance_prompts, read_prompts_csv
from mamoe.errors import DatasetError
from mamoe.prepare.captioning.files import CaptionsFile, InstancePromptsFile

WRONG = ("img_name;prompt\n", "img_name,prompt\na.png,x,y\n", "img_name,prompt\na.png,x\na,y\n")
NAMES = ("a.png", "b.png", "sub/c.png")


def test_captions_keep_order_keys_and_strangers(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text('\ufeffimg_name,prompt\r\nb,"one, two"\r\ngone.png,=kept\r\nc.png,\r\n', encoding="utf-8")
    file = CaptionsFile(path, NAMES)
    assert [file.get(name, None) for name in NAMES] == ["", "one, two", ""]
    file.put("a.png", None, 'says "hello", twice')
    file.put("sub/c.png", None, "new")
    file.save()
    assert [*read_prompts_csv(path).items()] == [
        ("b", "one, two"),
        ("gone.png", "=kept"),
        ("c.png", "new"),
        ("a.png", 'says "hello", twice'),
    ]


def test_instance_prompts_keep_keys_and_strangers(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"b": {"7": "x", "12": "y"}, "gone.png": {"1": "z"}}))
    file = InstancePromptsFile(path, NAMES)
    assert (file.get("b.png", 7), file.get("b.png", 8), file.get("a.png", 7)) == ("x", "", "")
    file.put("b.png", 8, "ü")
    file.put("a.png", 1, "w")
    file.save()
    assert read_instance_prompts(path) == {"b": {7: "x", 8: "ü", 12: "y"}, "gone.png": {1: "z"}, "a.png": {1: "w"}}


@pytest.mark.parametrize("text", WRONG)
def test_a_file_with_anything_wrong_is_left_alone(text, tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"prompts\.csv"):
        CaptionsFile(path, NAMES)
    assert path.read_text() == text
