"""The YAML that comes with the package."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parent / "groups"


def group_names() -> list[str]:
    """The groups that a training is composed of, in alphabetical order.

    A folder with a file of its name beside it holds the presets of another command (``benchmark``).
    """
    folders = [path for path in SHIPPED.iterdir() if path.is_dir() and any(path.glob("*.yaml"))]
    return sorted(path.name for path in folders if not path.with_suffix(".yaml").exists())
