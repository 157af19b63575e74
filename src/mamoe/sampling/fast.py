"""Pictures drawn faster where many are drawn alike: the UNet recorded on a GPU, its blocks compiled elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from mamoe.machine.compiling import compiled_if_it_works
from mamoe.machine.kernels import has_triton
from mamoe.machine.memory import is_out_of_memory
from mamoe.machine.replay import Replay, Replayed, cuda_graph
from mamoe.methods.lora import to_channels_last
from mamoe.models.autoencoder import with_channels_last
from mamoe.models.blocks.block import blocks_of
from mamoe.models.tokens import rounded_up, tokens_of, with_tokens
from mamoe.sampling.padding import padded_size
from mamoe.sampling.pipeline import LayoutPipeline


def speed_up(pipe: LayoutPipeline, size: tuple[int, int], say: Callable[[str], None]) -> None:
    """Record the UNet of ``pipe`` on a GPU, which takes seconds, or compile its blocks elsewhere, which takes minutes.

    It is tried on one step of a picture. Where that does not work, ``pipe`` draws as before and ``say`` is told why.
    What is recorded has its channels last in memory, as convolutions want them.

    Args:
        size: (H, W) of the pictures to come, in pixels.
    """
    size = padded_size(size, pipe.side_multiple)
    trial = partial(pipe, "", height=size[0], width=size[1], num_inference_steps=1, output_type="latent")
    if pipe.device.type == "cuda":
        put_back = _lay_channels_last(pipe) if has_triton() else None
        record = partial(cuda_graph, pool=torch.cuda.graph_pool_handle())
        problem = replayed_if_it_works(pipe.unet, trial, record)
        if problem is not None and put_back is not None:
            put_back()
    else:
        problem = compiled_if_it_works(blocks_of(pipe.unet), trial)
    if problem is not None:
        say(f"--fast does not work here, the pictures are drawn as without it: {problem}")


def _lay_channels_last(pipe: LayoutPipeline) -> Callable[[], None]:
    """Lay pictures' channels last in memory; what is returned lays them as they were."""
    networks: tuple[Any, ...] = (pipe.unet, pipe.vae)
    first = [weight for one in networks for weight in one.parameters() if weight.dim() == 4 and weight.is_contiguous()]
    to_channels_last(pipe.unet)
    with_channels_last(pipe.vae)

    def put_back() -> None:
        # Not by `contiguous`, which leaves kernels of 1x1 alone: convolutions go by their strides all the same.
        for weight in first:
            weight.data = weight.data.flatten().view(weight.shape)

    return put_back


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
    """Inputs of a network with as many tokens as :data:`~mamoe.models.tokens.MULTIPLE` divides.

    They are the same from step to step, and so is what is made of them: recordings copy what is new to them.
    """

    def __init__(self) -> None:
        self._of: tuple[Tensor, int, Any] | None = None
        self._made: dict[str, Any] = {}

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        tokens = tokens_of(inputs)
        if tokens is None or tokens == rounded_up(tokens):
            return inputs
        embeds, regions = inputs["encoder_hidden_states"], inputs["cross_attention_kwargs"]["regions"]
        of = self._of
        if of is None or of[0] is not embeds or of[1] != embeds._version or of[2] is not regions:
            longer = with_tokens(inputs, rounded_up(tokens))
            self._of = (embeds, embeds._version, regions)
            self._made = {name: longer[name] for name in ("encoder_hidden_states", "cross_attention_kwargs")}
        return {**inputs, **self._made}
