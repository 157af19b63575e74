"""Where a command writes: never over, or into, what it reads."""

import shutil

import pytest
from PIL import Image

from factories import drawn_data, mamoe


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return drawn_data(tmp_path_factory.mktemp("town") / "data", {"train": 2, "val": 1})


@pytest.fixture
def data(town, tmp_path):
    return shutil.copytree(town, tmp_path / "data")


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_export_never_takes_the_place_of_what_it_exports(data):
    """`--overwrite` put the export where the data set was: pictures under other names, no prompts, no maps."""
    before = files(data)
    for out in (data, data / "..", data / "../data/."):
        outcome = mamoe("prepare", "export", "coco-panoptic", data, out, "--overwrite")
        assert outcome.code == 3, outcome.out
    assert "lies in" in outcome.err and "--overwrite would take away" in outcome.err and files(data) == before


def test_an_import_never_takes_the_place_of_its_pictures(data):
    maps = data.parent / "maps"
    for path in (data / "panoptic").rglob("*.png"):
        (maps / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.open(path).getchannel("B").save(maps / path.parent.name / path.name)
    words = ["--maps", maps, "--classes", "scenes", "--overwrite", "--link"]
    before = files(data)
    outcome = mamoe("prepare", "import", "folder", data / "images", data, *words)
    assert outcome.code == 3 and "and it is read from: name another folder" in outcome.err and files(data) == before
    assert mamoe("prepare", "import", "folder", data / "images", data.parent / "new", *words).code == 0


def test_an_export_is_no_part_of_what_it_exports(data):
    for inside in ("images/coco", "panoptic/coco"):
        outcome = mamoe("prepare", "export", "coco-panoptic", data, data / inside)
        assert outcome.code == 3 and "would become a part of the data set" in outcome.err
        assert not (data / inside).exists()
