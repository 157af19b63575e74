"""Reading a small YAML file that somebody else may have written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from mamoe.storage.text_file import require_file

_MOST_BYTES = 1 << 20
_MOST_VALUES = 100_000  # with every alias counted as what it stands for


class _Loader(yaml.SafeLoader):
    """Plain values alone, every key of a mapping once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(
                None, None, f"{', '.join(twice)} stands there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The plain values in a YAML file of UTF-8: no tags of Python, no key twice, nothing that swells when it is read.

    Raises:
        OSError: it cannot be read.
        ValueError: what is wrong with the file, in words that follow its name.
    """
    require_file(path)
    with path.open("rb") as file:
        raw = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise ValueError(f"is larger than {_MOST_BYTES >> 10} KiB")
    try:
        loader = _Loader(raw.decode("utf-8-sig"))
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _values(node, {}) > _MOST_VALUES:
                raise yaml.YAMLError(f"aliases stand for more than {_MOST_VALUES} values")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that there cannot be
        raise ValueError(f"is not valid YAML of plain values: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError("is nested too deep") from None


def mapping_in(value: Any) -> Mapping[Any, Any] | None:
    """The mapping that a value is; None: it is something else."""
    return cast(Mapping[Any, Any], value) if isinstance(value, Mapping) else None


def list_in(value: Any) -> Sequence[Any] | None:
    """The list that a value is; None: it is something else, text for example."""
    return cast(Sequence[Any], value) if isinstance(value, Sequence) and not isinstance(value, str) else None


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for once every alias is written out."""
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1  # what it is within itself: endless
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        inner = parts if isinstance(node, yaml.CollectionNode) else ()
        known[id(node)] = 1 + sum(_values(part, known) for part in inner)
    return known[id(node)]
