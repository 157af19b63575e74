"""The captions of docs/prepare.md: every command that a server answers, in order, on drawn pictures."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from factories import mamoe, short_run
from mamoe.data.folder.prompts import read_prompts_csv
from mamoe.prepare.captioning.template import Template
from mamoe.prepare.check import check_folder
from mamoe.scenes.scene import draw_scene
from tiny_segmenters import segformer, tiny_segmenter

PAGE = (Path(__file__).parents[3] / "docs" / "prepare.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Captions\n")[2].partition("\n## ")[0]
(TEMPLATE,) = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^mamoe .*$", SECTION, re.MULTILINE)]


def test_commands_run(town, server, monkeypatch, tmp_path):
    town.rename(tmp_path / "streets")
    (tmp_path / "mine.yaml").write_text(TEMPLATE)
    monkeypatch.chdir(tmp_path)
    run = 0
    for words in COMMANDS:
        if "local" in words:
            continue
        if words[0] == "prepare":
            words = [*words, "--base-url", server.url]  # the last one holds
        if words[1] == "instance-captions":
            words = [*words, "--min-pixels", "60"]  # the pictures are small
        outcome = mamoe(*words)
        assert outcome.code == 0, outcome
        run += 1
    assert run == 8 and server.batches
    assert len({chat["messages"][0]["content"] for chat in server.chats}) == 2  # the shipped words, and one's own
    assert not check_folder(Path("streets")).problems


@pytest.mark.slow
def test_from_photographs_to_a_training(server, monkeypatch, tmp_path, base_model):
    """Every command of the section of that name."""
    for number in range(12):
        path = tmp_path / f"raw/photos/street{number // 3}_{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_scene(number, height=96, width=160).image).save(path)
    tiny_segmenter(segformer, tmp_path / "raw/network")
    monkeypatch.chdir(tmp_path)
    section = PAGE.partition("## From photographs to a training\n")[2].partition("\n## ")[0]
    lines = [shlex.split(line, comments=True)[1:] for line in re.findall(r"^mamoe .*$", section, re.MULTILINE)]
    assert [words[1] if words[0] == "prepare" else words[0] for words in lines] == [
        "segment",
        "captions",
        "captions",
        "instance-captions",
        "check",
        "train",
    ]
    small = [*short_run(base_model, Path("town"), Path("runs"))[1:], "data.size=[32,64]", "callbacks.samples=null"]
    more = {"captions": ["--base-url", server.url], "train": [*small, "trainer.max_steps=1"]}
    more["instance-captions"] = [*more["captions"], "--min-pixels", "60"]
    for words in lines:
        name = words[1] if words[0] == "prepare" else words[0]
        outcome = mamoe(*words, *more.get(name, []))
        assert outcome.code == 0, (words, outcome)
    assert Path("town/captions/pictures.preview.html").is_file() and Path("check/check.html").is_file()
    assert len(read_prompts_csv(Path("town/prompts_train.csv"))) in range(6, 12)
    assert any(chat["messages"][-1]["content"] for chat in server.chats) and not check_folder(Path("town")).problems
    assert list(Path("runs").glob("*/latest/checkpoints/step-00000001"))


def test_the_template_is_one(tmp_path):
    (tmp_path / "mine.yaml").write_text(TEMPLATE)
    assert Template.load(str(tmp_path / "mine.yaml")).words == 40


def test_what_it_says_of_files_is_there(town, server):
    assert set(re.findall(r"streets/(captions/[\w.]+)", SECTION)) == {
        "captions/pictures.preview.html",
        "captions/pictures.report.json",
    }
