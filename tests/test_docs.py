"""What the documentation says works: commands parse, settings compose, Python compiles, links and names resolve."""

import ast
import importlib
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.main import get_command

from mamoe.cli import app
from mamoe.config.compose import compose
from mamoe.config.resuming import RULES
from mamoe.config.train import Train, validated

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page.exists()]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in BLOCK.findall(page.read_text(encoding="utf-8")) if language in languages]


def commands() -> list:
    """(page, words after `mamoe`) of every command in a block for the shell; what runs over two lines is joined."""
    found = []
    for page in PAGES:
        for line in "\n".join(blocks(page, "sh", "")).replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if re.match(r"(uv run )?mamoe ", line) else []
            if words and not any(re.search(r"[…<]|\.\.\.|^\[", word) for word in words):  # a form, not a command
                found.append(pytest.param(words[words.index("mamoe") + 1 :], id=f"{page.name}: {line[:60]}"))
    return found


@pytest.mark.parametrize("words", commands())
def test_commands_parse(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no configs/ folder of one's own
    name, *arguments = words
    command = get_command(app).commands[name]
    while (inner := getattr(command, "commands", {})) and arguments:  # a group of commands
        command = inner[arguments.pop(0)]
    context = command.make_context(name, arguments)  # raises on unknown options and missing arguments
    if name == "train":
        sweeps = context.params["multirun"]
        validated(compose([first_of_sweep(word) if sweeps else word for word in context.args]))


def first_of_sweep(override: str) -> str:
    key, _, value = override.partition("=")
    return override if "[" in value or "{" in value else f"{key}={value.partition(',')[0]}"


def test_there_are_commands():
    assert {parameters.values[0][0] for parameters in commands()} >= {"train", "sample", "prepare", "scenes", "export"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles(page):
    for body in blocks(page, "python"):
        compile(body, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_python_imports_is_there(page):
    for body in blocks(page, "python"):
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mamoe":
                assert not [a.name for a in node.names if not resolves(f"{node.module}.{a.name}")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_dotted_names_resolve(page):
    names = set(re.findall(r"\bmamoe(?:\.[A-Za-z_]\w*)+", page.read_text(encoding="utf-8")))
    assert not [name for name in sorted(names) if not resolves(name)]


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute) or find_spec(name) is not None
    except ModuleNotFoundError:  # of what should hold it
        return False


FILES_OF_OURS = re.compile(
    r"(?<![\w/.])((?:src|tests|perf|examples|docs)/[\w./-]*[\w/]"  # from the root
    r"|[a-z_]+(?:/\w+)+\.py)"  # or a module, from the package
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_exist(page):
    paths = set(FILES_OF_OURS.findall(page.read_text(encoding="utf-8")))
    assert not [
        path for path in sorted(paths) if not any((at / path).exists() for at in (ROOT, ROOT / "src" / "mamoe"))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert not [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_exist(page):
    """Every `section.key` in backticks whose section is one of the configuration's names a key of it."""
    settings = keys_of(compose([])) | keys_of(compose(["method=lora"]))  # the method with keys of its own
    settings |= {key for rule in RULES for key in rule.keys}  # which a test holds against the schema
    for section in Train.model_fields:
        for key in re.findall(rf"`({section}\.\w[\w.]*)=?[^`/]*`", page.read_text(encoding="utf-8")):
            if not key.endswith((".py", ".yaml", ".yml", ".txt", ".json", ".csv", ".safetensors")):
                assert key in settings, key


def keys_of(section: dict, prefix: str = "") -> set[str]:
    found = set()
    for name, value in section.items():
        found |= {prefix + name} | (keys_of(value, f"{prefix}{name}.") if isinstance(value, dict) else set())
    return found
