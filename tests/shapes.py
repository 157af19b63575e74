"""The shapes in the package's signatures, enforced while the suite runs (``enforce`` is called in conftest.py).

Only annotations that name an array are checked. Tests hand in fakes for the package's own types, which no checker could
accept, and those pyright checks already; a shape is what nobody else checks. A function without one is left as it is:
jaxtyping's wrapper binds the arguments of every call anew, which took a quarter of the suite.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any, get_args

import jaxtyping
from beartype import beartype
from jaxtyping import AbstractArray

_wrapped = jaxtyping.jaxtyped


def enforce(package: str) -> None:
    """From now on modules of the package are imported with their shapes checked."""
    jaxtyping.jaxtyped = decorated  # what the import hook puts before every function and class
    jaxtyping.install_import_hook(package, "shapes.checked")


def decorated(thing: Any = None, **how: Any) -> Any:
    """jaxtyping's decorator for functions and dataclasses that name an array, the thing itself for others."""
    if thing is None:
        return partial(decorated, **how)
    called = thing.__init__ if inspect.isclass(thing) else thing
    return thing if isinstance(called, FunctionType) and not takes_an_array(called) else _wrapped(thing, **how)


def takes_an_array(function: FunctionType) -> bool:
    """Whether an argument or the result of the function is said to be an array."""
    return any(names_an_array(meant(hint, function.__globals__)) for hint in function.__annotations__.values())


def meant(hint: Any, names: dict[str, Any]) -> Any:
    """What an annotation says that may be written as text; as text where a name in it is not there at run time."""
    try:
        return eval(hint, names) if isinstance(hint, str) else hint
    except Exception:  # the annotation is any expression
        return hint


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
    """Accepts anything: what stands for a function whose arguments are no arrays, where only its result is one."""
