"""Packages that need not be installed."""

from __future__ import annotations

import importlib
from typing import Any

from mamoe.errors import ConfigError


def required(package: str, setting: str, extra: str, instead: str) -> Any:
    """An optional package.

    Args:
        package: its name.
        setting: what asks for it, as the user wrote it.
        extra: of this package, that brings it.
        instead: what does without it, in words.

    Raises:
        ConfigError: it is not installed, or does not work here.
    """
    try:
        return importlib.import_module(package)
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{setting} needs the package {package} ({reason}): pip install 'mamoe[{extra}]', or {instead}."
        ) from None
