"""A folder's list of its own files with sizes and hashes, written last: what agrees with it was written whole.

Training closes every checkpoint with one; whoever loads a checkpoint looks at it first.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mamoe.storage.hashing import file_hash

MANIFEST = "MANIFEST.json"
_FORMAT = 1


def manifest_of(folder: Path, step: int) -> str:
    """The text of the manifest of all files now in ``folder``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    table = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_hash(path)} for path in files
    }
    return json.dumps({"format": _FORMAT, "step": step, "files": table}, indent=1)


def without(manifest: str, names: Collection[str]) -> str:
    """The text of a manifest without some files, which it says are no longer there."""
    content: Any = json.loads(manifest)
    files = {name: facts for name, facts in content["files"].items() if name not in names}
    return json.dumps({**content, "dropped": sorted(names), "files": files}, indent=1)


def dropped_from(folder: Path) -> list[str]:
    """The files that a folder's manifest says were dropped later; none where there is no sound manifest."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("dropped", [])
    except (OSError, ValueError, AttributeError):
        return []


def problems_of(folder: Path, parts: Collection[str] | None = None) -> list[str]:
    """What is wrong with a folder that has a manifest, file by file; empty when every byte is as it was written.

    Args:
        folder: for example a checkpoint.
        parts: look only at these files and at what lies in these subfolders; None = at everything.
    """
    manifest = folder / MANIFEST
    try:
        content: Any = json.loads(manifest.read_text(encoding="utf-8"))
        known = content["format"] == _FORMAT
        files = {name: (facts["bytes"], facts["sha256"]) for name, facts in content["files"].items()} if known else {}
    except FileNotFoundError:
        return [f"{manifest} is missing"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{manifest} cannot be read"]
    if not known:
        return [f"{manifest} has format {content['format']!r:.40}, this version reads {_FORMAT}"]
    problems: list[str] = []
    for name, (size, sha256) in files.items():
        if parts is not None and name.partition("/")[0] not in parts:
            continue
        path = folder / name
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif path.stat().st_size != size:
            problems.append(f"{path} has {path.stat().st_size} bytes instead of {size}")
        elif file_hash(path) != sha256:
            problems.append(f"{path} was changed: its sha256 differs from the manifest's")
    return problems
