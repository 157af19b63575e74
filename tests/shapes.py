"""The shapes in the package's signatures, enforced while the suite runs (``install_import_hook`` in conftest.py).

Only annotations that name an array are checked. Tests hand in fakes for the package's own types, which no checker could
accept, and those pyright checks already; a shape is what nobody else checks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def names_an_array(hint: Any) -> bool:
    """Whether an annotation is a shape, or holds one: ``Float[Tensor, "B C"] | None``."""
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(names_an_array(part) for part in get_args(hint))


def checked(function: Callable) -> Callable:
    """The function with its arrays checked by beartype, its other annotations taken off.

    jaxtyping calls this with an empty twin of the function, never with the function itself.
    """
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if names_an_array(hint)}
    return beartype(function) if function.__annotations__ else unchecked


def unchecked(*args: Any, **kwargs: Any) -> None:
    """Accepts anything: what stands for a function without arrays."""
