"""Pictures drawn faster where many are drawn alike: the UNet recorded on a GPU, its blocks compiled elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import nn

from mamoe.machine.compiling import compiled_if_it_works
from mamoe.machine.memory import is_out_of_memory
from mamoe.machine.replay import Replayed, cuda_graph
from mamoe.models.blocks.block import blocks_of
from mamoe.sampling.padding import padded_size
from mamoe.sampling.pipeline import LayoutPipeline


def speed_up(pipe: LayoutPipeline, size: tuple[int, int], say: Callable[[str], None]) -> None:
    """Record the UNet of ``pipe`` on a GPU, which takes a second, or compile its blocks elsewhere, which takes minutes.

    It is tried on one step of a picture. Where that does not work, ``pipe`` stays as it is and ``say`` is told why.

    Args:
        size: (H, W) of the pictures to come, in pixels.
    """
    size = padded_size(size, pipe.side_multiple)
    trial = partial(pipe, "", height=size[0], width=size[1], num_inference_steps=1, output_type="latent")
    if pipe.device.type == "cuda":
        problem = replayed_if_it_works(pipe.unet, trial)
    else:
        problem = compiled_if_it_works(blocks_of(pipe.unet), trial)
    if problem is not None:
        say(f"--fast does not work here, the pictures are drawn as without it: {problem}")


def replayed_if_it_works(unet: nn.Module, trial: Callable[[], object]) -> str | None:
    """Let calls of ``unet`` be answered from recordings, if ``trial``, which uses it, then ends well.

    Returns:
        None, or in a line why it computes as before.
    """
    before = unet._compiled_call_impl
    call: Callable[..., Any] = before or unet._call_impl
    record = partial(cuda_graph, pool=torch.cuda.graph_pool_handle())
    replayed = Replayed(lambda *args, **inputs: call(*args, **inputs).sample, record)

    def answer(*args: Any, **inputs: Any) -> UNet2DConditionOutput:
        return UNet2DConditionOutput(sample=replayed(*args, **inputs))

    unet._compiled_call_impl = answer
    try:
        trial()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        unet._compiled_call_impl = before
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None
