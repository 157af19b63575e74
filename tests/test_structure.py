"""The house rules that a program can check: short files, narrow signatures, imports on top, names that tell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "mamoe"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

MOST_LINES = 400
MOST_PARAMETERS = 10
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "misc", "common", "tools", "stuff"}

# (file, function): why it has more parameters.
WIDE = {
    ("cli.py", "sample"): "the options of a command",
    ("cli.py", "evaluate"): "the options of a command",
    ("sampling/pipeline.py", "__call__"): "the interface of diffusers' pipelines",
    ("sampling/folders.py", "sample_folder"): "the options of `mamoe sample`, for Python",
}
# (file, imported module): why it waits for a function to need it.
LATE = {
    ("commands/train.py", "mamoe.assemble.training"): "torch, after the configuration was checked",
    ("commands/train.py", "mamoe.assemble.caches"): "torch, after the configuration was checked",
    ("commands/train.py", "mamoe.commands.evaluate_after"): "torch, after the configuration was checked",
    ("commands/train.py", "mamoe.machine.libraries"): "torch, after the configuration was checked",
    ("commands/train.py", "mamoe.training.scale.cluster"): "torch, after the configuration was checked",
    ("commands/benchmark/run.py", "mamoe.scenes"): "numpy and PIL, for benchmarks that draw their data",
    ("machine/failures.py", "mamoe.machine.memory"): "torch, only to name an error",
}
# Commands: what they need is imported when they run.
THIN = ("cli.py", "__init__.py", "commands/material.py", "commands/about.py")


def tree_of(name: str) -> ast.Module:
    return ast.parse((PACKAGE / name).read_text(encoding="utf-8"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    named = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return [one.arg for one in named if one.arg not in ("self", "cls")]


def wide(tree: ast.AST) -> set[str]:
    return {function.name for function in functions(tree) if len(parameters(function)) > MOST_PARAMETERS}


def late(tree: ast.AST) -> set[str]:
    """Modules of the package that are imported inside a function."""
    found = set()
    for node in (inner for function in functions(tree) for inner in ast.walk(function)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("mamoe" if node.level else node.module or "")
    return {name for name in found if name.split(".")[0] == "mamoe"}


def test_the_package_is_looked_at():
    assert "cli.py" in FILES and len(FILES) > 100


def test_a_file_is_one_idea():
    long = {name: len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) for name in FILES}
    long = {name: lines for name, lines in long.items() if lines > MOST_LINES}
    assert not long, f"More than {MOST_LINES} lines: give one of the ideas in it a file of its own."


def test_signatures_are_narrow():
    found = {(name, function) for name in FILES for function in wide(tree_of(name))} - set(WIDE)
    assert not found, f"More than {MOST_PARAMETERS} parameters: give some of them a record."


def test_imports_stand_on_top():
    found = {(name, module) for name in FILES if not name.endswith(THIN) for module in late(tree_of(name))} - set(LATE)
    assert not found, "Imported inside a function; if that has a reason, it belongs into LATE."


def test_names_tell():
    silent = [name for name in FILES if SAYS_NOTHING & {part.removesuffix(".py") for part in name.split("/")}]
    assert not silent, "These names do not say what is in the file."


def test_exceptions_are_still_needed():
    assert {(name, function) for name in FILES for function in wide(tree_of(name))} >= set(WIDE)
    assert {(name, module) for name in FILES for module in late(tree_of(name))} >= set(LATE)


def test_the_rules_see_what_they_forbid():
    many = ", ".join(f"a{i}" for i in range(11))
    tree = ast.parse(
        f"class A:\n def __init__(self, *, {many}):\n  from mamoe.x import y\n  import mamoe.z\n  import torch"
    )
    assert wide(tree) == {"__init__"}
    assert late(tree) == {"mamoe.x", "mamoe.z"}
