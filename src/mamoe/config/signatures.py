"""What a function or class takes, read from its source: nothing is imported, so that torch need not load."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Union

SCALARS = {"int": int, "float": float, "bool": bool, "str": str}
_LISTS = ("list", "List", "Sequence", "Iterable")


@dataclass(frozen=True, kw_only=True, slots=True)
class Argument:
    kind: Any  # its type, for pydantic; Any where the source names none that a YAML could hold
    needed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    arguments: Mapping[str, Argument]  # without self and the first one, which the caller gives
    open: bool  # takes keywords of any name


@lru_cache(maxsize=256)
def signature_of(target: str) -> Signature | None:
    """The signature of a dotted name like ``torch.optim.SGD``; None where its source does not lie open."""
    module, _, name = target.rpartition(".")
    for path in _files(module):
        text = path.read_text(encoding="utf-8")
        if re.search(rf"^(class|def) {re.escape(name)}\b", text, re.MULTILINE):
            found = next(node for node in ast.parse(text).body if getattr(node, "name", None) == name)
            return _signature(found)
    return None


@lru_cache(maxsize=8)
def functions_in(package: str, *, first: str, returns: str) -> tuple[str, ...]:
    """The public functions of a package whose first argument is called ``first`` and that return a ``returns``."""

    def fits(node: ast.stmt) -> bool:
        match node:
            case ast.FunctionDef(args=ast.arguments(args=[ast.arg(arg=arg), *_]), returns=ast.Name(id=made)):
                return node.name[0] != "_" and (arg, made) == (first, returns)
        return False

    nodes = [node for path in _files(package) for node in ast.parse(path.read_text(encoding="utf-8")).body]
    return tuple(node.name for node in nodes if fits(node))  # type: ignore[attr-defined]


def _files(module: str) -> list[Path]:
    """The source of a module, or of what lies directly in a package."""
    root, *parts = module.split(".")
    spec = importlib.util.find_spec(root)
    places = list(spec.submodule_search_locations or []) if spec else []
    for place in places:
        path = Path(place, *parts)
        if path.is_dir():
            return sorted(path.glob("*.py"))
        if path.with_suffix(".py").is_file():
            return [path.with_suffix(".py")]
    return []


def _signature(found: ast.AST) -> Signature | None:
    if isinstance(found, ast.ClassDef):
        made = [node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        if not made:
            return None
        found = made[-1]
        found.args.args = found.args.args[1:]  # without self
    if not isinstance(found, ast.FunctionDef):
        return None
    args = found.args
    positional = [*args.posonlyargs, *args.args]
    undefaulted = len(positional) - len(args.defaults)
    pairs = [(arg, i < undefaulted) for i, arg in enumerate(positional)][1:]
    pairs += [(arg, default is None) for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    arguments = {arg.arg: Argument(kind=_kind(arg.annotation), needed=needed) for arg, needed in pairs}
    return Signature(arguments=arguments, open=args.kwarg is not None)


def _kind(annotation: ast.expr | None) -> Any:
    """The type an annotation stands for, as far as YAML can hold it: tensors are left out."""
    kinds = [kind for kind in map(_one_kind, _alternatives(annotation)) if kind is not None]
    return Union[tuple(kinds)] if kinds and Any not in kinds else Any  # noqa: UP007


def _one_kind(annotation: ast.expr) -> Any:
    match annotation:
        case ast.Name(id=name) if name in SCALARS:
            return SCALARS[name]
        case ast.Constant(value=None):
            return type(None)
        case ast.Name(id="Tensor"):
            return None
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            given = ast.literal_eval(values)
            return Literal[given]  # type: ignore[valid-type]
        case ast.Subscript(value=ast.Name(id="tuple" | "Tuple"), slice=ast.Tuple(elts=inner)):
            return tuple[tuple(map(_kind, inner))]  # type: ignore[misc]
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in _LISTS:
            return list[_kind(inner)]  # type: ignore[misc]
    return Any


def _alternatives(annotation: ast.expr | None) -> list[ast.expr]:
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return [*_alternatives(left), *_alternatives(right)]
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=inner)):
            return [one for part in inner for one in _alternatives(part)]
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return [*_alternatives(inner), ast.Constant(value=None)]
        case None:
            return []
    return [annotation]
