"""Pictures drawn faster where many are drawn alike: the UNet recorded on a GPU, its blocks compiled elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from mamoe.machine.compiling import compiled_if_it_works
from mamoe.machine.memory import is_out_of_memory
from mamoe.machine.replay import Replay, Replayed, cuda_graph
from mamoe.models.blocks.block import blocks_of
from mamoe.sampling.padding import padded_size
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.vocabulary.conditioning import LevelConditioning

TOKENS = 64  # what the number of prompt tokens is rounded up to: pictures of nearly as many share a recording


def speed_up(pipe: LayoutPipeline, size: tuple[int, int], say: Callable[[str], None]) -> None:
    """Record the UNet of ``pipe`` on a GPU, which takes a second, or compile its blocks elsewhere, which takes minutes.

    It is tried on one step of a picture. Where that does not work, ``pipe`` stays as it is and ``say`` is told why.

    Args:
        size: (H, W) of the pictures to come, in pixels.
    """
    size = padded_size(size, pipe.side_multiple)
    trial = partial(pipe, "", height=size[0], width=size[1], num_inference_steps=1, output_type="latent")
    if pipe.device.type == "cuda":
        record = partial(cuda_graph, pool=torch.cuda.graph_pool_handle())
        problem = replayed_if_it_works(pipe.unet, trial, record)
    else:
        problem = compiled_if_it_works(blocks_of(pipe.unet), trial)
    if problem is not None:
        say(f"--fast does not work here, the pictures are drawn as without it: {problem}")


def replayed_if_it_works(
    unet: nn.Module, trial: Callable[[], object], record: Callable[..., tuple[Replay, Tensor]] = cuda_graph
) -> str | None:
    """Let calls of ``unet`` be answered from recordings, if ``trial``, which uses it, then ends well.

    Args:
        unet: see above.
        trial: see above.
        record: makes a recording.

    Returns:
        None, or in a line why it computes as before.
    """
    before = unet._compiled_call_impl
    call: Callable[..., Any] = before or unet._call_impl
    replayed = Replayed(lambda *args, **inputs: call(*args, **inputs).sample, record)
    rounded = _Rounded()

    def answer(*args: Any, **inputs: Any) -> UNet2DConditionOutput:
        return UNet2DConditionOutput(sample=replayed(*args, **rounded(_forgetful(inputs))))

    unet._compiled_call_impl = answer
    try:
        trial()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        unet._compiled_call_impl = before
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def _forgetful(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs without a place to keep what is made of the text: a recording would not make it of the next one."""
    told = inputs.get("cross_attention_kwargs") or {}
    if "kept" not in told:
        return inputs
    return {**inputs, "cross_attention_kwargs": {name: value for name, value in told.items() if name != "kept"}}


class _Rounded:
    """Inputs of a network with as many tokens as :data:`TOKENS` divides, those at the end seen by no cell.

    They are the same from step to step, and so is what is made of them: recordings copy what is new to them.
    """

    def __init__(self) -> None:
        self._of: tuple[Tensor, int, Any] | None = None
        self._made: dict[str, Any] = {}

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        embeds, regions = (
            inputs.get("encoder_hidden_states"),
            (inputs.get("cross_attention_kwargs") or {}).get("regions"),
        )
        if embeds is None or not regions or any(level.attend is None for level in regions):
            return inputs
        if not (missing := -embeds.shape[1] % TOKENS):
            return inputs
        of = self._of
        if of is None or of[0] is not embeds or of[1] != embeds._version or of[2] is not regions:
            levels = tuple(_lengthened(level, missing) for level in regions)
            self._of = (embeds, embeds._version, regions)
            self._made = {
                "encoder_hidden_states": F.pad(embeds, (0, 0, 0, missing)),
                "cross_attention_kwargs": {**inputs["cross_attention_kwargs"], "regions": levels},
            }
        return {**inputs, **self._made}


def _lengthened(level: LevelConditioning, missing: int) -> LevelConditioning:
    assert level.attend is not None
    nothing = False if level.attend.dtype == torch.bool else -torch.inf
    region = None if level.region is None else F.pad(level.region, (0, missing))
    return replace(level, attend=F.pad(level.attend, (0, missing), value=nothing), region=region)
