"""The captions of docs/prepare.md: every command that a server answers, in order, on drawn pictures."""

import re
import shlex
from pathlib import Path

from factories import mamoe
from mamoe.prepare.captioning.template import Template
from mamoe.prepare.check import check_folder

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


def test_the_template_is_one(tmp_path):
    (tmp_path / "mine.yaml").write_text(TEMPLATE)
    assert Template.load(str(tmp_path / "mine.yaml")).words == 40


def test_what_it_says_of_files_is_there(town, server):
    assert set(re.findall(r"streets/(captions/[\w.]+)", SECTION)) == {
        "captions/pictures.preview.html",
        "captions/pictures.report.json",
    }
