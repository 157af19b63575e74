"""The trained network's passes, forward and backward, recorded on a GPU (CUDA graphs).

The host gives two orders a step where it gave six thousand: a step then takes what the device needs, however slow the
host is. A recording is of one set of shapes. Texts are made as long as the longest seen; pictures of another size, and
batches that are not full, are computed as written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from mamoe.machine.memory import is_out_of_memory
from mamoe.machine.replay import ReplayedSteps, cuda_graphs, tensors_in
from mamoe.models.tokens import rounded_up, tokens_of, with_tokens

log = logging.getLogger(__name__)


def recorded_if_it_works(
    network: nn.Module,
    trial: Callable[[], object],
    *,
    added_up: bool,
    record: Callable[..., Any] = cuda_graphs,
) -> str | None:
    """Let calls of ``network`` that learn be answered from a recording, if ``trial``, a step, then ends well.

    Args:
        network: as written, or compiled.
        trial: see above.
        added_up: whether the gradients of several calls are added up before the weights move.
        record: makes a recording.

    Returns:
        None, or in a line why it computes as before.
    """
    # Asked of the layers: a network of ours that is put together from others has no word for it.
    if any(getattr(module, "gradient_checkpointing", False) for module in network.modules()):
        return "gradient checkpointing runs layers again, which a recording cannot: set one of both"
    before = network._compiled_call_impl
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    network._compiled_call_impl = _Recorder(
        before, before or network._call_impl, weights, added_up=added_up, record=record
    )
    try:
        trial()
    except Exception as error:
        network._compiled_call_impl = before
        if is_out_of_memory(error):
            raise
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def unrecorded(network: nn.Module) -> None:
    """Let ``network`` compute as before it was recorded, and give back the recording's memory.

    A recording knows one training's weights, and whether its gradients are added up; another's may be others.
    """
    if isinstance(recorder := network._compiled_call_impl, _Recorder):
        network._compiled_call_impl = recorder.before


def uncached_autocast(device: torch.device) -> torch.autocast:
    """Autocast as it is, but no weight stays cast: a recording would go on with what was cast before it."""
    kind = device.type
    return torch.autocast(
        kind, dtype=torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind), cache_enabled=False
    )


class _Recorder:
    """In the place of a network's call.

    Args:
        before: what was there; None: nothing but the network's own call.
        call: what is recorded.
        weights: see :class:`~mamoe.machine.replay.ReplayedSteps`, and for the rest.
    """

    def __init__(
        self,
        before: Callable[..., Any] | None,
        call: Callable[..., Any],
        weights: Sequence[Tensor],
        *,
        added_up: bool,
        record: Callable[..., Any],
    ) -> None:
        self.before, self._call = before, call
        self._steps = ReplayedSteps(self._called, weights, added_up=added_up, record=record)
        self._size: torch.Size | None = None  # of the pictures that are recorded
        self._tokens = 0
        self._say = partial(log.info, "Batches of other shapes than the recorded one are computed as written.")

    def _called(self, *args: Any, **inputs: Any) -> Tensor:
        with uncached_autocast(args[0].device):
            return self._call(*args, **inputs).sample

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._call(*args, **inputs)
        if (output := self._recorded(args, inputs)) is not None:
            return UNet2DConditionOutput(sample=output)
        self._say()
        self._say = _nothing  # once
        return self._call(*args, **inputs)

    def _recorded(self, args: Any, inputs: dict[str, Any]) -> Tensor | None:
        """The answer, or None: it is not to be had from a recording."""
        size = args[0].shape
        if self._size is not None and size != self._size:
            return None
        _check(args, inputs)
        grown = self._size is None
        if (tokens := tokens_of(inputs)) is not None:
            grown = grown or tokens > self._tokens
            self._tokens = max(self._tokens, rounded_up(tokens))
            inputs = with_tokens(inputs, self._tokens)
        if not self._steps.suits(*args, **inputs):
            if not grown:
                return None
            self._steps.record(*args, **inputs)
            self._size = size
        return self._steps(*args, **inputs)


def _check(args: Any, inputs: dict[str, Any]) -> None:
    if any(tensor.requires_grad for tensor in tensors_in((args, inputs))):
        raise RuntimeError("what the network is told learns too, and its gradients are not recorded")
    regions = (inputs.get("cross_attention_kwargs") or {}).get("regions") or ()
    if any(level.routing is not None and level.routing.weight is not None for level in regions):
        raise RuntimeError("cells shared by several experts differ in number from batch to batch")


def _nothing() -> None:
    pass
