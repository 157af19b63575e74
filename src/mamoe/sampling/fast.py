"""Pictures drawn faster where many are drawn alike: the UNet's blocks compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mamoe.machine.compiling import compiled_if_it_works
from mamoe.models.unet.block import blocks_of
from mamoe.sampling.padding import padded_size
from mamoe.sampling.pipeline import LayoutPipeline


def speed_up(pipe: LayoutPipeline, size: tuple[int, int], say: Callable[[str], None]) -> None:
    """Compile the transformer blocks of ``pipe``, tried on one step of a picture; a minute or so on a GPU.

    Where that does not work, ``pipe`` stays as it is and ``say`` is told why.

    Args:
        size: (H, W) of the pictures to come, in pixels.
    """
    size = padded_size(size, pipe.side_multiple)
    trial = partial(pipe, "", height=size[0], width=size[1], num_inference_steps=1, output_type="latent")
    problem = compiled_if_it_works(blocks_of(pipe.unet), trial)
    if problem is not None:
        say(f"--fast does not work here, the pictures are drawn as without it: {problem}")
