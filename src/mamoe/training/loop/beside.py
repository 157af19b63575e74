"""Writing beside a training: copies on the host of what was learned, and a thread that works on them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Thread
from typing import Any

import psutil
import torch
from torch import Tensor

_SHARE = 0.8  # of the memory that is free: copies take no more


def pinned_like(tensor: Tensor) -> Tensor:
    """Room for a copy of a GPU's tensor in the host's memory, which takes long to come by and is copied to quickly."""
    return torch.empty_like(tensor, device="cpu", pin_memory=True)


class HostCopies:
    """Copies of tensors in the host's memory; those of a GPU's tensors keep their place for the next time.

    Args:
        place: makes room for the copy of a GPU's tensor.
    """

    def __init__(self, place: Callable[[Tensor], Tensor] = pinned_like) -> None:
        self._place = place
        self._kept: dict[str, Tensor] = {}
        self._preparing: Thread | None = None

    def prepare(self, tree: Mapping[str, Any]) -> None:
        """Make room for copies to come while the caller goes on, if there is memory; nothing is copied yet."""
        if self.fit(tree):
            on_gpu = [(name, tensor) for name, tensor in _tensors(tree) if _is_on_gpu(tensor)]
            self._preparing = Thread(target=self._make_room, args=(on_gpu,), name="room for copies", daemon=True)
            self._preparing.start()

    def _make_room(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        # The first failure ends it: whoever copies asks again, and hears of it.
        with contextlib.suppress(RuntimeError):
            for name, tensor in tensors:
                self._room(name, tensor)

    def _room(self, name: str, tensor: Tensor) -> Tensor:
        place = self._kept.get(name)
        if place is None or not _fits(place, tensor):
            place = self._kept[name] = self._place(tensor)
        return place

    def fit(self, tree: Mapping[str, Any]) -> bool:
        """Whether there is memory for a copy of every tensor in nested mappings."""
        self._wait()
        new = sum(
            value.numel() * value.element_size()
            for name, value in _tensors(tree)
            if not _fits(self._kept.get(name), value)
        )
        return new <= _SHARE * psutil.virtual_memory().available

    def of(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Nested mappings with copies in the place of tensors; valid until the next call. Waits for the device."""
        self._wait()
        copies = self._copied(tree, "")
        for device in {value.device for _, value in _tensors(tree) if value.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        return copies

    def _copied(self, tree: Any, name: str) -> Any:
        if isinstance(tree, Mapping):
            return {key: self._copied(value, f"{name}/{key}") for key, value in tree.items()}
        if not isinstance(tree, Tensor):
            return tree
        if not _is_on_gpu(tree):
            return tree.detach().clone()
        return self._room(name, tree).copy_(tree.detach(), non_blocking=True)

    def _wait(self) -> None:
        if self._preparing is not None:
            self._preparing.join()
            self._preparing = None


class Writer:
    """Does one piece of work at a time beside the training; what goes wrong is raised where the training asks."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin ``work`` once the one before is done."""
        self.wait()
        # A daemon, because a second Ctrl-C is to end the program at once: what it was writing has a hidden name.
        self._thread = Thread(target=self._run, args=(work,), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written; raises what went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise, once, what went wrong so far."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error


def _is_on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _fits(place: Tensor | None, tensor: Tensor) -> bool:
    return place is not None and place.shape == tensor.shape and place.dtype == tensor.dtype


def _tensors(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _tensors(value, f"{name}/{key}")
