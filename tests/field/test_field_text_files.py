"""Text files that are no files, or say a thing twice: every reader answers, none waits."""

import json
import os

import pytest

from factories import mamoe
from mamoe.data.folder.description import data_folder
from mamoe.data.folder.prompts import read_instance_prompts, read_prompts_csv
from mamoe.data.folder.variants import read_variants
from mamoe.errors import ConfigError, DatasetError
from mamoe.prepare.classes import read_class_table
from mamoe.prepare.coco import import_coco
from mamoe.prepare.coco_json import read_categories
from mamoe.prepare.fuse.instances import _class_number
from mamoe.prepare.fuse.masks import from_counts
from mamoe.storage.text_file import read_json, read_text
from mamoe.vocabulary.taxonomy import Taxonomy

READERS = {
    "prompts.csv": read_prompts_csv,
    "instance_prompts.json": read_instance_prompts,
    "vary.csv": read_variants,
    "data.yaml": lambda path: data_folder(path.parent),
    "harbour.yaml": Taxonomy.load,
    "classes.yaml": lambda path: read_class_table(str(path)),
    "masks.json": read_categories,
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_and_nobody_waits_for_it(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises((DatasetError, ConfigError), match="a pipe, a socket or a device, and no file"):
        READERS[name](tmp_path / name)


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="the shell hands over no streams here")
def test_what_a_shell_hands_over_is_read(tmp_path):
    """`--prompts <(…)` is a pipe, with somebody at its other end."""
    end, begin = os.pipe()
    os.write(begin, "\ufeffimg_name,prompt\na.png,a street\n".encode())
    os.close(begin)
    assert read_text(type(tmp_path)(f"/dev/fd/{end}")) == "img_name,prompt\na.png,a street\n"
    os.close(end)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"images": [], "annotations": [], "annotations": []}', "the key 'annotations' stands twice"),
        ('[{"score": NaN}]', "NaN is no number that JSON knows"),
        ('[{"score": -Infinity}]', "-Infinity is no number that JSON knows"),
        ("[" * 100_000, "nested too deep"),
        ("[1", "column"),
    ],
)
def test_json_that_cannot_be_meant_is_refused(tmp_path, text, says):
    path = tmp_path / "panoptic_train.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        read_json(path)
    (tmp_path / "panoptic_train").mkdir()
    with pytest.raises(DatasetError, match=rf"Cannot read .*panoptic_train\.json as JSON.*{says}"):
        import_coco(tmp_path, tmp_path / "out")


def test_endless_keys_are_cut_in_messages(tmp_path):
    path = tmp_path / "instance_prompts.json"
    path.write_text(json.dumps({"a.png": {"1" * 5000: "a car"}}))
    with pytest.raises(DatasetError) as caught:
        read_instance_prompts(path)
    assert len(str(caught.value)) < 500


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_check_ends_where_a_pipe_lies(tmp_path):
    (tmp_path / "images/train").mkdir(parents=True)
    os.mkfifo(tmp_path / "data.yaml")
    outcome = mamoe("check", tmp_path)
    assert outcome.code == 3 and "data.yaml: it is a pipe" in outcome.err


def test_masks_say_what_is_wrong_with_them(tmp_path):
    """-5 and 4101 do make up 4096 pixels, which was the whole message."""
    with pytest.raises(ValueError, match="a run length is negative"):
        from_counts([-5, 4101], (64, 64))
    with pytest.raises(ValueError, match="a class is a whole number, and spaces part the words, got '13,'"):
        _class_number("13,")
