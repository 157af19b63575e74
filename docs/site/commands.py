"""A page for every command, made of its own help while the site is built (a hook of MkDocs).

Docstrings' references of the kind ``:class:`~a.b.C` `` become names on the way.
"""

from __future__ import annotations

import inspect
import re
from enum import Enum
from typing import Any, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.main import get_command

from mamoe.cli import app

PROGRAM = "mamoe"
_REFERENCE = re.compile(r":(?:class|func|meth|mod|data|attr):<code>~?(?:\w+\.)*(\w+)</code>")
_MARKS = str.maketrans({"|": "\\|", "<": "&lt;", "[": "\\[", "*": "\\*"})


def pages() -> dict[str, str]:
    """Markdown by page name, in the order of the command line."""
    return {"-".join(path): _page(command, path) for path, command in _commands(get_command(app), ())}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    entries = [
        {name.replace("-", " ", 1) if name.startswith("prepare-") else name: f"commands/{name}.md"} for name in pages()
    ]
    assert config.nav is not None
    config.nav.append({"Commands": entries})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, text in pages().items():
        files.append(File.generated(config, f"commands/{name}.md", content=text))
    return files


def on_page_content(html: str, **_: Any) -> str:
    return _REFERENCE.sub(r"<code>\1</code>", html)


def _commands(command: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        return [(path, command)]
    shown = {name: one for name, one in inner.items() if not one.hidden}
    return [found for name, one in shown.items() for found in _commands(one, (*path, name))]


def _page(command: Any, path: tuple[str, ...]) -> str:
    words = " ".join((PROGRAM, *path))
    text = inspect.cleandoc(command.help or "").replace("\\[", "[").replace("\b\n", "")
    about, _, example = text.partition("Example: ")
    lines = [f"# {words}", "", _plain(about).strip(), ""]
    if example:
        lines += ["```sh", *(one.strip() for one in example.strip().split(", " + PROGRAM)[:1]), "```", ""]
    kinds = get_type_hints(command.callback)
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    rows = [_row(parameter, kinds.get(parameter.name)) for parameter in shown]
    if rows:
        lines += ["| | | default |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _row(parameter: Any, kind: Any) -> str:
    is_option = parameter.param_type_name == "option"
    names = ", ".join(f"`{name}`" for name in parameter.opts) if is_option else f"`{parameter.name.upper()}`"
    choices = ", ".join(f"`{choice}`" for choice in _values(kind))
    about = " ".join(
        part for part in (getattr(parameter, "help", None) or "", f"({choices})" if choices else "") if part
    )
    if parameter.required:
        default = "must be given"
    else:
        value = parameter.default
        default = "" if value in (None, False, (), "") or callable(value) else f"`{getattr(value, 'value', value)}`"
    return f"| {names} | {_plain(about)} | {default} |"


def _values(kind: Any) -> list[str]:
    """What a parameter of a kind may be, where these are few."""
    return [str(one.value) for one in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []


def _plain(text: str) -> str:
    return text.translate(_MARKS)
