"""docs/architecture.md against the tree: owners exist where it says, its rooms are those of the contract."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mamoe"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rows_under(heading: str) -> list[list[str]]:
    """The cells of the table that follows a heading, without its head."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert lines, f"no table under {heading!r}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def defined_in(path: Path) -> set[str]:
    """Functions, classes and constants at the top of a module."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


OWNERS = rows_under("What → where")


@pytest.mark.parametrize(("what", "where", "names"), OWNERS, ids=[row[0][:40] for row in OWNERS])
def test_owners_are_where_the_page_says(what, where, names):
    paths = [PACKAGE / path for path in quoted(where)]
    assert paths and quoted(names)
    assert not [path for path in paths if not path.is_file()]
    defined = set().union(*map(defined_in, paths))
    assert not [name for name in quoted(names) if name not in defined]


def test_every_room_owns_something_or_is_described():
    """Behaviour is found by room: none of them is missing from both tables."""
    owning = {path.split("/")[0].removesuffix(".py") for _, where, _ in OWNERS for path in quoted(where)}
    assert len(OWNERS) >= 30 and owning >= {
        "data",
        "conditioning",
        "models",
        "training",
        "runs",
        "sampling",
        "evaluation",
    }


def test_layers_are_those_of_the_contract():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    layers = [{name.strip().removeprefix("mamoe.") for name in layer.split("|")} for layer in contract["layers"]]
    assert [set(quoted(room)) for room, _ in rows_under("Who may import whom")] == layers
    assert not contract.get("ignore_imports")


def test_the_contract_names_every_room():
    named = {room for cell, _ in rows_under("Who may import whom") for room in quoted(cell)}
    files = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert named == files | folders


def test_folders_named_in_the_layers_exist():
    for cell, text in rows_under("Who may import whom"):
        inner = [name for name in quoted(text) if name.endswith("/")]
        missing = [name for name in inner if not any((PACKAGE / room / name).is_dir() for room in quoted(cell))]
        assert not missing, (cell, missing)


def test_what_crosses_borders_is_in_the_vocabulary():
    vocabulary = set().union(*(defined_in(path) for path in (PACKAGE / "vocabulary").glob("*.py")))
    assert {quoted(row[0])[0] for row in rows_under("What crosses the borders")} <= vocabulary
