"""The house rules that a program can check: short files, narrow signatures, imports on top and in no circle, names."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "mamoe"
TESTS = Path(__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

MOST_LINES = 400
MOST_PARAMETERS = 10
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "misc", "common", "tools", "stuff"}

# (file, function): why it has more parameters.
WIDE = {
    ("commands/sample.py", "sample"): "the options of a command",
    ("commands/synthesize.py", "synthesize"): "the options of a command",
    ("cli.py", "evaluate"): "the options of a command",
    ("commands/prepare.py", "fuse"): "the options of a command",
    ("commands/prepare.py", "segment"): "the options of a command",
    ("commands/captioning/options.py", "asking"): "the options of two commands",
    ("sampling/pipeline.py", "__call__"): "the interface of diffusers' pipelines",
    ("sampling/parts.py", "__init__"): "the parts of diffusers' pipelines",
    ("models/blocks/layer_norm.py", "_forward"): "a kernel, which takes no records",
    ("models/blocks/layer_norm.py", "_backward"): "a kernel, which takes no records",
    ("models/blocks/group_norm.py", "_moments"): "a kernel, which takes no records",
    ("models/blocks/group_norm.py", "_apply"): "a kernel, which takes no records",
    ("models/blocks/group_norm.py", "_part_sums"): "a kernel, which takes no records",
    ("models/blocks/group_norm.py", "_sums"): "a kernel, which takes no records",
    ("models/blocks/group_norm.py", "_apply_backward"): "a kernel, which takes no records",
}
# (file, imported module): why it waits for a function to need it.
LATE = {
    ("commands/train.py", "mamoe.assemble.training"): "torch, after the configuration was checked",
    ("commands/train.py", "mamoe.assemble.caches"): "torch, after the configuration was checked",
    ("commands/train.py", "mamoe.commands.evaluate_after"): "torch, after the configuration was checked",
    ("commands/train.py", "mamoe.machine.libraries"): "torch, after the configuration was checked",
    ("commands/train.py", "mamoe.training.scale.cluster"): "torch, after the configuration was checked",
    ("commands/benchmark/run.py", "mamoe.scenes"): "numpy and PIL, for benchmarks that draw their data",
    ("commands/app/options.py", "mamoe.commands.app.serve"): "all of it, so that --help is instant",
    ("commands/captioning/options.py", "mamoe.commands.captioning.story"): "all of it, so that --help is instant",
    ("commands/captioning/story.py", "mamoe.bases.sources"): "torch, for a tokenizer that may not be asked for",
    ("commands/captioning/story.py", "mamoe.conditioning.encoders"): "with the line above",
    ("commands/captioning/story.py", "mamoe.runs.source"): "with the line above",
    ("commands/captioning/story.py", "mamoe.machine.devices"): "torch, for models on this machine",
    ("commands/captioning/story.py", "mamoe.machine.libraries"): "torch, for models on this machine",
    ("commands/captioning/story.py", "mamoe.prepare.captioning.local"): "torch, for models on this machine",
    ("machine/failures.py", "mamoe.machine.memory"): "torch, only to name an error",
    ("models/blocks/norms.py", "mamoe.models.blocks.group_norm"): "Triton, which is where there are GPUs",
    ("models/blocks/norms.py", "mamoe.models.blocks.layer_norm"): "Triton, which is where there are GPUs",
    ("models/experts/grouped.py", "mamoe.models.experts.gated"): "Triton, which is where there are GPUs",
}
# What others wrote and a function may import when it needs it: why it waits.
HEAVY = {
    "diffusers": "a second or more, only to be told to keep quiet",
    "huggingface_hub": "likewise",
    "hydra": "half a second, for commands that compose a configuration",
    "omegaconf": "comes with it",
    "multiprocessing": "its server, which not every system has",
    "lightning": "of its loggers each wants a package that need not be installed",
    "rich": "a fifth of a second, for those who see a bar",
    "torch_fidelity": "need not be installed",
    "torchvision": "its models take a second, for losses and scores that need one",
    "transformers": "its classes load one by one, for scores that need one",
}
# Commands: what they need is imported when they run.
THIN = (
    "cli.py",
    "__init__.py",
    "commands/about.py",
    "commands/handing_on.py",
    "commands/material.py",
    "commands/prepare.py",
    "commands/starting.py",
    "commands/sample.py",
    "commands/synthesize.py",
)


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
    """Modules that are imported inside a function."""
    found = set()
    for node in (inner for function in functions(tree) for inner in ast.walk(function)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("mamoe" if node.level else node.module or "")
    return found


def is_own(module: str) -> bool:
    return module.split(".")[0] == "mamoe"


def module_of(name: str) -> str:
    return ".".join(("mamoe", *name.removesuffix(".py").removesuffix("__init__").rstrip("/").split("/"))).rstrip(".")


def imported(name: str, modules: Collection[str]) -> set[str]:
    """The modules of the package that a file imports, inside functions and for type checkers alone too."""
    found = set()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            within = (module_of(name) if name.endswith("__init__.py") else module_of(name).rpartition(".")[0]).split(
                "."
            )
            start = ".".join(within[: len(within) + 1 - node.level]) if node.level else ""
            origin = ".".join(part for part in (start, node.module) if part)
            found |= {inner if (inner := f"{origin}.{alias.name}") in modules else origin for alias in node.names}
    return (found & set(modules)) - {module_of(name)}


def circles(graph: Mapping[str, Collection[str]]) -> list[set[str]]:
    """The sets of nodes that lead to each other: strongly connected, by who reaches whom."""

    def reached(start: str) -> set[str]:
        seen, left = set(), list(graph.get(start, ()))
        while left:
            if (node := left.pop()) not in seen:
                seen.add(node)
                left += graph.get(node, ())
        return seen

    reach = {node: reached(node) for node in graph}
    found = {frozenset({a, *(b for b in reach[a] if a in reach.get(b, ()))}) for a in graph if a in reach[a]}
    return sorted(map(set, found), key=sorted)


_BROWSER = re.compile(r"^(pytestmark = |@)pytest\.mark\.browser", re.MULTILINE)


def test_make_looks_for_the_pages_tests_where_they_are():
    """To look everywhere takes as long as a third of these tests."""
    (recipe,) = (line for line in (TESTS.parent / "Makefile").read_text().splitlines() if "-m browser" in line)
    folder = TESTS.parent / recipe.split()[-1]
    marked = [path for path in TESTS.rglob("test_*.py") if _BROWSER.search(path.read_text())]
    assert marked and all(path.is_relative_to(folder) for path in marked)


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
    own = {(name, module) for name, module in found if is_own(module)}
    assert not own, "Imported inside a function; if that has a reason, it belongs into LATE."
    others = {(name, module) for name, module in found - own if module.split(".")[0] not in HEAVY}
    assert not others, "Imported inside a function; only what is heavy or need not be there waits (HEAVY)."


def test_no_circle_of_imports():
    modules = {module_of(name) for name in FILES}
    graph = {module_of(name): imported(name, modules) for name in FILES}
    assert graph["mamoe.runs.lookup"] >= {"mamoe.runs.recipe", "mamoe.errors"}
    assert not circles(graph), "These modules import each other, directly or by way of others."


def test_files_of_tests_are_short():
    long = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in TESTS.rglob("*.py")}
    assert not {name: lines for name, lines in long.items() if lines > MOST_LINES}


def test_names_tell():
    silent = [name for name in FILES if SAYS_NOTHING & {part.removesuffix(".py") for part in name.split("/")}]
    assert not silent, "These names do not say what is in the file."


def test_exceptions_are_still_needed():
    assert {(name, function) for name in FILES for function in wide(tree_of(name))} >= set(WIDE)
    inside = {(name, module) for name in FILES for module in late(tree_of(name))}
    assert inside >= set(LATE) and {module.split(".")[0] for _, module in inside} >= set(HEAVY)


def test_the_rules_see_what_they_forbid():
    many = ", ".join(f"a{i}" for i in range(11))
    tree = ast.parse(
        f"class A:\n def __init__(self, *, {many}):\n  from mamoe.x import y\n  import mamoe.z\n  import torch"
    )
    assert wide(tree) == {"__init__"}
    assert late(tree) == {"mamoe.x", "mamoe.z", "torch"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "d"}, "e": {"d"}}) == [{"a", "b", "c"}, {"d"}]
