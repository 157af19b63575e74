"""Where imports read and write."""

import errno

import numpy as np
import pytest
from PIL import Image

from factories import mamoe
from mamoe.machine.failures import ending_of
from prepare.foreign import ade20k, kitti360, photo, save


@pytest.fixture
def folders(tmp_path):
    photo(tmp_path / "pictures/a.png")
    photo(tmp_path / "pictures/b.png")
    for name in ("a.png", "b.png"):
        save(np.zeros((32, 64), np.uint8), tmp_path / "maps" / name)
    return tmp_path / "pictures", tmp_path / "maps"


@pytest.mark.parametrize("inside", [0, 1])
def test_no_data_set_is_made_among_its_sources(folders, inside):
    pictures, maps = folders
    out = folders[inside] / "out"
    outcome = mamoe("prepare", "import", "folder", pictures, out, "--maps", maps, "--classes", "cityscapes")
    assert outcome.code == 3
    assert f"{out} lies in {folders[inside]}, of which all folders are read" in outcome.err
    assert not out.exists()
    words = ("prepare", "fuse", pictures, out, "--semantic", maps, "--instances", maps, "--classes", "cityscapes")
    assert mamoe(*words).code == 3


def test_capitals_in_the_endings_of_ade20ks_annotations(tmp_path):
    source = ade20k(tmp_path / "source")
    for path in list(source.rglob("annotations*/**/*.png")):
        path.rename(path.with_suffix(".PNG"))
    outcome = mamoe("prepare", "import", "ade20k", source, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    with Image.open(tmp_path / "out/panoptic/train/ADE_train_00000001.png") as found:
        assert found.mode == "RGB"


def test_a_list_of_kitti360_without_frames_is_said(tmp_path):
    source = kitti360(tmp_path / "source")
    (source / "data_2d_semantics/train/2013_05_28_drive_train_frames.txt").write_text("\n")
    outcome = mamoe("prepare", "import", "kitti360", source, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "2013_05_28_drive_train_frames.txt lists no frames: there is no split train." in outcome.out


def test_nothing_to_draw_is_no_data_set(tmp_path):
    outcome = mamoe("scenes", tmp_path / "none", "--train", "0", "--val", "0", "--test", "0")
    assert outcome.code == 2
    assert "there is nothing to draw" in outcome.err
    assert not (tmp_path / "none").exists()


def test_a_file_system_without_large_files_is_told_from_a_wrong_name():
    ending = ending_of(OSError(errno.EFBIG, "File too large", "weights.safetensors"))
    assert ending is not None and ending.exit_code == 6
    assert str(ending).startswith("weights.safetensors: A file became too large")
