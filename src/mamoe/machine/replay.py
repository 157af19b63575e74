"""A network's calls recorded once and replayed: the host gives one order where it gave thousands (CUDA graphs).

A recording reads its inputs from fixed places and writes its output to one; a call copies what it was given there. So
what is recorded must not ask the host anything, and has the same shapes every time: there is one recording per set of
shapes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOST = 4  # recordings kept; each holds the memory of one pass

Replay = Callable[[], None]


def cuda_graph(call: Callable[[], Tensor], pool: Any = None) -> tuple[Replay, Tensor]:
    """``call`` as a CUDA graph: what runs it again, and where its result then lies.

    Args:
        pool: the memory of other recordings, none of whose results is still wanted (``torch.cuda.graph_pool_handle``).
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # kernels are chosen and memory is found outside the recording
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        out = call()
    return graph.replay, out


class Replayed:
    """``call``, a function of nested tensors to one tensor, without gradients, answered from recordings.

    Weights may change in place between calls, but must stay where they are. Of more than :data:`MOST` sets of shapes
    the one not used for longest is recorded anew when it comes again.

    Args:
        call: see above; other arguments than tensors count as part of the shape and must compare equal.
        record: makes a recording.
    """

    def __init__(
        self,
        call: Callable[..., Tensor],
        record: Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]] = cuda_graph,
    ) -> None:
        self._call, self._record = call, record
        self._recordings: dict[Any, _Recording] = {}

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        given: list[Tensor] = []
        form: list[Any] = []
        _walk((args, kwargs), given.append, form.append)
        key = tuple(form)
        recording = self._recordings.pop(key, None)
        if recording is None:
            while len(self._recordings) >= MOST:
                del self._recordings[next(iter(self._recordings))]
            recording = self._recorded(args, kwargs)
        self._recordings[key] = recording  # the last is the one used last
        return recording.run(given)

    def _recorded(self, args: Any, kwargs: Any) -> _Recording:
        places: list[Tensor] = []

        def placed(tensor: Tensor) -> Tensor:
            places.append(tensor.clone())
            return places[-1]

        own_args, own_kwargs = _walk((args, kwargs), placed, lambda _: None)
        replay, out = self._record(lambda: self._call(*own_args, **own_kwargs))
        return _Recording(places=places, replay=replay, out=out, copied=[None] * len(places))


@dataclasses.dataclass(kw_only=True)
class _Recording:
    places: list[Tensor]
    replay: Replay
    out: Tensor
    copied: list[tuple[Tensor, int] | None]  # what a place was last given: text and masks are that of the step before

    def run(self, given: list[Tensor]) -> Tensor:
        for i, (place, tensor) in enumerate(zip(self.places, given, strict=True)):
            last = self.copied[i]
            if last is None or tensor is not last[0] or tensor._version != last[1]:
                place.copy_(tensor, non_blocking=True)
                self.copied[i] = (tensor, tensor._version)
        self.replay()
        return self.out.clone()


def _walk(value: Any, on_tensor: Callable[[Tensor], Any], on_form: Callable[[Any], None]) -> Any:
    """``value`` with each tensor replaced by what ``on_tensor`` makes of it; ``on_form`` hears of all the rest."""
    if isinstance(value, Tensor):
        on_form((tuple(value.shape), value.dtype, value.device))
        return on_tensor(value)
    if isinstance(value, dict):
        on_form((dict, tuple(value)))
        return {key: _walk(one, on_tensor, on_form) for key, one in value.items()}
    if isinstance(value, list | tuple):
        on_form((type(value), len(value)))
        return type(value)(_walk(one, on_tensor, on_form) for one in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        on_form(type(value))
        made = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(made, field.name, _walk(getattr(value, field.name), on_tensor, on_form))
        return made
    on_form(value)
    return value
