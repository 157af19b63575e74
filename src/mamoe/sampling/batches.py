"""Draw many pictures in batches: the way sampling jobs, sample grids during training and the demo share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers import ImagePipelineOutput
from PIL import Image

from mamoe.models.control.call import control_of
from mamoe.sampling.effect import WithoutEffect
from mamoe.sampling.padding import Padded
from mamoe.sampling.pipeline import LayoutPipeline
from mamoe.sampling.requests import Request
from mamoe.vocabulary.drawing import DRAWING, Drawing
from mamoe.vocabulary.sample import Sample


def sample_batch(
    pipe: LayoutPipeline,
    samples: Sequence[Sample],
    seeds: Sequence[int],
    drawing: Drawing = DRAWING,
    *,
    layout: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Image.Image]:
    """A picture for every sample's prompts and map; the samples' own pictures are not looked at.

    Picture i depends on sample i and ``seeds[i]`` alone. Samples may differ in size.

    Args:
        pipe: put together from the parts at hand; nothing is moved or switched to evaluation mode here.
        samples: what to draw.
        seeds: one per sample; that of ``drawing`` is not looked at.
        drawing: mode, steps, guidance and how many are drawn together.
        layout: False draws by the global prompt alone, at the map's size: what a model without layout does.
        progress: called with (pictures done, pictures in all) after every batch.

    Raises:
        ValueError: as many seeds as samples are wanted; what the pipeline refuses.
    """
    if len(samples) != len(seeds):
        raise ValueError(f"Wanted one seed per sample, got {len(samples)} samples and {len(seeds)} seeds.")
    images: dict[int, Image.Image] = {}
    for chosen in batches_by_size([sample.panoptic.size for sample in samples], drawing.batch_size):
        requests = [_request(samples[i]) for i in chosen]
        drawn = draw(pipe, requests, [seeds[i] for i in chosen], drawing, layout=layout)
        images.update(zip(chosen, drawn, strict=True))
        if progress is not None:
            progress(len(images), len(samples))
    return [images[i] for i in range(len(samples))]


def draw(
    pipe: LayoutPipeline,
    requests: Sequence[Request],
    seeds: Sequence[int],
    drawing: Drawing,
    *,
    layout: bool = True,
    edit: Mapping[str, Any] | None = None,
) -> list[Image.Image]:
    """One call of the pipeline for requests with maps of one size, each with a generator of its own seed.

    ``edit`` is what the pipeline takes of pictures to change.

    What has no effect, or is padded, is not said here: the requests are many, and whoever chose them says it once.
    """
    maps = [request.panoptic for request in requests if request.panoptic is not None]
    given = [request.condition for request in requests if request.condition is not None]
    text = [request.prompts.global_prompt for request in requests]
    options: dict[str, Any] = {
        "num_inference_steps": drawing.steps,
        "guidance_scale": drawing.scale,
        "guidance_rescale": drawing.rescale,
        "guidance_layout": drawing.guidance_layout,
        "negative_prompt": [request.negative.global_prompt for request in requests],
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WithoutEffect)
        warnings.simplefilter("ignore", Padded)
        if not layout and control_of(pipe.unet) is None:
            height, width = maps[0].size
            output = pipe(text, height=height, width=width, **options)
        else:
            bound = {"regions_from": drawing.regions_from, "regions_until": drawing.regions_until}
            by_segment = [request.prompts.by_segment for request in requests]
            output = pipe(text, maps, by_segment, condition=given or None, **options, **bound, **(edit or {}))
    assert isinstance(output, ImagePipelineOutput) and isinstance(output.images, list)
    return output.images


def _request(sample: Sample) -> Request:
    shown = None if sample.condition is None else sample.condition.permute(1, 2, 0).numpy()
    return Request(prompts=sample.prompts, panoptic=sample.panoptic, condition=shown)


def batches_by_size(sizes: Sequence[tuple[int, int]], batch_size: int) -> Iterator[list[int]]:
    """Positions of pictures to draw together: of one size, at most ``batch_size``, in order within a size.

    Raises:
        ValueError: ``batch_size`` is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    for size in dict.fromkeys(sizes):
        same = [i for i, other in enumerate(sizes) if other == size]
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]
