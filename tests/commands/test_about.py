"""`mamoe env`, `mamoe presets`, and what every command's help tells."""

import os

import pytest
import torch
import typer

from factories import mamoe
from mamoe.cli import app
from mamoe.config.shipped import SHIPPED, group_names


def test_env_tells_what_a_bug_report_needs_and_no_key(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    outcome = mamoe("env")
    assert outcome.code == 0
    for word in (torch.__version__, f"{os.cpu_count()} (", "GiB", "OMP_NUM_THREADS=1"):
        assert word in outcome.out
    assert "hf_secret" not in outcome.out + outcome.err


def test_presets_lists_every_group_every_option_and_its_yaml():
    listed = mamoe("presets").out
    for group in set(group_names()) - {"hydra"}:
        assert any(line.startswith(group) for line in listed.splitlines()), group
        options = sorted(path.stem for path in (SHIPPED / group).glob("*.yaml"))
        lines = mamoe("presets", group).out.splitlines()
        assert [line.split()[0] for line in lines] == [f"{group}={option}" for option in options]
        assert all(len(line.split()) > 2 for line in lines), "every option says what it is"
    assert mamoe("presets", "method=lora").out.strip() == (SHIPPED / "method/lora.yaml").read_text().strip()


def test_presets_knows_what_is_yours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/data").mkdir(parents=True)
    (tmp_path / "configs/data/mine.yaml").write_text("# My town.\ndefaults: [folder]\n")
    assert "data=mine        My town." in mamoe("presets", "data").out


@pytest.mark.parametrize(
    ("words", "says"), [("metod", "did you mean method?"), ("method=lorra", "did you mean method=lora?")]
)
def test_a_mistyped_preset_is_answered_with_the_nearest(words, says):
    outcome = mamoe("presets", words)
    assert outcome.code == 2 and says in outcome.err and "There are: " in outcome.err


def commands(group):
    for name, command in group.commands.items():
        if not command.hidden:
            yield from commands(command) if hasattr(command, "commands") else [(name, command)]


@pytest.mark.parametrize(("name", "command"), commands(typer.main.get_command(app)))
def test_every_help_has_an_example(name, command):
    assert "Example: mamoe " in command.help, f"mamoe {name} --help shows no example"
