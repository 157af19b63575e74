"""torch.compile, tried before it is relied on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from mamoe.machine.memory import is_out_of_memory


def compiled_if_it_works(parts: Sequence[nn.Module], trial: Callable[[], object]) -> str | None:
    """Let torch compile ``parts`` where they are, if ``trial``, which uses them, then ends well.

    Their weights, names and classes stay. Takes as long as compiling does.

    Returns:
        None, or in a line why the parts compute as before: torch's compiler needs a C++ compiler, for a GPU Triton,
        and knows not every operation of every network.
    """
    for part in parts:
        part.compile()
    try:
        trial()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        for part in parts:
            part._compiled_call_impl = None  # the one way back from Module.compile
        torch.compiler.reset()
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


@contextmanager
def uncompiled(network: nn.Module) -> Iterator[None]:
    """Inside the ``with``, a network compiled as a whole runs as written: hooks would have it compiled anew."""
    kept, network._compiled_call_impl = network._compiled_call_impl, None
    try:
        yield
    finally:
        network._compiled_call_impl = kept
