"""The pages of the site that are made of the command line's own help; `make docs` builds the site itself."""

import runpy
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from mamoe.cli import app

ROOT = Path(__file__).parents[1]
pytest.importorskip("mkdocs")
PAGES = runpy.run_path(str(ROOT / "docs/site/commands.py"))["pages"]()


def test_every_command_has_a_page_with_its_options():
    commands = get_command(app).commands
    assert {name.partition("-")[0] if name.startswith("prepare-") else name for name in PAGES} == {
        name for name, command in commands.items() if not command.hidden
    }
    assert "mamoe export runs/mamoe/latest pipeline" in PAGES["export"]
    for name in ("--checkpoint", "--weights", "single-file", "must be given"):
        assert name in PAGES["export"]
    assert all("| --help" not in text and "```sh" in text for text in PAGES.values()), "an example in every help"


def test_every_page_is_in_the_menu():
    def files(entry):
        if isinstance(entry, str):
            return {entry}
        return set().union(*(files(value) for value in (entry.values() if isinstance(entry, dict) else entry)))

    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert files(yaml.safe_load(config)["nav"]) == {path.name for path in (ROOT / "docs").glob("*.md")}
