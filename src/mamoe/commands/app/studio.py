"""What the page works with: one model, its classes, and one drawing at a time."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import ImagePipelineOutput
from jaxtyping import UInt8
from PIL import Image

from mamoe.commands.app.layouts import Layouts
from mamoe.data.condition import drawn_kind
from mamoe.errors import ConfigError
from mamoe.models.control.call import control_of
from mamoe.models.wrapped import unwrapped
from mamoe.sampling.effect import WithoutEffect
from mamoe.sampling.finite import NotFinite
from mamoe.sampling.padding import Padded
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.sampling.records import record_of
from mamoe.vocabulary.drawing import Drawing
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.panoptic import PanopticMap
from mamoe.vocabulary.prompts import RegionPrompts

_PATIENCE = 0.1  # seconds between two looks whether a drawing that waits is still wanted


class Cancelled(Exception):
    """Nobody waits for the picture any more."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """One instance that is drawn anew in a picture that is there."""

    picture: UInt8[np.ndarray, "H W 3"]
    segment: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Wish:
    """A picture somebody painted the layout of."""

    panoptic: PanopticMap
    prompts: RegionPrompts
    drawing: Drawing  # its seed is this picture's
    part: Part | None = None  # None: all of it is drawn


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drawn:
    """A picture, and what it was drawn from."""

    picture: Image.Image
    record: dict[str, Any]
    notes: tuple[str, ...]  # what of the wish changed nothing


class Studio:
    """A model that draws what it is asked for, one picture after the other.

    Raises:
        ConfigError: the model follows no layout, or wants condition pictures from files.
    """

    def __init__(self, pipe: LayoutPipeline, layouts: Layouts, name: str) -> None:
        self.pipe, self.layouts, self.name = pipe, layouts, name
        self.settings = require_layout(pipe, name)
        self._at_work = threading.Lock()

    @property
    def usual_size(self) -> tuple[int, int]:
        """(H, W) in pixels of an empty canvas: the data's, or what the UNet was made for."""
        return self.layouts.size or usual_size(self.pipe)

    def draw(self, wish: Wish, step: Callable[[int], None], wanted: Callable[[], bool]) -> Drawn:
        """The picture of a wish; the same pixels as a call of the pipeline with a generator of its seed.

        Args:
            wish: what to draw.
            step: called with the number of steps done, once before the first.
            wanted: asked after every step, and while another drawing is at work.

        Raises:
            MamoeError: the pipeline refuses the wish.
            Cancelled: ``wanted`` said no.
        """
        drawing = wish.drawing
        part = wish.part

        def step_end(pipe: Any, number: int, *_: Any) -> dict[str, Any]:
            if not wanted():
                raise Cancelled
            step(number + 1)
            return {}

        with self._turn(wanted), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            step(0)
            output = self.pipe(
                wish.prompts.global_prompt,
                wish.panoptic,
                wish.prompts.by_segment,
                num_inference_steps=drawing.steps,
                guidance_scale=drawing.scale,
                generator=torch.Generator().manual_seed(drawing.seed),
                image=None if part is None else part.picture,
                only_instances=None if part is None else part.segment,
                callback_on_step_end=step_end,
            )
        assert isinstance(output, ImagePipelineOutput) and isinstance(output.images, list)
        notes = [str(one.message) for one in said if issubclass(one.category, WithoutEffect | Padded | NotFinite)]
        further = {} if part is None else {"only_instances": [part.segment]}
        scheduler = type(self.pipe.scheduler).__name__
        record = record_of(wish.prompts, wish.panoptic.size, drawing.seed, drawing, scheduler=scheduler, **further)
        return Drawn(picture=output.images[0], record=record, notes=tuple(notes))

    @contextmanager
    def _turn(self, wanted: Callable[[], bool]) -> Iterator[None]:
        while not self._at_work.acquire(timeout=_PATIENCE):
            if not wanted():
                raise Cancelled
        try:
            if not wanted():  # it may have waited for a thread before it waited here
                raise Cancelled
            yield
        finally:
            self._at_work.release()


def require_layout(pipe: LayoutPipeline, name: str) -> LayoutSettings:
    """The layout settings of a pipeline that can draw what is painted.

    Raises:
        ConfigError: it follows no layout, or wants condition pictures from files.
    """
    if pipe.settings is None:
        raise ConfigError(
            f"{name} knows no layout, so there is nothing to paint for it. Name a run that was trained with one: "
            "`mamoe demo` makes such a run in minutes."
        )
    if control_of(pipe.unet) is not None and drawn_kind(pipe.config["condition"]) is None:
        raise ConfigError(
            f"{name} was trained with condition pictures from files, which cannot be painted here. "
            "`mamoe sample --conditions FOLDER` draws with them."
        )
    return pipe.settings


def usual_size(pipe: LayoutPipeline) -> tuple[int, int]:
    """(H, W) in pixels that a pipeline's UNet was made for."""
    cells = unwrapped(pipe.unet).config["sample_size"]
    height, width = cells if isinstance(cells, list | tuple) else (cells, cells)
    return height * pipe.vae_scale_factor, width * pipe.vae_scale_factor
