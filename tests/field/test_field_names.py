"""Names that lead elsewhere or hold what no name should; run folders in which there is nothing to draw with yet."""

import json
import shutil
import unicodedata

import pytest
from odd_folders import indexed, make_set

from factories import mamoe
from mamoe.config.compose import compose
from mamoe.config.train import validated
from mamoe.console import note, visible, visible_lines, warn
from mamoe.data.folder.listing import some
from mamoe.errors import ConfigError
from mamoe.scenes import Domain, write_scenes

# Runs without checkpoints.

COMMANDS = {
    "evaluate": ["evaluate", "RUN"],
    "sample": ["sample", "RUN", "--panoptic", "maps", "--out", "out"],
    "export": ["export", "RUN", "out"],
    "lora": ["export", "RUN", "out", "--format", "kohya"],
    "synthesize": ["synthesize", "RUN", "--data", "data", "--out", "out"],
    "app": ["app", "RUN"],
    "check": ["check", "--model", "RUN"],
    "train": ["train", "experiment=demo", "model.path=RUN"],
    "init_from": ["train", "experiment=demo", "model.init_from=RUN"],
}


@pytest.fixture
def begun(tmp_path):
    """The folder of a run that ended before its first checkpoint."""
    (tmp_path / "begun").mkdir()
    for name in ("config.yaml", "overrides.txt", "log.txt"):
        (tmp_path / "begun" / name).touch()
    return tmp_path / "begun"


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_run_without_checkpoints_is_said_to_have_none(begun, words, monkeypatch):
    monkeypatch.chdir(begun.parent)
    outcome = mamoe(*[word.replace("RUN", str(begun)) for word in words])
    assert outcome.code == 2 and "It has none yet" in outcome.err and str(begun) in outcome.err, outcome.err
    shutil.rmtree(begun)
    assert not list(begun.parent.iterdir())  # nothing was begun


def test_a_run_without_checkpoints_is_not_uploaded(begun):
    outcome = mamoe("push", begun, "me/it", "--dry-run")
    assert outcome.code == 2 and "is a run" in outcome.err


# Names of splits.

PATHS = ["../x", "a/b", "a\\b", "/etc", ".", "..", "", " ", "a\0b"]


@pytest.mark.parametrize("name", PATHS)
def test_a_split_is_a_name_and_no_path(tmp_path, name):
    make_set(tmp_path / "set", ["a.png"])
    with pytest.raises(ConfigError, match="A split is the name of one folder"):
        indexed(tmp_path / "set", split=name)
    with pytest.raises(ConfigError, match="A split is the name of one folder"):
        write_scenes(tmp_path / "new", domain=Domain.BROAD, counts={name: 1}, seed=0, height=8, width=8)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["train", "val_2", "my split", "2024.10", "..a", "Übung"])
def test_other_names_of_splits_are_taken(tmp_path, name):
    assert len(indexed(make_set(tmp_path, ["a.png"], split=name), split=name).samples) == 1


def test_a_split_of_a_command_and_of_the_configuration(tmp_path):
    data = make_set(tmp_path / "set", ["a.png"])
    words = ["--data", data, "--taxonomy", "cityscapes", "--split", "../train", "--size", "16", "32"]
    outcome = mamoe("evaluate", data / "images/train", *words)
    assert outcome.code == 2 and "A split is the name of one folder" in outcome.err, outcome.err
    plain = compose(["evaluate_after={split: '../x'}"], say=lambda text: None)
    with pytest.raises(ConfigError, match=r"evaluate_after\.split.*A split is the name of one folder"):
        validated(plain)
    outcome = mamoe("benchmark", "benchmark=tiny", "pictures.split=../x", "--dry-run")
    assert outcome.code == 2 and "A split is the name of one folder" in outcome.err, outcome.err


# Control characters in names of files.

ODD = ["a\nProblem: b.png", "c\td.png", "\x1b[31mred\x1b[0m.png", "e\u2028f\u202eg.png", "plain ü.png", "h\udcff.png"]
SHOWN = ["a\\nProblem: b", "c\\td", "\\x1b[31mred\\x1b[0m", "e\\u2028f\\u202eg", "plain ü", "h\\udcff"]


def printed(outcome):
    """Both streams; nothing in them that is no letter, but for line ends."""
    text = outcome.out + outcome.err
    assert not [letter for letter in text if unicodedata.category(letter) in ("Cc", "Zl") and letter != "\n"]
    assert "\u202e" not in text and "\nProblem" not in text
    return text


@pytest.fixture
def odd(tmp_path):
    """Pictures of odd names, whose maps are missing."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set/data.yaml").write_text("taxonomy: cityscapes\n")
    return make_set(tmp_path / "set", ODD, maps=[])


def test_visible_text_is_one_line_and_stays_as_it_is_when_shown_again():
    assert [visible(name) for name in ODD] == [f"{name}.png" for name in SHOWN]
    assert visible("a\udcffb\r\x00\x9b") == "a\\udcffb\\r\\x00\\x9b"
    shown = visible("".join(ODD))
    assert visible(shown) == shown and visible_lines("a\tb\nc\r") == "a\\tb\nc\\r"
    assert visible("日本語\u3000é 👩\u200d🎨") == "日本語\u3000é 👩\u200d🎨"


def test_a_check_lists_odd_names_in_a_line_each(odd, tmp_path):
    outcome = mamoe("check", odd, "--out", tmp_path / "out")
    text, page = printed(outcome), (tmp_path / "out/check.html").read_text()
    found = json.loads((tmp_path / "out/check.json").read_text())["findings"]
    assert outcome.code == 3 and len(found) >= len(ODD)
    missing = [line for line in text.splitlines() if "has no panoptic map in" in line]
    assert len(missing) == len(ODD) and all(line.startswith("- ") for line in missing)
    for name, shown in zip(ODD, SHOWN, strict=True):
        assert any(f"/{shown}.png has no" in line for line in missing)
        assert f"/{shown}.png has no" in page
        (one,) = [one for one in found if f"/{shown}.png has no" in one["text"]]
        assert one["file"] == str(odd / "images/train" / name)  # for programs, as it is


def test_errors_notes_and_warnings_show_odd_names(odd, tmp_path, capsys):
    said = printed(mamoe("evaluate", tmp_path / "\x1b[31mnowhere\tat all", "--against", odd / "images/train"))
    assert "\\x1b[31mnowhere\\tat all" in said
    note("a\nb")
    warn("c\x1bd")
    assert capsys.readouterr().err == "Note: a\\nb\nWarning: c\\x1bd\n"
    assert some(ODD, most=2) == f"{SHOWN[0]}.png, {SHOWN[1]}.png and 4 more"
