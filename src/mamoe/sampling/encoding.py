"""A request as the network reads it: encoded once, drawn from as often as wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32
from torch import Tensor

from mamoe.conditioning.collate import collate_layouts
from mamoe.conditioning.conditioner import Conditioner, picture_conditioning, text_tokens
from mamoe.conditioning.regions import build_layout, layout_without_map
from mamoe.conditioning.text import PromptEncoder
from mamoe.models.backbone import Pyramid
from mamoe.sampling.binding import phase_starts, without_segments
from mamoe.sampling.requests import Request
from mamoe.vocabulary.batch import RegionLayout, framing_rows
from mamoe.vocabulary.conditioning import Conditioning
from mamoe.vocabulary.framing import Framing
from mamoe.vocabulary.layout import LayoutSettings
from mamoe.vocabulary.panoptic import PanopticMap


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Phase:
    """What steers the network from some share of the denoising on, for B pictures each."""

    start: float  # in [0, 1)
    conditional: Conditioning  # prompts and layout
    unconditional: Conditioning  # negative prompts, and none of the layout but where they are for regions
    text: Conditioning | None  # the prompt of the whole picture without its layout; None: nobody asked


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedRequest:
    """What :meth:`LayoutPipeline.encode` gives, to be drawn any number of times."""

    requests: tuple[Request, ...]  # B, those of one prompt after another; maps padded to ``size``
    copies: int  # pictures per prompt
    asked: tuple[int, int]  # (H, W) of the pictures
    size: tuple[int, int]  # (H, W) they are drawn at
    phases: tuple[Phase, ...]  # by their start, the first at 0
    control: Tensor | None  # [B _ _ _], the condition pictures as the UNet takes them; None: it takes none

    def problems(self, asked: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> list[str]:
        """Why it cannot be drawn beside what else a call says, or by a UNet elsewhere or of another number format."""
        nothing = {"regions_from": 0.0, "regions_until": 1.0, "num_images_per_prompt": 1}
        # A list or a picture says something, whatever is in it; comparing arrays would ask every pixel.
        silent = [name for name, value in asked.items() if value is None or _is(value, nothing.get(name))]
        twice = [name for name in asked if name not in silent]
        found = [f"encoded says it already: leave out {', '.join(twice)}"] if twice else []
        own = self.phases[0].conditional.text.embeds
        if own.dtype != dtype:
            found.append(f"the request was encoded in {own.dtype} and the model is {dtype} by now: encode it again")
        if own.device.type != device.type:
            found.append(f"the request was encoded on {own.device} and the model draws on {device}: encode it again")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestEncoder:
    """Requests become conditionings."""

    encoder: PromptEncoder
    settings: LayoutSettings | None  # None: a model without layout
    pyramid: Pyramid  # of the network
    sized: bool  # whether the network is told how large pictures are
    factor: int  # pixels per side of a latent cell
    device: torch.device
    dtype: torch.dtype

    def __call__(
        self, requests: Sequence[Request], size: tuple[int, int], framing: Framing | None, *, apart: bool
    ) -> tuple[Phase, ...]:
        """The phases of pictures (H, W) = ``size``, with ``apart`` also by the prompts of whole pictures alone."""
        rows = framing_rows([framing or Framing.whole(size)] * len(requests))
        if self.settings is None:
            conditional, unconditional = (
                self._by_text(texts, rows)
                for texts in (
                    [request.prompts.global_prompt for request in requests],
                    [request.negative.global_prompt for request in requests],
                )
            )
            return (Phase(start=0.0, conditional=conditional, unconditional=unconditional, text=None),)
        settings = self.settings
        unsteered = [layout_without_map(size, one.prompts, settings, self.factor) for one in requests]
        text = self._by_layouts(unsteered, settings, rows) if apart else None
        phases = []
        for start in phase_starts([request.binding for request in requests]):
            bound = [_bound(request, start) for request in requests]
            layouts = [self._layout(one, plain) for one, plain in zip(bound, unsteered, strict=True)]
            negatives = [self._negative_layout(one, size) for one in bound]
            phases.append(
                Phase(
                    start=start,
                    conditional=self._by_layouts(layouts, settings, rows),
                    unconditional=self._by_layouts(negatives, settings, rows),
                    text=text,
                )
            )
        return tuple(phases)

    def _by_text(self, prompts: list[str], framing: Int32[Tensor, "B 6"]) -> Conditioning:
        whole = self.encoder.encode_whole(prompts)
        tokens = text_tokens([[encoded.tokens] for encoded in whole], self.device, self.dtype)
        picture = picture_conditioning(whole, framing, self.device, self.dtype, sized=self.sized)
        of_one_length = len({len(encoded.tokens) for encoded in whole}) == 1  # as all are that are padded themselves
        return Conditioning(text=tokens, levels=(), picture=picture, padded=not of_one_length)

    def _by_layouts(
        self, layouts: Sequence[RegionLayout], settings: LayoutSettings, framing: Int32[Tensor, "B 6"]
    ) -> Conditioning:
        conditioner = Conditioner(self.encoder, settings, *astuple(self.pyramid), sized=self.sized)
        regions = replace(collate_layouts(layouts, settings.num_experts), framing=framing)
        return conditioner(regions, device=self.device, dtype=self.dtype)

    def _layout(self, request: Request, plain: RegionLayout) -> RegionLayout:
        if request.panoptic is None or self.settings is None:
            return plain
        return build_layout(request.panoptic, request.prompts, self.settings, self.factor)

    def _negative_layout(self, request: Request, size: tuple[int, int]) -> RegionLayout:
        """No region but those with a negative prompt of their own, no data-set prompt, the rest expert everywhere."""
        assert self.settings is not None
        settings = replace(self.settings, dataset_prompt=None)
        if request.panoptic is None or not request.negative.by_segment:
            return layout_without_map(size, request.negative, settings, self.factor)
        alone = _only(request.panoptic, list(request.negative.by_segment), settings.taxonomy.void_id)
        layout = build_layout(alone, request.negative, settings, self.factor)
        return replace(layout, expert=torch.zeros_like(layout.expert))


def _is(value: Any, number: float | None) -> bool:
    return isinstance(value, int | float) and value == number


def _bound(request: Request, share: float) -> Request:
    """The request with the map of those segments alone whose prompts bind when ``share`` of the denoising is done."""
    if request.panoptic is None:
        return request
    loose = request.binding.loose(list(request.panoptic.classes), share)
    return replace(request, panoptic=without_segments(request.panoptic, loose)) if loose else request


def _only(panoptic: PanopticMap, segments: Sequence[int], void: int) -> PanopticMap:
    kept = np.isin(panoptic.segment_id, segments)
    return PanopticMap(
        segment_id=np.where(kept, panoptic.segment_id, np.int32(0)),
        class_id=np.where(kept, panoptic.class_id, np.uint8(void)),
    )
