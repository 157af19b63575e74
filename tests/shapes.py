"""The shapes in the package's signatures, enforced while the suite runs (``enforce`` is called in conftest.py).

Only annotations that name an array are checked. Tests hand in fakes for the package's own types, which no checker could
accept, and those pyright checks already; a shape is what nobody else checks. A function without one is left as it is.
jaxtyping's own wrapper binds the arguments of every call and checks them a second time with the result, which took a
fifth of the suite; beartype's checks both where they pass by, and needs no more than a place to note the sizes in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial, wraps
from types import FunctionType
from typing import Any, get_args

import jaxtyping
from beartype import beartype
from jaxtyping import AbstractArray, config

_wrapped = jaxtyping.jaxtyped
_sizes = jaxtyping.jaxtyped("context")  # in which a letter means one size


def enforce(package: str) -> None:
    """From now on modules of the package are imported with their shapes checked."""
    jaxtyping.jaxtyped = decorated  # what the import hook puts before every function and class
    jaxtyping.install_import_hook(package, "beartype.beartype")


def decorated(thing: Any = None, **how: Any) -> Any:
    """A function or dataclass that names an array, with these checked; the thing itself for others."""
    if thing is None:
        return partial(decorated, **how)
    if inspect.isclass(thing):
        if is_dataclass(thing) and isinstance(thing.__init__, FunctionType):
            thing.__init__ = checked(thing.__init__)
        return thing
    return checked(thing) if isinstance(thing, FunctionType) else _wrapped(thing, **how)


def checked(function: FunctionType) -> Callable:
    """The function with those of its arguments and results checked that are said to be arrays."""
    within = inspect.unwrap(function)
    if within is not function:
        replace_within(function, inner=vars(function)["__wrapped__"])
        return function
    hints = {name: meant(hint, function.__globals__) for name, hint in function.__annotations__.items()}
    arrays = {name: hint for name, hint in hints.items() if names_an_array(hint)}
    if not arrays or inspect.isgeneratorfunction(function):  # one of these runs while others note their sizes
        return function
    twin = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__kwdefaults__, twin.__annotations__ = function.__kwdefaults__, arrays
    twin.__module__, twin.__qualname__ = function.__module__, function.__qualname__
    asked = beartype(twin)

    @wraps(function)
    def asking(*args: Any, **kwargs: Any) -> Any:
        if config.jaxtyping_disable:
            return function(*args, **kwargs)
        with _sizes:
            return asked(*args, **kwargs)

    return asking


def replace_within(wrapper: FunctionType, inner: FunctionType) -> None:
    """Check what a decorator such as ``torch.no_grad()`` has wrapped, where it keeps it."""
    for cell in wrapper.__closure__ or ():
        if cell.cell_contents is inner:
            cell.cell_contents = checked(inner)


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
