"""Pictures that `mamoe sample` is given, to change or to look at, are read as those of a data set are."""

import json

import numpy as np
import pytest
from PIL import Image

from factories import drawn_data, mamoe


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return drawn_data(tmp_path_factory.mktemp("town") / "data", {"train": 2, "test": 3})


@pytest.fixture
def edit(town, finished_run, tmp_path):
    maps = sorted((town / "panoptic/test").glob("*.png"))
    given = json.loads((town / "instance_prompts_test.json").read_text())
    shared = set.intersection(*(set(given[path.name]) for path in maps))
    words = ["--panoptic", maps[0].parent, "--only-instance", min(shared), "--image", tmp_path / "images"]
    (tmp_path / "images").mkdir()
    for path in maps:
        Image.open(town / "images/test" / path.name).save(tmp_path / "images" / path.name)

    def run():
        return mamoe("sample", finished_run, *words, "--steps", 1, "--device", "cpu", "--out", tmp_path / "out")

    return run, sorted((tmp_path / "images").iterdir()), tmp_path / "out"


def test_a_turned_and_a_transparent_picture_are_said_and_kept_as_they_are_shown(edit):
    run, (first, second, _), out = edit
    exif = Image.Exif()
    exif[274] = 3
    shown = np.asarray(Image.open(first).convert("RGB"))
    Image.fromarray(shown[::-1, ::-1]).save(first, exif=exif)
    seen = Image.open(second).convert("RGBA")
    seen.putpixel((0, 0), (255, 255, 255, 0))
    seen.save(second)
    outcome = run()
    assert outcome.code == 0, outcome.err
    assert f"1 pictures are turned upright, as their EXIF orientation says: {first.name}" in outcome.err
    assert f"1 pictures are transparent and put on black: {second.name}" in outcome.err
    kept = np.asarray(Image.open(out / first.name).convert("RGB"))
    assert (kept == shown).all(axis=2).mean() > 0.5  # all but the instance


def test_a_damaged_picture_is_found_before_anything_is_drawn(edit):
    run, (_, second, third), out = edit
    Image.open(third).convert("RGB").save(third.with_suffix(".webp"))
    third.unlink()
    whole = third.with_suffix(".webp").read_bytes()
    third.with_suffix(".webp").write_bytes(whole[: len(whole) // 2])
    second.write_bytes(second.read_bytes()[:-40])
    outcome = run()
    assert outcome.code == 3 and not list(out.glob("*")), outcome.err
    assert f"Cannot read the picture {second}" in outcome.err and f"{third.with_suffix('.webp')}" in outcome.err
