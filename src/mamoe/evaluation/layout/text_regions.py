"""Does each instance look like its own prompt? CLIP's agreement of the instance with the text.

The cut-out of an instance is its bounding box with every pixel outside the object black: what instance prompts are
written from. The score is the mean cosine between CLIP's features of cut-out and prompt (as CLIPScore, Hessel et al.
2021, without its factor and cut-off), over instances of at least ``MIN_AREA`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, UInt8
from PIL import Image
from torch import Tensor

from mamoe.errors import ConfigError
from mamoe.evaluation.layout.asked import Layout
from mamoe.evaluation.layout.attributes import MIN_AREA
from mamoe.storage.fingerprints import weights_hash


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextRegions:
    """A CLIP model that compares instances with their prompts."""

    network: Any
    processor: Any
    identity: str

    @torch.no_grad()
    def __call__(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], layouts: Sequence[Layout]
    ) -> Float64[np.ndarray, "n 2"]:
        """Sum of the cosines and number of instances of every picture."""
        return np.array([self._picture(image, layout) for image, layout in zip(images, layouts, strict=True)])

    def _picture(self, image: np.ndarray, layout: Layout) -> tuple[float, int]:
        areas = np.bincount(layout.panoptic.segment_id.ravel())
        chosen = [i for i in sorted(layout.prompts) if i < len(areas) and areas[i] >= MIN_AREA]
        if not chosen:
            return 0.0, 0
        cut = [Image.fromarray(cut_out(image, layout.panoptic.segment_id == i)) for i in chosen]
        words = [layout.prompts[i] for i in chosen]
        given = self.processor(images=cut, text=words, return_tensors="pt", padding=True, truncation=True)
        output = self.network(**{name: value.to(self.network.device) for name, value in given.items()})
        return float(_cosines(output.image_embeds, output.text_embeds).sum()), len(chosen)


def load_text_regions(source: str, device: str = "cpu") -> TextRegions:
    """A CLIP model by hub name or local folder.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from transformers import CLIPModel, CLIPProcessor

    try:
        network: Any = CLIPModel.from_pretrained(source, use_safetensors=True)
        processor = CLIPProcessor.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot load CLIP from {source}: {str(error).splitlines()[0]}") from None
    network = network.to(device).eval()
    return TextRegions(network=network, processor=processor, identity=f"CLIP {weights_hash(network)}")


def cut_out(image: UInt8[np.ndarray, "H W 3"], mask: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """The bounding box of ``mask``, black outside of it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return np.where(mask[box][..., None], image[box], 0).astype(np.uint8)


def _cosines(images: Float[Tensor, "k d"], texts: Float[Tensor, "k d"]) -> Float[Tensor, "k"]:
    return (F.normalize(images.float(), dim=-1) * F.normalize(texts.float(), dim=-1)).sum(dim=-1)
