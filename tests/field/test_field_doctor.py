"""`mamoe check` as a doctor: planted faults are named with their places, sound sets raise no alarm."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from broken_sets import FAULTS, panoptic, picture, table, with_line
from factories import drawn_data, mamoe
from mamoe.prepare.check import check_folder
from mamoe.prepare.doctor.cells import CellCounts
from mamoe.prepare.doctor.examine import examine
from mamoe.prepare.importers import importer_of
from mamoe.vocabulary.panoptic import read_panoptic_rgb
from mamoe.vocabulary.taxonomy import Taxonomy

REAL = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    return drawn_data(tmp_path_factory.mktemp("clean") / "data", {"train": 8, "val": 2}, height=128, width=256)


@pytest.fixture
def data(clean, tmp_path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "data"))


def test_a_clean_set_gives_no_finding(clean, scenes):
    assert examine(clean).findings == () and examine(scenes).findings == ()


def test_there_are_more_than_fifty_faults():
    assert len(FAULTS) >= 50


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_with_its_place(data, name):
    words, plant = FAULTS[name]
    where = plant(data)
    findings = [finding for finding in examine(data).findings if words in finding.text]
    assert findings, [finding.text for finding in examine(data).findings]
    places = [(one.severity.value, one.file, one.line, one.segment, one.position) for one in findings]
    wanted = (where.severity, where.file, where.line, where.segment, where.position)
    fits = [all(w is None or w == got for w, got in zip(wanted, place, strict=True)) for place in places]
    assert any(fits), (wanted, places)
