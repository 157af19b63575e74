"""A network's calls recorded once and replayed: the host gives one order where it gave thousands (CUDA graphs).

A recording reads its inputs from fixed places and writes its output to one; a call copies what it was given there. So
what is recorded must not ask the host anything, and has the same shapes every time: there is one recording per set of
shapes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MOST = 4  # recordings kept; each holds the memory of one pass

Replay = Callable[[], None]
_RECORDING = ContextVar("recording", default=False)  # of each thread its own
Grads = tuple[Tensor | None, ...]


def is_recording() -> bool:
    """Whether what runs is being recorded, or runs once more just before: the host's time does not count.

    Not so where torch's compiler looks, which would write everything once more for a recording.
    """
    return not torch.compiler.is_compiling() and _RECORDING.get()


@contextmanager
def _being_recorded() -> Iterator[None]:
    token = _RECORDING.set(True)
    try:
        yield
    finally:
        _RECORDING.reset(token)


@_being_recorded()
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


@_being_recorded()
def cuda_graphs(forward: Callable[[], Tensor], backward: Callable[[], Grads]) -> tuple[Replay, Tensor, Replay, Grads]:
    """A pass forward and the one backward that follows it as CUDA graphs: what runs each again, and its results."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            forward()
            backward()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()  # what else was ordered must not meet a recording half done
    there, back = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    # Threads that pin memory for batches and checkpoints go on beside it.
    with torch.cuda.graph(there, stream=stream, capture_error_mode="thread_local"):
        out = forward()
    with torch.cuda.graph(back, pool=there.pool(), stream=stream, capture_error_mode="thread_local"):
        grads = backward()
    return there.replay, out, back.replay, grads


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
        places, own_args, own_kwargs = _placed(args, kwargs)
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


class ReplayedSteps:
    """``call``, a function of nested tensors to one tensor, with gradients for ``weights``, answered from a recording.

    There is one recording, of the shapes it was given last by :meth:`record`: it holds what all layers keep for the
    backward pass, and the gradients. Each pass forward has one backward at most, before the next one forward.

    Args:
        call: see above; what it is given gets no gradients. Weights may change in place, but must stay where they are.
        weights: what gradients flow to.
        added_up: whether gradients stay while more are added to them: they are copied then, else handed out as they
            lie, to be read before the next pass.
        record: makes a recording.
    """

    def __init__(
        self,
        call: Callable[..., Tensor],
        weights: Sequence[Tensor],
        *,
        added_up: bool = False,
        record: Callable[..., tuple[Replay, Tensor, Replay, Grads]] = cuda_graphs,
    ) -> None:
        self._call, self._record, self._weights, self._added_up = call, record, list(weights), added_up
        self._recorded: tuple[Any, _RecordedStep] | None = None

    def suits(self, *args: Any, **kwargs: Any) -> bool:
        """Whether the recording is of these shapes."""
        return self._recorded is not None and self._recorded[0] == _form((args, kwargs))

    def record(self, *args: Any, **kwargs: Any) -> None:
        """Make the recording of these shapes, in the place of the one before."""
        self._recorded = None  # before another takes as much memory
        places, own_args, own_kwargs = _placed(args, kwargs)
        gpus = {place.device for place in places if place.is_cuda}
        with torch.random.fork_rng(gpus):  # the passes of a recording are none of the training's: it draws as without
            step = _RecordedStep(places, lambda: self._call(*own_args, **own_kwargs), self._weights, self._record)
        self._recorded = (_form((args, kwargs)), step)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        assert self._recorded is not None
        given, step = tensors_in((args, kwargs)), self._recorded[1]
        with torch.no_grad():
            for place, tensor in zip(step.places, given, strict=True):
                place.copy_(tensor, non_blocking=True)
        return _Step.apply(step, self._added_up, *self._weights)  # type: ignore[no-any-return]


class _RecordedStep:
    def __init__(
        self,
        places: list[Tensor],
        call: Callable[[], Tensor],
        weights: Sequence[Tensor],
        record: Callable[..., tuple[Replay, Tensor, Replay, Grads]],
    ) -> None:
        self.places, self.runs, self.used = places, 0, False
        live: list[Tensor] = []
        self.out_grad: Tensor | None = None

        def forward() -> Tensor:
            with torch.enable_grad():
                live[:] = [call()]
            if self.out_grad is None:
                self.out_grad = torch.zeros_like(live[0])
            return live[0].detach()

        def backward() -> Grads:
            return torch.autograd.grad(live.pop(), weights, self.out_grad, allow_unused=True)

        self.forward, self.out, self.backward, self.grads = record(forward, backward)


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: _RecordedStep, added_up: bool, *weights: Tensor) -> Tensor:
        step.forward()
        step.runs, step.used = step.runs + 1, False
        ctx.step, ctx.added_up, ctx.run = step, added_up, step.runs
        return step.out.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        step: _RecordedStep = ctx.step
        if ctx.run != step.runs or step.used:
            raise RuntimeError(
                "a recorded network keeps what its backward pass needs once: gradients were asked for twice, or after "
                "another pass forward"
            )
        step.used = True
        assert step.out_grad is not None
        step.out_grad.copy_(grad)
        step.backward()
        each = (None if one is None else one.clone() if ctx.added_up else one.detach() for one in step.grads)
        return None, None, *each


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested arguments."""
    found: list[Tensor] = []
    _walk(value, found.append, lambda _: None)
    return found


def _form(value: Any) -> tuple[Any, ...]:
    form: list[Any] = []
    _walk(value, lambda tensor: tensor, form.append)
    return tuple(form)


def _placed(args: Any, kwargs: Any) -> tuple[list[Tensor], Any, Any]:
    """Places for the tensors among arguments, with what they hold, and the arguments made of them."""
    places: list[Tensor] = []

    def placed(tensor: Tensor) -> Tensor:
        places.append(tensor.detach().clone())
        return places[-1]

    return places, *_walk((args, kwargs), placed, lambda _: None)


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
