"""Files that hold something else than their names promise, and text that is no text."""

import json

import pytest
from PIL import Image

from mamoe.data.folder.prompts import read_instance_prompts, read_prompts_csv
from mamoe.data.reading.looks import look_at_map
from mamoe.data.reading.pictures import read_picture
from mamoe.errors import ConfigError, DatasetError
from mamoe.prepare.annotations import read_index_picture
from mamoe.prepare.coco_json import read_categories
from mamoe.prepare.doctor.texts import _oddities
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.taxonomy import Taxonomy

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
FOUND = {
    "lfs": (LFS, "git lfs pull"),
    "annex": (b"/annex/objects/SHA256E-s12345--00.png\n", "git annex get"),
    "empty": (b"", "it is empty"),
    "zeros": (bytes(5000), "begins with zeros alone"),
    "page": (b"\n<!DOCTYPE html><title>404</title>", "it holds a page"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC"),
    "gzip": (b"\x1f\x8b\x08\0", "gzip"),
}


@pytest.mark.parametrize("kind", FOUND)
@pytest.mark.parametrize("read", [read_picture, PanopticMap.read, read_index_picture])
def test_what_lies_in_a_pictures_place_is_named(tmp_path, kind, read):
    raw, said = FOUND[kind]
    path = tmp_path / "a.png"
    path.write_bytes(raw)
    with pytest.raises(DatasetError, match=said) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("read", [read_picture, PanopticMap.read, read_index_picture])
def test_a_folder_in_a_pictures_place_is_named(tmp_path, read):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(DatasetError, match="it is a folder"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("read", [PanopticMap.read, look_at_map])
def test_an_animation_is_no_map(tmp_path, read):
    frames = [Image.new("RGB", (4, 4), (0, 0, value)) for value in (7, 8)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DatasetError, match="an animation of 2"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["lfs", "annex", "empty", "page"])
@pytest.mark.parametrize("read", [read_prompts_csv, read_instance_prompts, read_categories])
def test_what_lies_in_a_text_files_place_is_named(tmp_path, kind, read):
    raw, said = FOUND[kind]
    path = tmp_path / "a.json"
    path.write_bytes(raw)
    with pytest.raises(DatasetError, match=said):
        read(path)


def test_a_number_python_does_not_read(tmp_path):
    path = tmp_path / "instance_prompts_train.json"
    path.write_text('{"a.png": {"300": ' + "1" * 5000 + "}}")
    with pytest.raises(DatasetError, match="is not valid JSON: Exceeds the limit"):
        read_instance_prompts(path)


@pytest.mark.parametrize("text", ["nan", "None", " NULL ", "<NA>"])
def test_what_programs_write_for_no_prompt_is_said(text):
    assert "for a missing value" in dict(_oddities(text))["no prompt"]
    assert not [*_oddities("a nanny and none of the others")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 2024}, "name must be text, got 2024; put it in quotes"),
        ({"name": ["harbour"]}, "name must be text"),
        ({"groupings": []}, "groupings must map"),
        ({"groupings": False}, "groupings must map"),
        ({"classes": [{"id": 0, "name": "\ud800", "thing": False, "colour": [0, 0, 0]}]}, "name must be text"),
        (
            {"classes": [{"id": 0, "name": "a", "prompt": "\ud83d", "thing": False, "colour": [0, 0, 0]}]},
            "prompt must be text",
        ),
    ],
)
def test_a_taxonomy_of_other_types(change, said):
    plain = {"name": "a", "void_id": 255, "classes": [{"id": 0, "name": "a", "thing": False, "colour": [0, 0, 0]}]}
    assert Taxonomy.from_dict({**plain, "groupings": None}).groupings == {}
    with pytest.raises(ConfigError, match=said) as caught:
        Taxonomy.from_dict({**plain, **change})
    json.dumps(str(caught.value), ensure_ascii=False).encode()  # it can be printed


@pytest.mark.parametrize("read", [read_prompts_csv, read_instance_prompts])
def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path, read):
    with pytest.raises(DatasetError, match=r"^There is no file .*missing\.json\.$"):
        read(tmp_path / "missing.json")
