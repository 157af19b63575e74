"""Options that several commands have in common, each declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, get_type_hints


def with_options(
    group: Callable[..., dict[str, Any]], *, without: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options that ``group`` declares, but for some; what ``group`` makes of the given ones is the
    command's last parameter.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        *own, last = inspect.signature(command).parameters.values()
        shared = [one for name, one in inspect.signature(group).parameters.items() if name not in without]
        hints = {**get_type_hints(group, include_extras=True), **get_type_hints(command, include_extras=True)}
        typed = [one.replace(annotation=hints[one.name]) for one in (*own, *shared)]

        @wraps(command)
        def run(**given: Any) -> None:
            made = group(**{one.name: given.pop(one.name) for one in shared})
            command(**given, **{last.name: {name: value for name, value in made.items() if name not in without}})

        run.__signature__ = inspect.Signature(typed)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in typed}
        return run

    return decorate
